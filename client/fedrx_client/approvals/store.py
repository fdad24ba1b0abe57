"""A site's approvals on its disk: one signed file a study, read again before every answer.

A person who can write to the folder but lacks the site's key can neither make an approval nor
change one. Each approval and revocation is a line of the audit log. A file is valid only if the
newest line about its study names it: an older copy brings nothing back into force.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedrx_client.approvals.approval import (
    DIGEST,
    Approval,
    ApprovalForged,
    ApprovalOutdated,
    ApprovalRevoked,
    NotApproved,
    day,
    nothing_for,
)
from fedrx_client.identity.identity import SiteIdentity
from fedrx_client.identity.pins import read_file
from fedrx_client.records.audit_log import (
    MAX_REASON_CHARACTERS,
    AuditEntry,
    AuditKind,
    AuditLog,
    about_approval,
    existing_log,
)
from fedrx_client.records.ledger import PrivacyCap
from fedrx_client.records.ledger_file import LedgerFile
from fedrx_common.canonical_json import from_base64, from_json, packed, to_base64, to_json
from fedrx_common.errors import FedRxError, MisuseError
from fedrx_common.files import locked, sync_folder, unusable, write_private
from fedrx_common.text import shortened

LEAST_PREFIX = 8  # of a digest; a shorter one could be typed by accident


@dataclass(frozen=True)
class Revocation:
    """When an approval was taken back, and by whom."""

    time: int
    by: str


@dataclass(frozen=True)
class KeptApproval:
    """An approval as its file holds it, its signatures verified.

    Attributes:
        approval: what was allowed.
        revocation: None while it was not taken back.
    """

    approval: Approval
    revocation: Revocation | None = None

    def state(self, now: int) -> str:
        """Name its state in one word: in force, revoked or expired."""
        if self.revocation is not None:
            return "revoked"
        return "in force" if now <= self.approval.expires_at else "expired"


class Approvals:
    """The approvals in a site's folder, one file a study; safe from several processes.

    Args:
        folder: the site's folder.
        log: its audit log, if it is open already.

    Raises:
        FolderUnusable: the folder is missing.
        SiteDamaged: it is not what was written.
        AuditDamaged: the audit log is gone, or is not what was written.
    """

    def __init__(self, folder: Path, log: AuditLog | None = None) -> None:
        identity = SiteIdentity(folder)
        # Read once: it is needed before every answer. Rotated keys need a new start anyway.
        self._public_key = identity.public_key
        self._log = log or existing_log(identity.audit_path)
        self._site = folder
        self._folder = folder / "approvals"

    def add(self, approval: Approval, key: Ed25519PrivateKey) -> None:
        """Sign an approval and keep it, in place of an earlier one for the same study.

        Args:
            approval: what the site allows.
            key: the site's identity key.

        Raises:
            ApprovalForged: the key is not the site's.
            LogUnwritable: the audit log cannot be written; nothing was approved.
            LedgerDamaged, AuditDamaged: ledger or log is an older copy; nothing was approved.
        """
        self._require_own(key)
        kept = KeptApproval(approval)
        data = _signed(kept, key)
        with self._memory() as memory:
            memory.store()  # looked at before anything is written
            # Logged first: a line without an approval is harmless, the other way round is not.
            self._record("approval", approval.study, approval.approved_at, _words(kept), data)
            memory.note_log()
        self._write(approval.study, data)

    def revoke(self, study: str, key: Ed25519PrivateKey, *, now: int, by: str) -> Approval:
        """Take an approval back; it is kept and marked, and a running site stops answering.

        Args:
            study: digest.
            key: the site's identity key.
            now: unix seconds.
            by: who takes it back.

        Raises:
            NotApproved: there is none.
            ApprovalForged: the file is not what this site signed, or the key is not the site's.
            LedgerDamaged, AuditDamaged: it was taken back, but ledger or log is an older copy.
        """
        self._require_own(key)
        kept = KeptApproval(self.kept(study).approval, Revocation(now, by))
        data = _signed(kept, key)
        # Written first: if the log cannot be written, the site is out all the same.
        self._write(study, data)
        self._record("revocation", study, now, _words(kept), data)
        with self._memory() as memory:
            memory.note_log()
        return kept.approval

    def find(self, study: str, now: int) -> Approval:
        """Find the approval of this study that is in force.

        Args:
            study: digest.
            now: unix seconds.

        Raises:
            NotApproved: there is none.
            ApprovalForged: the file is not what this site signed with the key in use.
            ApprovalOutdated: it is not the newest that the audit log knows of.
            ApprovalRevoked: it was taken back.
            ApprovalExpired: its time is over.
        """
        kept = self.kept(study)
        if kept.revocation is not None:
            raise ApprovalRevoked(
                f"the approval of study '{kept.approval.name}' was taken back on "
                f"{day(kept.revocation.time)} by {kept.revocation.by}."
            )
        kept.approval.require_time(now)
        return kept.approval

    def all(self) -> tuple[KeptApproval, ...]:
        """Return every valid file's approval, oldest first, whether in force or not.

        Raises:
            AuditDamaged: the audit log is not what this site wrote.
        """
        found = [kept for kept in self._look().values() if isinstance(kept, KeptApproval)]
        return tuple(
            sorted(found, key=lambda kept: (kept.approval.approved_at, kept.approval.name))
        )

    def doubtful(self) -> tuple[str, ...]:
        """Return a sentence for each file that is not valid, and so allows nothing."""
        return tuple(str(one) for one in self._look().values() if isinstance(one, MisuseError))

    def digest_of(self, study: str) -> str:
        """Find a study's digest by the study's name, or by how the digest begins.

        Raises:
            NotApproved: there is none, or there are several.
        """
        found = [
            kept.approval.study
            for kept in self.all()
            if kept.approval.name == study
            or (len(study) >= LEAST_PREFIX and kept.approval.study.startswith(study))
        ]
        if len(found) != 1:
            raise NotApproved(
                f"{'no approval is' if not found else 'several approvals are'} called '{study}': "
                "`fedrx site approvals` lists them; give a name, or a digest's first 8 letters."
            )
        return found[0]

    def kept(self, study: str) -> KeptApproval:
        """Read a study's file, verified against the key in use, whether in force or not.

        Raises:
            NotApproved: no such file.
            ApprovalForged: it is not what this site signed.
            ApprovalOutdated: it is not the newest that the audit log knows of.
            ApprovalRevoked: it is a copy from before it was taken back.
        """
        data = self._data(study)
        try:
            kept = _read(data, self._public_key)
            kept.approval.require_study(study)
        except (FedRxError, InvalidSignature, KeyError, TypeError, AttributeError, ValueError):
            raise ApprovalForged(
                f"{self._path(study)}: is not what this site signed with the keys in use: it was "
                "changed, or the keys were rotated; look at it, then approve again."
            ) from None
        if kept.revocation is None:  # one that was taken back allows nothing, newest or not
            self._require_newest(kept, data)
        return kept

    def verify(self) -> None:
        """Compare each file with the newest line about it, whichever keys signed it.

        Raises:
            ApprovalForged, ApprovalOutdated, ApprovalRevoked: one is not the newest.
            AuditDamaged: the audit log is not what this site wrote.
        """
        for study, found in self._look().items():
            line = self._log.newest_about(about_approval(study))
            data = self._data(study)
            if isinstance(found, MisuseError) and not (line and line.entry.content == _hash(data)):
                raise found

    def _look(self) -> dict[str, KeptApproval | MisuseError]:
        """Read each file, or say why it is not valid, by the study's digest."""
        found: dict[str, KeptApproval | MisuseError] = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                found[path.stem] = self.kept(path.stem)
            except (NotApproved, ApprovalForged, ApprovalOutdated, ApprovalRevoked) as error:
                found[path.stem] = error
        return found

    def _require_newest(self, kept: KeptApproval, data: bytes) -> None:
        approval = kept.approval
        line = self._log.newest_about(about_approval(approval.study))
        if line is not None and _agrees(line.entry, kept, data):
            return
        if line is not None and line.entry.kind == "revocation":
            raise ApprovalRevoked(
                f"the approval of study '{approval.name}' was taken back on "
                f"{day(line.entry.time)}: {self._path(approval.study)} is a copy from before that."
            )
        said = "has no line about it" if line is None else f"names another in line {line.number}"
        raise ApprovalOutdated(
            f"{self._path(approval.study)}: is not the newest approval of study "
            f"'{approval.name}': the audit log {said}; look at it, then approve again."
        )

    def _data(self, study: str) -> bytes:
        path = self._path(study)
        if not path.is_file():
            raise NotApproved(nothing_for(study))
        return read_file(path)

    def _path(self, study: str) -> Path:
        # The digest may come from the wire: it must not name a file elsewhere.
        if not DIGEST.fullmatch(study):
            raise NotApproved(f"{study[:80]!r} is no study digest of 64 hexadecimal digits.")
        return self._folder / f"{study}.json"

    def _require_own(self, key: Ed25519PrivateKey) -> None:
        if key.public_key().public_bytes_raw() != self._public_key:
            raise ApprovalForged("an approval is signed with the site's own key in use, no other.")

    def _write(self, study: str, data: bytes) -> None:
        with unusable(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        with locked(self._folder):
            write_private(self._path(study), data)
        with unusable(self._folder):
            sync_folder(self._folder)

    def _record(self, kind: AuditKind, study: str, time: int, text: str, data: bytes) -> None:
        self._log.record(
            AuditEntry(time=time, kind=kind, study=study, reason=text, content=_hash(data))
        )

    @contextmanager
    def _memory(self) -> Iterator[LedgerFile]:
        """Open ledger and guard, to note the log's new line: no older log fits them then."""
        memory = LedgerFile(self._site, self._log)
        try:
            yield memory
        finally:
            memory.close()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _agrees(entry: AuditEntry, kept: KeptApproval, data: bytes) -> bool:
    """Whether a line of the log names this file."""
    if entry.content:
        return entry.content == _hash(data)
    # Earlier releases wrote the same in words.
    return (entry.kind, entry.time, entry.reason) == (
        "approval",
        kept.approval.approved_at,
        _words(kept),
    )


def _words(kept: KeptApproval) -> str:
    """What a person reads in the audit log."""
    approval = kept.approval
    if kept.revocation is not None:
        return f"study '{approval.name}': taken back by {kept.revocation.by}"
    cap = "no cap" if approval.cap is None else f"cap epsilon {approval.cap.epsilon:g}"
    until = day(approval.expires_at)
    words = f"study '{approval.name}' approved by {approval.by} until {until}, {cap}"
    for finding, reason in approval.overrides.items():
        words += f"; overrides red finding '{finding}': {reason}"
    return shortened(words, MAX_REASON_CHARACTERS)


def _signed(kept: KeptApproval, key: Ed25519PrivateKey) -> bytes:
    content = {
        "approval": kept.approval.to_document(),
        "revocation": None if kept.revocation is None else asdict(kept.revocation),
    }
    return to_json({**content, "signature": to_base64(key.sign(_signed_bytes(content)))})


def _signed_bytes(content: Mapping[str, Any]) -> bytes:
    """Return what one signature covers: both halves, so that none can be exchanged or left out."""
    return packed("fedrx/1 approval", to_json(dict(content)))


def _read(data: bytes, identity: bytes) -> KeptApproval:
    """Parse and verify; each fault raises one of several errors."""
    document = from_json(data, source="the approval")
    signature = from_base64(document.pop("signature"), source="the approval's signature")
    Ed25519PublicKey.from_public_bytes(identity).verify(signature, _signed_bytes(document))
    values, revoked = document["approval"], document["revocation"]
    cap = None if values["cap"] is None else PrivacyCap(**values["cap"])
    approval = Approval(**{**values, "cap": cap, "sites": tuple(values.get("sites", ()))})
    return KeptApproval(approval, None if revoked is None else Revocation(**revoked))
