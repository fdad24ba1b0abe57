"""The first content of a consortium folder, and the two things that are written again later."""

import shutil
from collections.abc import Sequence
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from fedrx_common.chained_log import ChainFile
from fedrx_common.files import new_folder, pem_of, sync_folder, write_private, write_public
from fedrx_protocol.trust.roster import Roster, sign_roster
from fedrx_server.consortium.certificates import (
    ServerCertificate,
    issue_server_certificate,
    make_authority,
)
from fedrx_server.consortium.files import ConsortiumFiles, ConsortiumInfo, write_about
from fedrx_server.consortium.history import edition

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
        HostInvalid: a host is neither a DNS name nor an IP address.
        PassphraseWeak: fewer than 12 characters.
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
