"""The site's folder of trust: its private keys, whom it trusts, and how that changes.

`site.json` says which generation of keys is in use and which consortium is pinned; it is replaced
in one step, so a crash leaves the old state or the new one. What came from outside is verified
first and stored after. Private keys are made here and never leave.
"""

import shutil
from pathlib import Path

from fedrx_client.identity.keys import REQUEST, Keys, KeysFolder, RequestedEntry, request_of
from fedrx_client.identity.pins import (
    JoinRefused,
    Pin,
    SiteDamaged,
    SiteState,
    read_file,
    require_fingerprint,
    require_newest_pin,
    require_not_older,
    verified_authority,
    verified_roster,
)
from fedrx_client.records.audit_log import PIN, AuditEntry, AuditLog, existing_log
from fedrx_common.errors import FedRxError, MisuseError
from fedrx_common.files import (
    FolderUnusable,
    locked,
    new_folder,
    unusable,
    write_private,
    write_public,
)
from fedrx_common.key_files import is_encrypted
from fedrx_common.text import command
from fedrx_protocol.trust.enrolment import SignedEnrolmentRequest
from fedrx_protocol.trust.roster import Roster, SignedRoster, fingerprint

AUDIT = "audit.log"
STATE = "site.json"
DEFAULT_VALIDITY_S = 2 * 365 * 86_400


class NotJoined(MisuseError):
    """The site has pinned no consortium yet, so it may trust no roster."""


class NotEnrolled(MisuseError):
    """The site's key is not on the roster: never enrolled, revoked, or rotated."""


