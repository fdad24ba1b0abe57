"""Opens a database for reading only, and turns whatever it answers into one sentence.

Neither the password nor a value of a row is ever passed on: a driver's own message may hold both,
so that only messages which name tables and columns go further.
"""

import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL, Row, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import Executable

from fedrx_client.data.readers.source import Source
from fedrx_common.errors import DataError

_Row = Row[*tuple[Any, ...]]
_ROWS_AT_ONCE = 10_000
_STEPS = 10_000  # of SQLite's machine, between two looks at the clock
_CONNECT_S = 10

# By PostgreSQL's SQLSTATE: messages that quote names of the query, and no value of a row.
_OF_NAMES = frozenset({"42P01", "42703", "42601", "42501", "42883", "42702", "42803", "3F000"})
# The same of SQLite, whose errors have no finer code than their first words.
_SQLITE_OF_NAMES = (
    "no such table",
    "no such column",
    "no such function",
    "ambiguous column name",
    "misuse of aggregate",
    "incomplete input",
    "near ",
)
_OF_CONNECTING = ("08", "28", "3D", "57")
_REFUSED = re.compile("password|authentication|no pg_hba|role .* not exist|access denied", re.I)
_NO_DATABASE = re.compile("database .* does not exist|unknown database", re.I)
_AWAY = re.compile("refused|resolve|translate|timeout|timed out|unreachable|closed", re.I)
_TRIES_TO_WRITE = ("25006", "attempt to write a readonly database")


@dataclass(frozen=True)
class OpenDatabase:
    """A connection in one read-only transaction, which ends without a trace.

    Attributes:
        name: the database in words, without a password.
        connection: the one connection.
        timeout_s: how long all of the reading may take.
        deadline: the same as a moment of the monotonic clock.
    """

    name: str
    connection: Connection
    timeout_s: float
    deadline: float

    def stream(self, statement: Executable | str) -> tuple[tuple[str, ...], Iterator[_Row]]:
        """Run a statement and return its columns' names, and its rows as they arrive.

        Args:
            statement: one of SQLAlchemy's own, or a query that was checked.

        Raises:
            DataError: reading takes longer than it may.
        """
        options: dict[str, Any] = {"stream_results": True, "yield_per": _ROWS_AT_ONCE}
        if isinstance(statement, str):
            options["no_parameters"] = True  # a '%' in it is its own
            result = self.connection.exec_driver_sql(statement, execution_options=options)
        else:
            result = self.connection.execute(statement, execution_options=options)
        names = tuple(map(str, result.keys()))
        # Said again: the option alone has a driver's own statement fetched whole.
        return names, self._rows(result.yield_per(_ROWS_AT_ONCE).partitions(_ROWS_AT_ONCE))

    def _rows(self, chunks: Iterator[Sequence[_Row]]) -> Iterator[_Row]:
        while True:
            try:
                chunk = next(chunks, None)
            except (ValueError, OverflowError) as error:  # a driver's, of a date after year 9999
                raise DataError(
                    f"{self.name}: a value is none that can be read ({type(error).__name__}); "
                    "correct it in the database."
                ) from None
            if chunk is None:
                return
            # The database's own timeout is one of each step, and ends no endless stream.
            if time.monotonic() > self.deadline:
                raise DataError(f"{self.name}: {_too_slow(self.timeout_s)}.")
            yield from chunk


@contextmanager
def open_database(source: Source, timeout_s: float) -> Iterator[OpenDatabase]:
    """Open a database in one read-only transaction; everything in the block reads one moment of it.

    Args:
        source: an address as SQLAlchemy writes them, or an SQLite file.
        timeout_s: how long all of the reading may take, in seconds.

    Raises:
        DataError: it cannot be opened, or something in the block fails.
    """
    deadline = time.monotonic() + timeout_s
    engine: Engine | None = None
    try:
        engine = _engine(source, deadline)
        with _connected(source, engine) as connection, connection.begin() as transaction:
            _only_read(connection, timeout_s)
            yield OpenDatabase(source.name, connection, timeout_s, deadline)
            transaction.rollback()
    except (SQLAlchemyError, sqlite3.Error, OSError, ImportError, UnicodeError) as error:
        raise DataError(f"{source.name}: {_reason(error, timeout_s)}.") from None
    finally:
        if engine is not None:
            engine.dispose()


