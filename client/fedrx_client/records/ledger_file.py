"""The ledger's file of a live site: opened when it is needed, closed when it is damaged.

A ledger that was lost or put back to an older state would forget what patients have already spent,
and its guard which secrets the site gave away. So the file and the audit log name each other: each
line of a live site's log says in which state the file is, and each state of the file says after
which line of the log it began. A line is always written before the state that follows from it.
Whatever a crash cuts off, the file is then in the state that the log names, or in one that began
after a line that the log has. Everything else is an older copy of one of them, and is refused.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fedrx_client.records.audit_log import EARLIER_MEMORY, MEMORY, AuditDamaged, AuditLine, AuditLog
from fedrx_client.records.database import LEDGER, LedgerDamaged, SiteStore
from fedrx_client.records.ledger import GENESIS, Ledger, LedgerHead
from fedrx_common.errors import MisuseError
from fedrx_common.hash_chain import ChainHead

_EARLIER_HEAD = re.compile(r"; ledger (\d{1,18}):([0-9a-f]{64})$")


@dataclass(frozen=True)
class _Opened:
    store: SiteStore
    ledger: Ledger
    inode: int


class LedgerFile:
    """The store of one live site, and its ledger.

    Args:
        folder: the site's folder.
        log: the site's audit log.
    """

    def __init__(self, folder: Path, log: AuditLog) -> None:
        self.path = folder / LEDGER
        self._log = log
        self._opened: _Opened | None = None

    def store(self) -> SiteStore:
        """The open store.

        Raises:
            LedgerDamaged: it is not what this site wrote, or not its newest state.
            AuditDamaged: the audit log is not the newest.
            LedgerLocked: another process holds it.
            LedgerUnwritable: it cannot be written.
        """
        return self._open().store

    def ledger(self) -> Ledger:
        """The open ledger.

        Raises:
            LedgerDamaged, AuditDamaged, LedgerLocked, LedgerUnwritable: as `store`.
        """
        return self._open().ledger

    def state(self) -> str:
        """What the next line of the audit log says of the file; empty before its first state.

        Raises:
            LedgerDamaged, AuditDamaged, LedgerLocked, LedgerUnwritable: as `store`; also if the
                open file itself was overwritten with an older copy.
        """
        opened = self._open()
        require_newest(opened.store, self._log)
        return "".join(str(state.head) for state in opened.store.states(last=1))

    def note_log(self) -> None:
        """Begin a state after the newest line of the log, so that no older log fits any more.

        Raises:
            LedgerDamaged, AuditDamaged, LedgerLocked, LedgerUnwritable: as `store`.
        """
        self._open().store.note_log()

    def verify(self) -> None:
        """Read every line again, and compare the file with the log.

        Raises:
            LedgerDamaged: a line was changed, removed or reordered, or it is not the newest.
            AuditDamaged: the audit log is not the newest.
        """
        self._open().ledger.verify()
        require_newest(self._open().store, self._log)

    def is_in_place(self) -> bool:
        """Whether the open file is the one that is in the folder."""
        try:
            return self._opened is None or self.path.stat().st_ino == self._opened.inode
        except OSError:
            return False

    def let_go(self, error: Exception) -> bool:
        """After damage, close the file, so that a restored one is opened next."""
        if not isinstance(error, LedgerDamaged | AuditDamaged):
            return False
        self.close()
        return True

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        if self._opened is not None:
            self._opened.store.close()
        self._opened = None

    def _open(self) -> _Opened:
        """Open the file that is in the folder, after it proved to be the newest."""
        if self._opened is None or not self.is_in_place():
            self.close()
            require_there(self.path, self._log)
            store = SiteStore(self.path, durability="power", log_head=lambda: self._log.head)
            try:
                ledger = Ledger(store)
                require_newest(store, self._log)
            except BaseException:
                store.close()
                raise
            self._opened = _Opened(store, ledger, self.path.stat().st_ino)
        return self._opened


def require_there(path: Path, log: AuditLog) -> None:
    """Refuse to begin an empty file in place of one that the log names.

    Raises:
        LedgerDamaged: it is gone.
    """
    known = log.newest_about(MEMORY)
    if known is None:
        # An earlier release noted the ledger's head, which says nothing before its first line.
        line = log.newest_about(EARLIER_MEMORY)
        known = line if line is not None and _earlier_head(line).count else None
    if known is not None and not path.is_file():
        raise LedgerDamaged(
            f"{path}: the ledger is gone, and the audit log knows of it since line "
            f"{known.number}; put its newest copy back, and take part in no study until then."
        )


def require_newest(store: SiteStore, log: AuditLog) -> None:
    """Refuse a file that is older than the log, and a log that is older than the file.

    Raises:
        LedgerDamaged: the file is an older copy, or its ledger was exchanged.
        AuditDamaged: the log is an older copy, or another one.
    """
    newest = store.states(last=1)
    noted = log.newest_about(MEMORY)
    if noted is not None and not store.had_state(_head(noted)):
        raise _older(store.path, noted)
    if noted is None and not newest:
        _require_earlier(store, log)
    for state in newest:
        if not log.has(state.log):
            raise AuditDamaged(
                f"{log.path}: has {log.head.count} lines and not the one, number "
                f"{state.log.count}, after which {store.path.name} was last written: the log is "
                "an older copy or another one, or was lost; put its newest copy back, and take "
                "part in no study until then."
            )
        heads = store.read("SELECT hash FROM ledger_head")
        if state.ledger != (bytes(heads[0][0]) if heads else b""):
            raise LedgerDamaged(
                f"{store.path}: the ledger was exchanged apart from the rest of the file; put the "
                "newest copy of the file back, and take part in no study until then."
            )


def verify_states(store: SiteStore, log: AuditLog) -> None:
    """Compare every state of the file with every line of the log, both ways.

    Raises:
        LedgerDamaged: a state was changed, or one that the log names is not there.
        AuditDamaged: a state began after a line that the log does not have.
    """
    require_newest(store, log)
    before = ChainHead(0, b"")
    for state in store.states():
        if not state.follows(before):
            raise LedgerDamaged(
                f"{store.path}: state {before.count + 1} was changed or removed; put the newest "
                "copy of the file back, and take part in no study until then."
            )
        if not log.has(state.log):
            raise AuditDamaged(
                f"{log.path}: line {state.log.count} is not the one after which state "
                f"{state.head.count} of {store.path.name} began; put the newest copy of both back."
            )
        before = state.head
    for line in log.lines():
        if line.entry.subject == MEMORY and not store.had_state(_head(line)):
            raise _older(store.path, line)


def _head(line: AuditLine) -> ChainHead:
    try:
        return ChainHead.parse(line.entry.content)
    except MisuseError:
        raise AuditDamaged(
            f"line {line.number} of the audit log names no state of {LEDGER}; read it with the "
            "release that wrote it."
        ) from None


def _older(path: Path, line: AuditLine) -> LedgerDamaged:
    return LedgerDamaged(
        f"{path}: was never in the state that line {line.number} of the audit log names: it is an "
        "older copy, and would forget what was spent; put its newest copy back, and take part in "
        "no study until then."
    )


def _earlier_head(line: AuditLine) -> LedgerHead:
    match = _EARLIER_HEAD.search(line.entry.reason)
    return LedgerHead(int(match[1]), bytes.fromhex(match[2])) if match else LedgerHead(0, GENESIS)


def _require_earlier(store: SiteStore, log: AuditLog) -> None:
    """The same for a folder that an earlier release wrote: its log notes the ledger's head."""
    line, entries = log.newest_about(EARLIER_MEMORY), Ledger(store).entries()
    if line is None:
        if not entries:
            return
        raise AuditDamaged(
            f"{log.path}: says nothing of {store.path.name}, which has {len(entries)} lines: the "
            "log was replaced; put its newest copy back, and take part in no study until then."
        )
    noted = _earlier_head(line)
    if noted.count and (len(entries) < noted.count or entries[noted.count - 1].hash != noted.hash):
        raise _older(store.path, line)
