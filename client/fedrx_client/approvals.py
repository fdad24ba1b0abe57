"""A site's approvals on its disk: one signed file a study, found anew before every answer.

Whoever can write to the folder but has not the site's key can neither make an approval nor change
one. Each approval and revocation is a line of the audit log.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedrx_client.approval import (
    DIGEST,
    Approval,
    ApprovalForged,
    ApprovalRevoked,
    NotApproved,
    day,
    nothing_for,
)
from fedrx_client.audit import AuditEntry, AuditKind, AuditLog
from fedrx_client.identity import SiteIdentity
from fedrx_client.ledger import PrivacyCap
from fedrx_client.pins import read_file
from fedrx_protocol.canonical import from_base64, from_json, packed, to_base64, to_json
from fedrx_protocol.errors import FedRxError
from fedrx_protocol.private_files import locked, sync_folder, unusable, write_private

LEAST_PREFIX = 8  # of a digest; a shorter one could be typed by accident


@dataclass(frozen=True)
class Revocation:
    """When an approval was taken back, and by whom."""

    time: int
    by: str


@dataclass(frozen=True)
class KeptApproval:
    """An approval as it stands in its file, its signatures verified.

    Attributes:
        approval: what was allowed.
        revocation: None while it was not taken back.
    """

    approval: Approval
    revocation: Revocation | None = None

    def state(self, now: int) -> str:
        """One word for a table: in force, revoked or expired."""
        if self.revocation is not None:
            return "revoked"
        return "in force" if now <= self.approval.expires_at else "expired"


class Approvals:
    """The approvals in a site's folder, one file a study; safe from several processes.

    Args:
        folder: the site's folder.

    Raises:
        FolderUnusable: there is no such folder.
        SiteDamaged: it is not what was written.
    """

    def __init__(self, folder: Path) -> None:
        identity = SiteIdentity(folder)
        # Read once: it is needed before every answer. Rotated keys need a new start anyway.
        self._public_key = identity.public_key
        self._audit_path = identity.audit_path
        self._folder = folder / "approvals"

    def add(self, approval: Approval, key: Ed25519PrivateKey) -> None:
        """Sign an approval and keep it; one that stood there for the same study is replaced.

        Args:
            approval: what the site allows.
            key: the site's identity key.

        Raises:
            ApprovalForged: the key is not the site's.
            LogUnwritable: the audit log cannot be written; nothing was approved.
        """
        until = day(approval.expires_at)
        cap = "no cap" if approval.cap is None else f"cap epsilon {approval.cap.epsilon:g}"
        text = f"study '{approval.name}' approved by {approval.by} until {until}, {cap}"
        self._require_own(key)
        # Logged first: a line without an approval is harmless, the other way round is not.
        self._record("approval", approval.study, text, approval.approved_at)
        self._write(KeptApproval(approval), key)

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
        """
        self._require_own(key)
        approval = self.kept(study).approval
        # Written first: if the log cannot be written, the site is out all the same.
        self._write(KeptApproval(approval, Revocation(now, by)), key)
        self._record("revocation", study, f"study '{approval.name}': taken back by {by}", now)
        return approval

    def find(self, study: str, now: int) -> Approval:
        """The approval of this study that is in force.

        Args:
            study: digest.
            now: unix seconds.

        Raises:
            NotApproved: there is none.
            ApprovalForged: the file is not what this site signed with the key in use.
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
        """Every approval, oldest first, whether in force or not.

        Raises:
            ApprovalForged: a file is not what this site signed.
        """
        found = [self.kept(path.stem) for path in self._folder.glob("*.json")]
        return tuple(
            sorted(found, key=lambda kept: (kept.approval.approved_at, kept.approval.name))
        )

    def digest_of(self, study: str) -> str:
        """The digest of the study that a person means by its name, or by how its digest begins.

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
        """What stands in a study's file, verified against the key in use, in force or not.

        Raises:
            NotApproved: no such file.
            ApprovalForged: it is not what this site signed.
        """
        path = self._path(study)
        if not path.is_file():
            raise NotApproved(nothing_for(study))
        try:
            kept = _read(read_file(path), self._public_key)
            kept.approval.require_study(study)
        except (FedRxError, InvalidSignature, KeyError, TypeError, AttributeError, ValueError):
            raise ApprovalForged(
                f"{path}: is not what this site signed with the keys in use: it was changed, or "
                "the keys were rotated; look at it, then approve again."
            ) from None
        return kept

    def _path(self, study: str) -> Path:
        # The digest may come from the wire: it must not name a file elsewhere.
        if not DIGEST.fullmatch(study):
            raise NotApproved(f"{study[:80]!r} is no study digest of 64 hexadecimal digits.")
        return self._folder / f"{study}.json"

    def _require_own(self, key: Ed25519PrivateKey) -> None:
        if key.public_key().public_bytes_raw() != self._public_key:
            raise ApprovalForged("an approval is signed with the site's own key in use, no other.")

    def _write(self, kept: KeptApproval, key: Ed25519PrivateKey) -> None:
        with unusable(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        content = _content(kept)
        signed = {**content, "signature": to_base64(key.sign(_signed_bytes(content)))}
        with locked(self._folder):
            write_private(self._path(kept.approval.study), to_json(signed))
        with unusable(self._folder):
            sync_folder(self._folder)

    def _record(self, kind: AuditKind, study: str, text: str, now: int) -> None:
        AuditLog(self._audit_path).record(AuditEntry(time=now, kind=kind, study=study, reason=text))


def _content(kept: KeptApproval) -> dict[str, Any]:
    return {
        "approval": kept.approval.to_document(),
        "revocation": None if kept.revocation is None else asdict(kept.revocation),
    }


def _signed_bytes(content: Mapping[str, Any]) -> bytes:
    """One signature over both halves, so that no half can be exchanged or left out."""
    return packed("fedrx/1 approval", to_json(dict(content)))


def _read(data: bytes, identity: bytes) -> KeptApproval:
    """Parse and verify; whatever is wrong with it raises one of several errors."""
    document = from_json(data, source="the approval")
    signature = from_base64(document.pop("signature"), source="the approval's signature")
    Ed25519PublicKey.from_public_bytes(identity).verify(signature, _signed_bytes(document))
    values, revoked = document["approval"], document["revocation"]
    cap = None if values["cap"] is None else PrivacyCap(**values["cap"])
    approval = Approval(**{**values, "cap": cap})
    return KeptApproval(approval, None if revoked is None else Revocation(**revoked))