def _engine(source: Source, deadline: float) -> Engine:
    url = None if source.path is not None else _url(source)
    if url is not None and url.get_backend_name() != "sqlite":
        own = url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query
        arguments = {"connect_timeout": _CONNECT_S} if own else {}
        try:
            return create_engine(
                url, poolclass=NullPool, hide_parameters=True, connect_args=arguments
            )
        except (ValueError, TypeError):
            raise _no_address(source) from None
    path = Path(source.location if url is None else (url.database or ""))
    if not path.is_file():
        raise DataError(f"{path.name or source.name}: there is no such database file.")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS)
        return connection

    return create_engine("sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)


def _url(source: Source) -> URL:
    """Parse the address; the environment gives a password that it lacks."""
    try:
        url = make_url(source.location)
        backend = url.get_backend_name()
    except (SQLAlchemyError, ValueError):  # whose text may hold the password
        raise _no_address(source) from None
    if url.drivername in ("postgresql", "postgres"):
        url, backend = url.set(drivername="postgresql+psycopg"), "postgresql"
    password = os.environ.get("FEDRX_DB_PASSWORD")
    if backend != "sqlite" and url.password is None and password:
        url = url.set(password=password)
    return url


def _no_address(source: Source) -> DataError:
    return DataError(
        f"{source.name}: is no address of a database, such as "
        "'postgresql://name@host:5432/database' or 'sqlite:///folder/file.db'."
    )


def _connected(source: Source, engine: Engine) -> Connection:
    try:
        return engine.connect()
    except (ValueError, TypeError):  # of a host's name or an option that cannot be one
        raise _no_address(source) from None


def _only_read(connection: Connection, timeout_s: float) -> None:
    """Have the database itself refuse to write, where it knows how to."""
    dialect, milliseconds = connection.dialect.name, max(1, int(timeout_s * 1000))
    statements = {
        "sqlite": ["PRAGMA query_only = ON", "PRAGMA trusted_schema = OFF"],
        "postgresql": [
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
            f"SET LOCAL statement_timeout = {min(milliseconds, 2**31 - 1)}",
        ],
        "mysql": ["SET TRANSACTION READ ONLY"],
        "mariadb": ["SET TRANSACTION READ ONLY"],
        "oracle": ["SET TRANSACTION READ ONLY"],
    }
    for statement in statements.get(dialect, []):
        connection.execute(text(statement))


def _reason(error: Exception, timeout_s: float) -> str:
    """Say why a database does not answer, from what holds neither a password nor a row's value."""
    original = getattr(error, "orig", None) or error
    state, words = getattr(original, "sqlstate", None), str(original)
    if isinstance(error, UnicodeError):
        reason = "holds text that is not UTF-8; correct it in the database"
    elif isinstance(error, ImportError) or "Can't load plugin" in words:
        reason = (
            "no driver for this kind of database is installed; install the Python package that "
            "SQLAlchemy names for it"
        )
    elif state == "57014" or words == "interrupted":
        reason = _too_slow(timeout_s)
    elif state == _TRIES_TO_WRITE[0] or words.startswith(_TRIES_TO_WRITE[1]):
        reason = "the query tries to change the database; only reading is allowed"
    elif isinstance(original, sqlite3.Error):
        reason = _of_sqlite(words)
    elif state in _OF_NAMES:
        primary = getattr(getattr(original, "diag", None), "message_primary", None)
        reason = f"the database answers: {primary or state}"
    elif state is not None and not state.startswith(_OF_CONNECTING):
        reason = (
            f"the database cannot answer ({type(original).__name__}, SQLSTATE {state}); its own "
            "message may hold values of patients and is not shown"
        )
    else:
        reason = _of_connecting(words, type(original).__name__)
    return reason


def _of_sqlite(words: str) -> str:
    if words.startswith(_SQLITE_OF_NAMES):
        return f"the database answers: {words.partition(chr(10))[0]}"
    known = {
        "file is not a database": "is not an SQLite file",
        "database disk image is malformed": "is a damaged SQLite file",
        "malformed database schema": "is a damaged SQLite file",
        "unable to open database file": "cannot be opened; check the rights to file and folder",
        "database is locked": "is locked by another program; try again later",
        "Could not decode": "holds text that is not UTF-8; correct it in the database",
    }
    found = [said for begin, said in known.items() if words.startswith(begin)]
    return found[0] if found else "SQLite cannot answer; check the file with 'PRAGMA quick_check'"


def _of_connecting(words: str, kind: str) -> str:
    """Tell apart why there is no connection; the driver's text itself is not shown."""
    if re.search(
        r"password|authentication|no pg_hba|role .* does not exist|access denied", words, re.I
    ):
        return (
            "the database refuses the name or the password; give the password in "
            "FEDRX_DB_PASSWORD, PGPASSWORD or .pgpass"
        )
    if _NO_DATABASE.search(words):
        return "the server has no database of this name"
    if _AWAY.search(words):
        return "the database cannot be reached; check host and port, and that it runs"
    return f"the database cannot be used ({kind})"


def _too_slow(timeout_s: float) -> str:
    return f"does not answer within {timeout_s:g} s; set a longer timeout_s in [sql] of the mapping"
