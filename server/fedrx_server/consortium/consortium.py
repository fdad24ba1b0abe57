"""The consortium folder: made once, changed under a lock, never half-changed.

A new roster comes into force when its file appears under `rosters/`; then it is logged, and only
then does `roster.json` show it. Whatever a crash left undone of that is done when the folder is
opened next, so nothing is handed out that the log does not name.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrx_common.chained_log import ChainFile
from fedrx_common.errors import MisuseError
from fedrx_common.files import FolderDamaged, locked, new_folder, unusable, write_public
from fedrx_common.key_files import is_encrypted, load_p384
from fedrx_common.text import fault_in, quoted
from fedrx_protocol.trust.enrolment import EnrolmentRequest, SignedEnrolmentRequest
from fedrx_protocol.trust.roster import Roster, SignedRoster, SiteEntry, fingerprint, sign_roster
from fedrx_server.consortium.certificates import (
    Authority,
    general_name,
    hosts_of,
    issue_server_certificate,
)
from fedrx_server.consortium.enrolment import Register, admit, dismiss, register_of
from fedrx_server.consortium.files import ConsortiumFiles, ConsortiumInfo, signing_key
from fedrx_server.consortium.history import (
    LOG_LABEL,
    LogKind,
    edition,
    found,
    install,
    keep_request,
    log_entry,
    read_requests,
    read_rosters,
)

MAX_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class Member:
    """A site on the roster, with the SuperNode key it proved to hold."""

    entry: SiteEntry
    request: EnrolmentRequest


class Consortium:
    """An existing consortium folder; make one with `Consortium.create`.

    Raises:
        FolderUnusable: it is not there, or cannot be read.
        FolderDamaged: a file in it is not what was written.
    """

    def __init__(self, folder: Path) -> None:
        self.files = ConsortiumFiles(folder)
        self._about = ConsortiumInfo.read(self.files.about)
        with locked(folder):
            self._settle()

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        name: str,
        hosts: Sequence[str],
        now: int,
        passphrase: str | None = None,
    ) -> "Consortium":
        """Make keys, CA, TLS certificate, SuperExec secret and an empty roster; all or nothing.

        Args:
            folder: must not exist.
            name: what people call the consortium, at most 64 characters.
            hosts: DNS names and IP addresses under which sites reach the coordinator.
            now: unix seconds.
            passphrase: encrypts the signing key and the CA's, if given.

        Raises:
            FolderUnusable: it does.
            AddressInvalid: a host is neither a DNS name nor an IP address.
            KeyUnusable: fewer than 12 characters.
        """
        key = Ed25519PrivateKey.generate()
        about = ConsortiumInfo(name, key.public_key().public_bytes_raw(), now)
        for host in hosts:
            general_name(host)
        with new_folder(folder) as partial:
            found(ConsortiumFiles(partial), about, key, hosts, passphrase)
        return cls(folder)

    @property
    def name(self) -> str:
        """The name that people use for it."""
        return self._about.name

    @property
    def public_key(self) -> bytes:
        """The consortium's raw Ed25519 public key, 32 bytes."""
        return self._about.consortium

    @property
    def fingerprint(self) -> str:
        """The key's fingerprint, which sites must check out of band before they join."""
        return fingerprint(self._about.consortium)

    @property
    def needs_passphrase(self) -> bool:
        """Whether the signing key is encrypted."""
        return is_encrypted(self.files.signing_key)

    @property
    def certificate(self) -> x509.Certificate:
        """The present TLS certificate."""
        return _certificate(self.files.server_certificate)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of the present TLS certificate, without loopback."""
        return hosts_of(self.certificate)

    @property
    def log(self) -> ChainFile:
        """The hash-chained log of what was done here, verified.

        Raises:
            ChainBroken: names the line that was changed, removed or reordered.
        """
        return ChainFile(self.files.log, LOG_LABEL)

    @property
    def roster(self) -> SignedRoster:
        """The roster in force."""
        return self._history()[-1]

    @property
    def members(self) -> tuple[Member, ...]:
        """The sites on the roster with their SuperNode keys, to register at the SuperLink."""
        register = self._register()
        return tuple(
            Member(entry, register.requests[entry.identity]) for entry in register.roster.sites
        )

    def preview(
        self, requests: Sequence[SignedEnrolmentRequest], *, now: int, rotate: bool = False
    ) -> Roster:
        """The roster that `enroll` would sign; nothing is changed, and no key is needed.

        Raises:
            EnrolmentForged, EnrolmentExpired: a request does not verify.
            EnrolmentRefused: an id or key is taken or was given up, or a site that rotates is not
                on the roster.
        """
        verified = [request.verify(now) for request in requests]
        return admit(self._register(), verified, now=now, rotate=rotate)

    def enroll(
        self,
        requests: Sequence[SignedEnrolmentRequest],
        *,
        now: int,
        passphrase: str | None = None,
        rotate: bool = False,
    ) -> SignedRoster:
        """Verify requests and sign a roster that has them; all of them or none.

        Args:
            requests: what sites sent; compare each fingerprint with its site by telephone first.
            now: unix seconds.
            passphrase: of the signing key.
            rotate: these sites are on the roster and replace their keys.

        Raises:
            EnrolmentForged, EnrolmentExpired: a request does not verify.
            EnrolmentRefused: an id or key is taken or was given up, or a site that rotates is not
                on the roster.
            KeyUnusable: the passphrase is missing or wrong.
        """
        with self._changing(passphrase) as key:
            roster = self.preview(requests, now=now, rotate=rotate)
            for request in requests:
                keep_request(self.files, request)
            sites = ", ".join(sorted(signed.request.site for signed in requests))
            return self._bring_into_force(
                sign_roster(roster, key), "rotate" if rotate else "enrol", sites, now
            )

    def revoke(
        self, site: str, *, reason: str, now: int, passphrase: str | None = None
    ) -> SignedRoster:
        """Sign a roster without `site`; its keys never come back.

        Raises:
            EnrolmentRefused: it is not on the roster.
            MisuseError: no reason in one line was given.
            KeyUnusable: the passphrase is missing or wrong.
        """
        fault = fault_in(reason, least=1, most=MAX_REASON_CHARACTERS)
        if fault is not None:
            raise MisuseError(f"The reason {quoted(reason)} {fault}; give it with --reason.")
        with self._changing(passphrase) as key:
            signed = sign_roster(dismiss(self._register(), site), key)
            return self._bring_into_force(signed, "revoke", f"{site}: {reason}", now)

    def renew(
        self, *, now: int, hosts: Sequence[str] = (), passphrase: str | None = None
    ) -> tuple[str, ...]:
        """Make a new TLS key and certificate; sites notice nothing.

        Args:
            now: unix seconds.
            hosts: new hosts; the present ones if empty.
            passphrase: of the CA's key.

        Returns:
            The hosts the certificate names, without loopback.

        Raises:
            AddressInvalid: a host is neither a DNS name nor an IP address.
            KeyUnusable: the passphrase is missing or wrong.
        """
        with locked(self.files.folder), unusable(self.files.folder):
            key = load_p384(self.files.authority_key, passphrase)
            authority = Authority(key, _certificate(self.files.authority))
            issued = issue_server_certificate(authority, hosts or self.hosts, now)
            named = hosts_of(issued.certificate)
            self._record("renew", ", ".join(named) or "loopback only", now)
            install(self.files, issued)
            return named

    @contextmanager
    def _changing(self, passphrase: str | None) -> Iterator[Ed25519PrivateKey]:
        with locked(self.files.folder), unusable(self.files.folder):
            self._settle()
            yield signing_key(self.files, self._about, passphrase)

    def _bring_into_force(
        self, signed: SignedRoster, kind: LogKind, about: str, now: int
    ) -> SignedRoster:
        write_public(edition(self.files, signed.roster.serial), signed.to_json())
        self._record(kind, about, now, signed.roster)
        write_public(self.files.roster, signed.to_json())
        return signed

    def _settle(self) -> None:
        """Finish what a crash interrupted: an unlogged roster, an old `roster.json`."""
        signed = self.roster
        log = self.log
        lines = log.lines()
        logged = [line.entry.get("serial") for line in lines]
        if signed.roster.serial not in logged:
            # A time without a clock: that of the line before.
            time = int(lines[-1].entry["time"]) if lines else self._about.created
            log.append(log_entry("recover", "a change that was cut off", time, signed.roster))
        shown = self.files.roster
        if not shown.exists() or shown.read_bytes() != signed.to_json():
            write_public(shown, signed.to_json())

    def _record(self, kind: LogKind, about: str, now: int, roster: Roster | None = None) -> None:
        self.log.append(log_entry(kind, about, now, roster))

    def _register(self) -> Register:
        return register_of(
            (signed.roster for signed in self._history()),
            read_requests(self.files),
            where=self.files.requests,
        )

    def _history(self) -> tuple[SignedRoster, ...]:
        return read_rosters(self.files, self._about.consortium)


def _certificate(path: Path) -> x509.Certificate:
    with unusable(path):
        data = path.read_bytes()
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError:
        raise FolderDamaged(f"{path}: is no certificate; restore it from a backup.") from None
