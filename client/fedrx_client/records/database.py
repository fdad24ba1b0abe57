"""A site's memory on disk: one SQLite file that holds the privacy ledger and the round guard.

Both live in one file so that a ledger line and a guard record reach the disk in one transaction,
before a reply leaves the site. The store knows tables and durability; it knows no rule of privacy
or of secure aggregation. It fails closed: a file it cannot trust or write is an error, and the
site then takes part in nothing.

A live site's file also numbers its states: each transaction that wrote something is one, with a
hash over the state before it, the ledger's head and the audit log's head of that moment. By these
an older copy of the file, or of the log, is recognized; see `fedrx_client.records.ledger_file`.
"""

import functools
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Literal, Self

from fedrx_common.canonical_json import packed
from fedrx_common.errors import MisuseError
from fedrx_common.hash_chain import ChainHead

Durability = Literal["power", "process"]
Value = str | bytes | int | float | None

APPLICATION_ID = 0x46645278  # "FdRx": marks our files among SQLite files
SCHEMA_VERSION = 3
_NONCE_BYTES = 16
LEDGER = "site.db"
"""The file's name in a site's folder."""

_SYNCHRONOUS: dict[Durability, str] = {"power": "FULL", "process": "OFF"}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
}
_TABLES = (
    """CREATE TABLE ledger (
        sequence INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        entry TEXT NOT NULL,
        hash BLOB NOT NULL)""",
    """CREATE TABLE ledger_head (
        single INTEGER PRIMARY KEY CHECK (single = 1),
        count INTEGER NOT NULL,
        hash BLOB NOT NULL)""",
    """CREATE TABLE guard_context (
        context BLOB PRIMARY KEY,
        session BLOB NOT NULL,
        round INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        attempt INTEGER NOT NULL,
        record BLOB NOT NULL)""",
    "CREATE INDEX guard_order ON guard_context (session, round, epoch, attempt)",
    """CREATE TABLE guard_answered (
        model_digest BLOB PRIMARY KEY,
        context BLOB NOT NULL)""",
)
# By version, what the next one added; a file of an older version gets it when it is opened.
_ADDED = {
    1: """CREATE TABLE guard_list (
        study BLOB PRIMARY KEY,
        sites BLOB NOT NULL)""",
    2: """CREATE TABLE state (
        count INTEGER PRIMARY KEY,
        hash BLOB NOT NULL,
        ledger BLOB NOT NULL,
        nonce BLOB NOT NULL,
        log_count INTEGER NOT NULL,
        log_hash BLOB NOT NULL)""",
}


class LedgerDamaged(MisuseError):
    """The site's ledger is not what this site wrote; trusting it could under-count privacy."""


class LedgerLocked(MisuseError):
    """Another process holds the ledger; two writers at once could each spend the same budget."""


class LedgerUnwritable(MisuseError):
    """The ledger cannot be written (disk full, read-only); an unrecorded release must not leave."""


@dataclass(frozen=True)
class StoreState:
    """What the file was after one of its transactions.

    Attributes:
        head: its number from 1, and the hash that binds it to all states before.
        ledger: the hash of the ledger's last line; empty for an empty ledger.
        nonce: random, so that two copies which go on apart never share a state.
        log: the audit log's head of that moment.
    """

    head: ChainHead
    ledger: bytes
    nonce: bytes
    log: ChainHead

    def follows(self, before: ChainHead) -> bool:
        """Whether this is the state after `before`, unchanged."""
        return self.head == next_state(before, self.ledger, self.nonce, self.log)


def next_state(before: ChainHead, ledger: bytes, nonce: bytes, log: ChainHead) -> ChainHead:
    """Number and hash of the state that follows `before`; see `StoreState`."""
    count = before.count + 1
    data = packed("fedrx/1 state", before.hash, count, ledger, nonce, log.count, log.hash)
    return ChainHead(count, hashlib.sha256(data).digest())


