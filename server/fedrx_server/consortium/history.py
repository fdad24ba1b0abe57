"""What a consortium folder keeps: every roster it signed, every request it accepted.

Everything is read and verified each time; a file that was changed is an error.
"""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from fedrx_common.chained_log import ChainFile
from fedrx_common.errors import FedRxError
from fedrx_common.files import (
    FolderDamaged,
    new_folder,
    sync_folder,
    unusable,
    write_private,
    write_public,
)
from fedrx_common.key_files import pem_of
from fedrx_protocol.trust.enrolment import EnrolmentRequest, SignedEnrolmentRequest
from fedrx_protocol.trust.roster import Roster, RosterEntryExpired, SignedRoster, sign_roster
from fedrx_server.consortium.certificates import (
    ServerCertificate,
    issue_server_certificate,
    make_authority,
)
from fedrx_server.consortium.files import ConsortiumFiles, ConsortiumInfo, write_about

LOG_LABEL = "coordinator"
LogKind = Literal["init", "enrol", "rotate", "revoke", "renew", "recover"]


def found(
    files: ConsortiumFiles,
    about: ConsortiumInfo,
    key: Ed25519PrivateKey,
    hosts: Sequence[str],
    passphrase: str | None,
) -> None:
    """Fill a new consortium folder: keys, CA, TLS certificate, secret, roster 0, first log line.

    Raises:
        AddressInvalid: a host is neither a DNS name nor an IP address.
        KeyUnusable: fewer than 12 characters.
    """
    now = about.created
    authority = make_authority(about.name, key, now)
    write_private(files.signing_key, pem_of(key, passphrase))
    write_private(files.authority_key, pem_of(authority.key, passphrase))
    write_public(files.authority, authority.pem)
    install(files, issue_server_certificate(authority, hosts, now))
    write_about(files, about)
    files.requests.mkdir()
    files.rosters.mkdir()
    first = sign_roster(Roster((), serial=0), key)
    write_public(edition(files, 0), first.to_json())
    ChainFile(files.log, LOG_LABEL).append(log_entry("init", about.name, now, first.roster))
    write_public(files.roster, first.to_json())


def install(files: ConsortiumFiles, issued: ServerCertificate) -> None:
    """Put key and certificate in a folder of their own, then swap the link to it in one step."""
    old = sorted(files.folder.glob("tls-*"))
    number = int(old[-1].name.removeprefix("tls-")) + 1 if old else 1
    folder = files.folder / f"tls-{number:06d}"
    with new_folder(folder) as partial:
        write_private(partial / "server.key", pem_of(issued.key, None))
        write_public(partial / "server.crt", issued.certificate.public_bytes(Encoding.PEM))
    link = files.folder / ".tls.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name, target_is_directory=True)
    link.replace(files.tls)
    sync_folder(files.folder)
    for gone in old:
        shutil.rmtree(gone)


def log_entry(kind: LogKind, about: str, now: int, roster: Roster | None) -> dict[str, object]:
    """One line of the coordinator's log; a roster is named by serial and digest."""
    entry: dict[str, object] = {"about": about, "kind": kind, "time": now}
    if roster is not None:
        entry |= {"roster": roster.digest.hex(), "serial": roster.serial}
    return entry


def edition(files: ConsortiumFiles, serial: int) -> Path:
    """The file of the roster of this serial."""
    return files.rosters / f"{serial:06d}.json"


def read_rosters(files: ConsortiumFiles, consortium: bytes) -> tuple[SignedRoster, ...]:
    """All rosters, from serial 0; each one's signature was verified, its validity was not.

    Args:
        files: the folder.
        consortium: its raw public key, 32 bytes.

    Raises:
        FolderDamaged: one is missing or changed.
    """
    with unusable(files.rosters):
        count = len(list(files.rosters.glob("*.json")))
    if not count:
        raise FolderDamaged(f"{files.rosters}: holds no roster; restore it from a backup.")
    rosters = []
    for serial in range(count):
        path = edition(files, serial)
        with unusable(path):
            data = path.read_bytes()
        try:
            signed = SignedRoster.from_json(data)
            with contextlib.suppress(RosterEntryExpired):
                # Only the signature counts: an expired entry must remain replaceable.
                signed.verify(consortium, 0)
        except FedRxError as error:
            raise FolderDamaged(f"{path}: {error} Restore it from a backup.") from None
        if signed.roster.serial != serial:
            raise FolderDamaged(
                f"{path}: holds serial {signed.roster.serial}; restore it from a backup."
            )
        rosters.append(signed)
    return tuple(rosters)


def keep_request(files: ConsortiumFiles, signed: SignedEnrolmentRequest) -> None:
    """Store a request under its key, so that one of a change that was cut off harms nothing."""
    request = signed.request
    stem = f"{request.site}-{request.fingerprint.replace('-', '')[:16].lower()}"
    write_public(files.requests / f"{stem}.json", signed.to_json())
    ssh = request.authentication_ssh.encode("ascii") + b"\n"
    write_public(files.requests / f"{stem}.pub", ssh)


def read_requests(files: ConsortiumFiles) -> tuple[EnrolmentRequest, ...]:
    """All requests that were kept; their age no longer matters, their signatures do.

    Raises:
        FolderDamaged: one was changed.
    """
    with unusable(files.requests):
        paths = sorted(files.requests.glob("*.json"))
    requests = []
    for path in paths:
        with unusable(path):
            data = path.read_bytes()
        try:
            signed = SignedEnrolmentRequest.from_json(data)
            requests.append(signed.verify(signed.request.time))
        except FedRxError as error:
            raise FolderDamaged(f"{path}: {error} Restore it from a backup.") from None
    return tuple(requests)
