"""What a consortium folder remembers: every roster it signed, every request it accepted.

Read anew and verified each time; a file that was changed is an error, never a fact.
"""

import contextlib
from pathlib import Path

from fedrx_common.errors import FedRxError
from fedrx_common.files import unusable, write_public
from fedrx_protocol.trust.enrolment import EnrolmentRequest, SignedEnrolmentRequest
from fedrx_protocol.trust.roster import RosterEntryExpired, SignedRoster
from fedrx_server.consortium.files import ConsortiumDamaged, ConsortiumFiles


def edition(files: ConsortiumFiles, serial: int) -> Path:
    """Where the roster of this serial stands."""
    return files.rosters / f"{serial:06d}.json"


def read_rosters(files: ConsortiumFiles, consortium: bytes) -> tuple[SignedRoster, ...]:
    """All rosters, from serial 0; each one's signature was verified, its validity was not.

    Args:
        files: the folder.
        consortium: its raw public key, 32 bytes.

    Raises:
        ConsortiumDamaged: one is missing or changed.
    """
    with unusable(files.rosters):
        count = len(list(files.rosters.glob("*.json")))
    if not count:
        raise ConsortiumDamaged(f"{files.rosters}: holds no roster; restore it from a backup.")
    return tuple(
        _read_roster(edition(files, serial), serial, consortium) for serial in range(count)
    )


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
        ConsortiumDamaged: one was changed.
    """
    with unusable(files.requests):
        paths = sorted(files.requests.glob("*.json"))
    return tuple(_read_request(path) for path in paths)


def _read_roster(path: Path, serial: int, consortium: bytes) -> SignedRoster:
    with unusable(path):
        data = path.read_bytes()
    try:
        signed = SignedRoster.from_json(data)
        with contextlib.suppress(RosterEntryExpired):
            # Only the signature counts: the coordinator must be able to replace an expired entry.
            signed.verify(consortium, 0)
    except FedRxError as error:
        raise ConsortiumDamaged(f"{path}: {error} Restore it from a backup.") from None
    if signed.roster.serial != serial:
        raise ConsortiumDamaged(
            f"{path}: holds serial {signed.roster.serial}; restore it from a backup."
        )
    return signed


def _read_request(path: Path) -> EnrolmentRequest:
    with unusable(path):
        data = path.read_bytes()
    try:
        signed = SignedEnrolmentRequest.from_json(data)
        return signed.verify(signed.request.time)
    except FedRxError as error:
        raise ConsortiumDamaged(f"{path}: {error} Restore it from a backup.") from None