class SiteStore:
    """One SQLite file (WAL), used by one site at a time, from any thread or process.

    Args:
        path: the file; made with mode 0600 where it does not exist (it holds round keys).
        durability: "power" makes every commit survive a power cut (synchronous FULL).
            "process" survives SIGKILL only: for simulated sites, never for a real one.
        busy_timeout_s: how long to wait for another process's transaction.
        log_head: the audit log's present head. A live site's store needs it to write; one without
            numbers no states.

    Raises:
        LedgerDamaged: the file is not SQLite, is another program's, or is of another version.
        LedgerLocked: another process holds it for longer than the timeout.
        LedgerUnwritable: it cannot be opened for writing.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        durability: Durability = "power",
        busy_timeout_s: float = 5.0,
        log_head: Callable[[], ChainHead] | None = None,
    ) -> None:
        self.path = Path(path)
        self.durability: Durability = durability
        self._busy_timeout_s = busy_timeout_s
        self._lock = RLock()
        self._log_head = log_head
        self._depth = 0
        self._wrote = False
        # Connections of a parent process are kept, not closed: closing one after a fork would
        # drop the parent's file locks.
        self._inherited: list[sqlite3.Connection] = []
        self._process = os.getpid()
        self._connection: sqlite3.Connection | None = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside reach the disk together, or none does; nests into the outermost.

        When the outermost block ends without an error, the data are on disk.
        """
        with self._lock, self._named_errors():
            connection = self._connected()
            if self._depth == 0:
                connection.execute("BEGIN IMMEDIATE")
                self._wrote = False
            self._depth += 1
            try:
                yield
                if self._depth == 1 and self._wrote:
                    self._number_state(connection)
            except BaseException:
                self._leave(connection, "ROLLBACK")
                raise
            self._leave(connection, "COMMIT")

    def write(self, statement: str, values: Sequence[Value] = ()) -> None:
        """Run one writing statement, in the open transaction or in one of its own."""
        with self.transaction():
            self._connected().execute(statement, values)
            self._wrote = True

    def note_log(self) -> None:
        """Begin a state that names the audit log's present head, on disk when this returns."""
        with self.transaction():
            self._wrote = True

    def states(self, last: int = 0) -> tuple[StoreState, ...]:
        """The states of this file, oldest first.

        Args:
            last: only so many of the newest; 0 for all.
        """
        rows = self.read(
            "SELECT count, hash, ledger, nonce, log_count, log_hash FROM state "
            "ORDER BY count DESC LIMIT ?",
            (last or -1,),
        )
        return tuple(
            StoreState(ChainHead(count, digest), ledger, nonce, ChainHead(lines, line))
            for count, digest, ledger, nonce, lines, line in reversed(rows)
        )

    def had_state(self, head: ChainHead) -> bool:
        """Whether the file was in this state once, or is in it now."""
        rows = self.read("SELECT hash FROM state WHERE count = ?", (head.count,))
        return bool(rows) and bytes(rows[0][0]) == head.hash

    def _number_state(self, connection: sqlite3.Connection) -> None:
        if self._log_head is None:
            return
        newest = "SELECT count, hash FROM state ORDER BY count DESC LIMIT 1"
        before = ChainHead(*(connection.execute(newest).fetchone() or (0, b"")))
        (ledger,) = connection.execute("SELECT hash FROM ledger_head").fetchone() or (b"",)
        log, nonce = self._log_head(), os.urandom(_NONCE_BYTES)
        head = next_state(before, ledger, nonce, log)
        connection.execute(
            "INSERT INTO state (count, hash, ledger, nonce, log_count, log_hash) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (head.count, head.hash, ledger, nonce, log.count, log.hash),
        )

    def read(self, statement: str, values: Sequence[Value] = ()) -> list[tuple[Any, ...]]:
        """Run one query and return all its rows."""
        with self._lock, self._named_errors():
            return self._connected().execute(statement, values).fetchall()

    def _leave(self, connection: sqlite3.Connection, how: Literal["COMMIT", "ROLLBACK"]) -> None:
        self._depth -= 1
        if self._depth:
            return
        try:
            if connection.in_transaction:
                connection.execute(how)
        except sqlite3.Error:
            # A commit that failed (disk full) leaves the transaction open: end it, keep nothing.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _connected(self) -> sqlite3.Connection:
        if self._process != os.getpid() and self._connection is not None:
            self._inherited.append(self._connection)
            self._process, self._depth = os.getpid(), 0
            self._connection = self._open()
        if self._connection is None:
            raise LedgerUnwritable(f"{self.path}: this ledger was closed; open it again.")
        return self._connection

    def _open(self) -> sqlite3.Connection:
        with self._named_errors():
            self._touch()
            connection = sqlite3.connect(
                self.path,
                timeout=self._busy_timeout_s,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            return connection

    def _touch(self) -> None:
        """Make the file, readable by its owner alone, if it is not there.

        SQLite alone opens a file that is there: closing any other descriptor of it would drop the
        locks of this process's open connections. Another process would then take itself for the
        last one, and remove the log of commits that are not in the file yet.
        """
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise LedgerUnwritable(
                f"{self.path}: the ledger cannot be opened for writing ({error.strerror}); "
                "give the site a folder of its own that it may write to."
            ) from None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[self.durability]}")
        # Dropped round keys are overwritten, not only unlinked.
        connection.execute("PRAGMA secure_delete = ON")
        if _pragma(connection, "application_id") == 0:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            # Tables are made in an empty file; one that has some already is left alone.
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for table in (*_TABLES, *_ADDED.values()):
                    connection.execute(table)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        if _pragma(connection, "application_id") != APPLICATION_ID:
            raise LedgerDamaged(
                f"{self.path}: is another program's database; name another file for the ledger."
            )
        version = _pragma(connection, "user_version")
        if version in _ADDED:
            connection.execute("BEGIN IMMEDIATE")
            # Read again: another process may have added the tables meanwhile.
            while added := _ADDED.get(version := _pragma(connection, "user_version")):
                connection.execute(added)
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        if version != SCHEMA_VERSION:
            raise LedgerDamaged(
                f"{self.path}: is a ledger of version {version}, this program knows version "
                f"{SCHEMA_VERSION}; use the FedRx release that wrote it."
            )
        fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if fault != "ok":
            raise self._damaged(fault)
        changed = sorted(_made() - _columns(connection))
        if changed:
            raise self._damaged(f"its table '{changed[0][0]}' is not as it was made")

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._named(error) from error

    def _named(self, error: sqlite3.Error) -> MisuseError:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _BUSY:
            return LedgerLocked(
                f"{self.path}: another process has held this ledger for more than "
                f"{self._busy_timeout_s:g} s; stop the other site agent and try again."
            )
        if code in _UNWRITABLE:
            return LedgerUnwritable(
                f"{self.path}: the ledger cannot be written ({error}); free disk space or repair "
                "the permissions, then start again. Nothing was released."
            )
        return self._damaged(str(error))

    def _damaged(self, finding: str) -> LedgerDamaged:
        return LedgerDamaged(
            f"{self.path}: the ledger file is damaged ({finding}); restore it from a backup, and "
            "take part in no study until then."
        )


def _columns(connection: sqlite3.Connection) -> frozenset[tuple[str, str]]:
    """Every table with each of its columns."""
    rows = connection.execute(
        "SELECT made.name, columns.name FROM sqlite_master AS made, "
        "pragma_table_info(made.name) AS columns WHERE made.type = 'table'"
    )
    return frozenset(rows)


@functools.cache
def _made() -> frozenset[tuple[str, str]]:
    """Every table of a new file with each of its columns."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for table in _TABLES:
            connection.execute(table)
        return _columns(connection)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value
