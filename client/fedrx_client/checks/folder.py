"""Compares the parts of a site's folder with each other: log, ledger, guard, approvals, pins.

An older copy of one of them does not fit the others. Only an older copy of everything does; the
head that the coordinator keeps shows that one (`fedrx_protocol.trust.witness`). Nothing is changed.
"""

from dataclasses import dataclass
from pathlib import Path

from fedrx_client.approvals.store import Approvals
from fedrx_client.identity.identity import SiteIdentity, require_known_pin
from fedrx_client.records.audit_log import existing_log
from fedrx_client.records.database import LEDGER, SiteStore
from fedrx_client.records.ledger import GENESIS, Ledger, LedgerHead
from fedrx_client.records.ledger_file import require_there, verify_states
from fedrx_client.records.sqlite_guard import SqliteGuard
from fedrx_common.hash_chain import ChainHead


@dataclass(frozen=True)
class Verified:
    """The ends of the two records of a site, after everything was found to fit.

    Attributes:
        log: head of the audit log.
        ledger: head of the ledger.
    """

    log: ChainHead
    ledger: LedgerHead


def verify_folder(folder: Path, noted: ChainHead | None = None) -> Verified:
    """Read every line and file of a site's folder again and compare them with each other.

    Args:
        folder: the site's folder.
        noted: a head of the audit log that was written down elsewhere, e.g. at the coordinator.

    Raises:
        AuditDamaged: the audit log is gone, changed, older than the rest or than `noted`.
        LedgerDamaged: ledger or guard are gone, changed, or older than the log.
        ApprovalForged, ApprovalOutdated, ApprovalRevoked: an approval is not the newest.
        SiteDamaged: the pins are older than the log, or were changed.
    """
    identity = SiteIdentity(folder)
    log = existing_log(identity.audit_path)
    head = log.verify(noted)
    require_known_pin(identity, log)
    require_there(folder / LEDGER, log)
    ledger = LedgerHead(0, GENESIS)
    if (folder / LEDGER).is_file():
        with SiteStore(folder / LEDGER) as store:
            ledger = Ledger(store).verify()
            SqliteGuard(store).verify()
            verify_states(store, log)
    Approvals(folder, log).verify()
    return Verified(head, ledger)