class SiteIdentity:
    """An existing site folder; make one with `SiteIdentity.create`.

    Raises:
        FolderUnusable: it is not there, or cannot be read.
        SiteDamaged: `site.json` is not what was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with unusable(self._state_path):
            there = self._state_path.is_file()
        if not there:
            init = command("fedrx", "site", "init", folder)
            raise FolderUnusable(f"{folder}: is no site folder; `{init}` makes one.")
        self._state = SiteState.read(self._state_path)

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        site: str,
        name: str,
        now: int,
        passphrase: str | None = None,
        validity_s: int = DEFAULT_VALIDITY_S,
    ) -> "SiteIdentity":
        """Make keys and the enrolment request; all or nothing.

        Args:
            folder: must not exist.
            site: id wanted on the roster: 1 to 64 letters, digits, '.', '_' and '-'.
            name: what people call it.
            now: unix seconds.
            passphrase: encrypts both private keys, if given; Flower's own SuperNode can then not
                read its key, FedRx can.
            validity_s: how long the entry on the roster shall be valid, in seconds.

        Raises:
            FolderUnusable: it does.
            EnrolmentInvalid: id, name or validity cannot be used.
            KeyUnusable: fewer than 12 characters.
        """
        with new_folder(folder) as partial:
            wish = RequestedEntry(site, name, validity_s)
            signed = KeysFolder(partial / "keys-0001").make(wish, now=now, passphrase=passphrase)
            state = SiteState(site=site, name=name, generation=1, pin=None)
            write_private(partial / STATE, state.to_json())
            write_public(partial / REQUEST, signed.to_json())
            # From its first second on, a folder without an audit log is one that lost it.
            text = f"keys made, identity {signed.request.fingerprint}"
            AuditLog(partial / AUDIT).record(AuditEntry(time=now, kind="identity", reason=text))
        return cls(folder)

    @property
    def site(self) -> str:
        """Its id."""
        return self._state.site

    @property
    def name(self) -> str:
        """What people call it."""
        return self._state.name

    @property
    def request(self) -> SignedEnrolmentRequest:
        """The request of the newest keys: those in use, or those a rotation waits to use."""
        return self._keys(self._newest()).request()

    @property
    def request_path(self) -> Path:
        """The request as a file, to send to the coordinator."""
        return self.folder / REQUEST

    @property
    def public_key(self) -> bytes:
        """The identity key in use, its public half: raw Ed25519, 32 bytes."""
        return self._in_use.request().request.identity

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the identity key in use."""
        return fingerprint(self.public_key)

    @property
    def needs_passphrase(self) -> bool:
        """Whether the private keys in use are encrypted."""
        return is_encrypted(self._in_use.identity)

    @property
    def request_needs_passphrase(self) -> bool:
        """Whether the newest keys, which sign the request, are encrypted."""
        return is_encrypted(self._keys(self._newest()).identity)

    @property
    def supernode_key_path(self) -> Path:
        """What `flower-supernode --auth-supernode-private-key` reads, if not encrypted."""
        return self._in_use.supernode

    @property
    def authority_path(self) -> Path:
        """The pinned CA certificate, for `--root-certificates`."""
        return self.folder / "ca.crt"

    @property
    def offered_path(self) -> Path:
        """A newer roster that a coordinator offered and no person here has accepted yet."""
        return self.folder / "roster.offered.json"

    @property
    def audit_path(self) -> Path:
        """The file of the site's audit log (`fedrx_client.records.audit_log.AuditLog`)."""
        return self.folder / AUDIT

    @property
    def joined(self) -> bool:
        """Whether a consortium is pinned."""
        return self._state.pin is not None

    @property
    def pin(self) -> Pin:
        """The consortium this site trusts.

        Raises:
            NotJoined: none yet.
        """
        if self._state.pin is None:
            raise NotJoined(
                f"{self.folder}: this site has joined no consortium; run `fedrx site join` with "
                "the roster, the CA and the fingerprint that the coordinator gave you."
            )
        return self._state.pin

    def keys(self, passphrase: str | None = None) -> Keys:
        """Read the private keys in use.

        Raises:
            KeyUnusable: they are damaged or open to others on this machine; or the passphrase is
                missing or wrong.
        """
        return self._in_use.load(passphrase)

    def roster(self, now: int) -> Roster:
        """Read the roster on disk; it must fit the pin and name this site's key in use.

        Raises:
            NotJoined: no consortium is pinned.
            JoinRefused: the roster is expired, or was changed on disk.
            NotEnrolled: the key in use is not on it.
        """
        pin = self.pin
        roster = verified_roster(read_file(self._roster_path), pin.consortium, now)
        require_not_older(pin, roster)
        if self._generation_on(roster) != self._state.generation:
            raise NotEnrolled(
                f"Roster {roster.serial} names other keys of this site than those in use; run "
                "`fedrx site join` again."
            )
        return roster

    def authority(self, now: int) -> bytes:
        """Read the pinned CA certificate, PEM.

        Raises:
            NotJoined: no consortium is pinned.
            JoinRefused: `ca.crt` is not the consortium's, or its time is over.
        """
        consortium = self.pin.consortium
        return verified_authority(read_file(self.authority_path), consortium, now)

    def join(
        self,
        roster: bytes,
        *,
        now: int,
        fingerprint: str | None = None,
        authority: bytes | None = None,
    ) -> Roster:
        """Verify what the coordinator handed out, then trust it.

        The first time pins the consortium, so `fingerprint` and `authority` are needed. Later a
        roster alone is enough: it takes rotated keys into use and removes the old ones.

        Args:
            roster: the content of roster.json.
            now: unix seconds.
            fingerprint: the consortium's, received out of band.
            authority: the content of ca.crt.

        Raises:
            NotJoined: the first time, without a fingerprint or CA.
            JoinRefused: not signed by that consortium, expired, or older than what we have.
            NotEnrolled: no key of this site is on it.
            SiteDamaged: older than the audit log knows of.
        """
        with locked(self.folder):
            self._state = SiteState.read(self._state_path)
            known = self._state.pin
            if known is None and fingerprint is None:
                raise NotJoined(
                    "The first time, give --fingerprint with what the coordinator read to you on "
                    "the telephone."
                )
            if fingerprint is not None:
                verified = verified_roster(roster, require_fingerprint(fingerprint), now)
            if known is not None:
                verified = verified_roster(roster, known.consortium, now)
                require_not_older(known, verified)
            consortium = SignedRoster.from_json(roster).consortium
            if authority is None and known is None:
                raise NotJoined("The first time, give --ca with the coordinator's ca.crt.")
            given = read_file(self.authority_path) if authority is None else authority
            pem = verified_authority(given, consortium, now)
            generation = self._generation_on(verified)
            pin = Pin(consortium, verified.serial, verified.digest)
            _require_known(pin, existing_log(self.audit_path), self._state_path)
            write_public(self.authority_path, pem)
            write_public(self._roster_path, roster)
            # The new state comes into force first; then the private keys that it gave up go.
            state = SiteState(self.site, self.name, generation, pin)
            write_private(self._state_path, state.to_json())
            self._state = state
            for older in self._generations():
                if older < generation:
                    shutil.rmtree(self._keys(older).folder)
            self._forget_offered(verified)
        return verified

    def rotate(
        self, *, now: int, passphrase: str | None = None, validity_s: int = DEFAULT_VALIDITY_S
    ) -> SignedEnrolmentRequest:
        """Make the next keys and their request; the present keys stay in use until `join`.

        Args:
            now: unix seconds.
            passphrase: encrypts the new keys, if given.
            validity_s: how long the new entry shall be valid, in seconds.

        Raises:
            KeyUnusable: fewer than 12 characters.
        """
        with locked(self.folder):
            wish = RequestedEntry(self.site, self.name, validity_s)
            keys = self._keys(self._newest() + 1)
            signed = keys.make(wish, now=now, passphrase=passphrase)
            write_public(self.request_path, signed.to_json())
        return signed

    def renew_request(
        self, *, now: int, passphrase: str | None = None, validity_s: int = DEFAULT_VALIDITY_S
    ) -> SignedEnrolmentRequest:
        """Sign the newest keys' request again, with the present time; the old one expires.

        Raises:
            KeyUnusable: the passphrase is missing or wrong.
        """
        with locked(self.folder):
            keys = self._keys(self._newest())
            wish = RequestedEntry(self.site, self.name, validity_s)
            signed = request_of(keys.load(passphrase), wish, now)
            keys.keep(signed)
            write_public(self.request_path, signed.to_json())
        return signed

    @property
    def _state_path(self) -> Path:
        return self.folder / STATE

    @property
    def _roster_path(self) -> Path:
        return self.folder / "roster.json"

    @property
    def _in_use(self) -> KeysFolder:
        return self._keys(self._state.generation)

    def _keys(self, generation: int) -> KeysFolder:
        return KeysFolder(self.folder / f"keys-{generation:04d}")

    def _generations(self) -> list[int]:
        return sorted(int(path.name[5:]) for path in self.folder.glob("keys-[0-9]*"))

    def _newest(self) -> int:
        return max(self._generations(), default=self._state.generation)

    def _generation_on(self, roster: Roster) -> int:
        """Find which generation of this site's keys the roster names."""
        entry = roster.entry(self.site)
        for generation in self._generations():
            own = self._keys(generation).request().request.identity
            if entry is not None and entry.identity == own:
                return generation
        raise NotEnrolled(
            f"No key of site '{self.site}' is on roster {roster.serial}: send {self.request_path} "
            "to the coordinator, or ask there why this site was revoked."
        )

    def _forget_offered(self, trusted: Roster) -> None:
        """Remove an offered roster that is not newer than the one now trusted."""
        try:
            offered = SignedRoster.from_json(self.offered_path.read_bytes()).roster
        except (OSError, FedRxError):
            return
        if offered.serial <= trusted.serial:
            self.offered_path.unlink(missing_ok=True)


def require_known_pin(identity: SiteIdentity, log: AuditLog) -> None:
    """Refuse a folder whose pin is older than its audit log knows of.

    Raises:
        SiteDamaged: it is: an older `site.json` was put back.
        AuditDamaged: the log is not what this site wrote.
    """
    if identity.joined:
        _require_known(identity.pin, log, identity.folder / STATE)


def _require_known(pin: Pin, log: AuditLog, path: Path) -> None:
    line = log.newest_about(PIN)
    if line is not None:
        require_newest_pin(pin, line.entry.content, path)


__all__ = [
    "DEFAULT_VALIDITY_S",
    "JoinRefused",
    "Keys",
    "NotEnrolled",
    "NotJoined",
    "Pin",
    "SiteDamaged",
    "SiteIdentity",
    "require_known_pin",
]
