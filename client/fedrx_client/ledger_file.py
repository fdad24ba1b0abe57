"""The ledger's file of a live site: opened when it is needed, let go when it is damaged.

A ledger that was lost or put back to an older state would forget what patients have already spent,
so its head is noted in the audit log with every answer, and a ledger that does not continue the
last head noted is refused.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fedrx_client.audit import AuditLog
from fedrx_client.ledger import Ledger, LedgerHead
from fedrx_client.store import LEDGER, LedgerDamaged, SiteStore

_HEAD = re.compile(r"; ledger (\d{1,18}):([0-9a-f]{64})$")


@dataclass(frozen=True)
class _Opened:
    store: SiteStore
    ledger: Ledger
    inode: int


class LedgerFile:
    """The store of one live site, and its ledger.

    Args:
        folder: the site's folder.
        log: the site's audit log, which has the last head.
    """

    def __init__(self, folder: Path, log: AuditLog) -> None:
        self.path = folder / LEDGER
        self._opened: _Opened | None = None
        self._noted = noted_head(log)

    def store(self) -> SiteStore:
        """The open store.

        Raises:
            LedgerDamaged: it is not what this site wrote, or not its newest state.
            LedgerLocked: another process holds it.
            LedgerUnwritable: it cannot be written.
        """
        return self._open().store

    def head(self) -> LedgerHead:
        """Where the ledger stands.

        Raises:
            LedgerDamaged, LedgerLocked, LedgerUnwritable: as `store`.
        """
        self._noted = self._open().ledger.head
        return self._noted

    def verify(self) -> None:
        """Read every line anew.

        Raises:
            LedgerDamaged: a line was changed, removed or reordered.
        """
        self.head()
        self._open().ledger.verify()

    def is_in_place(self) -> bool:
        """Whether the open file is the one that stands in the folder."""
        try:
            return self._opened is None or self.path.stat().st_ino == self._opened.inode
        except OSError:
            return False

    def let_go(self, error: Exception) -> bool:
        """After damage, close the file, so that a restored one is opened anew."""
        if not isinstance(error, LedgerDamaged):
            return False
        self.close()
        return True

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        if self._opened is not None:
            self._opened.store.close()
        self._opened = None

    def _open(self) -> _Opened:
        """The file that stands in the folder, opened and believed to be the newest."""
        if self._opened is None or not self.is_in_place():
            self.close()
            self._require_there()
            store = SiteStore(self.path, durability="power")
            try:
                ledger = Ledger(store)
                self._require_newest(ledger)
            except BaseException:
                store.close()
                raise
            self._opened = _Opened(store, ledger, self.path.stat().st_ino)
        return self._opened

    def _require_there(self) -> None:
        """A ledger that had lines and is gone must not begin anew."""
        if self._noted.count and not self.path.is_file():
            raise LedgerDamaged(
                f"{self.path}: the ledger is gone, and it had {self._noted.count} lines; restore "
                "its newest backup, and take part in no study until then."
            )

    def _require_newest(self, ledger: Ledger) -> None:
        entries, noted = ledger.entries(), self._noted
        if not noted.count:
            return
        if len(entries) < noted.count or entries[noted.count - 1].hash != noted.hash:
            raise LedgerDamaged(
                f"{self.path}: the ledger has {len(entries)} lines and does not continue the "
                f"{noted.count} that the audit log knows of: it is an older copy, and would "
                "forget what was spent; restore the newest one."
            )


def noted_head(log: AuditLog) -> LedgerHead:
    """The last head of the ledger that the audit log notes; (0, empty) for none.

    Raises:
        AuditDamaged: the log is not what this site wrote.
    """
    # Nearly always the newest file has one; reading the older ones too would delay every start.
    for lines in (log.newest, log.lines):
        for line in reversed(lines()):
            match = _HEAD.search(line.entry.reason)
            if match is not None and line.entry.kind in {"start", "answer"}:
                return LedgerHead(int(match[1]), bytes.fromhex(match[2]))
    return LedgerHead(0, b"")
