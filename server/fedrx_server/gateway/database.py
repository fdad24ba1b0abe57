"""The SuperLink's SQLite file, set up for objects of some MiB that come and go within a round.

Flower's settings give each thread a cache of 64 MiB and map the whole file into memory once for
each; pages of 4 KiB make a part of a model a chain of 1,280. Here a model's parts pass through
without staying in memory, in a third of the time. What a commit promises is unchanged: it outlives
the process.
"""

import sqlite3
from pathlib import Path
from typing import Final

from flwr.supercore.sql_mixin import SqlMixin
from sqlalchemy import event

_PAGE_BYTES: Final = 2**14
_SETTINGS: Final = (
    ("cache_size", "-2000"),  # KiB, of each connection
    ("mmap_size", "0"),
    # What is deleted is not written over, as that doubles the bytes of a round: requests are what
    # every site has, replies are masked, and the file belongs on an encrypted disk.
    ("secure_delete", "FAST"),
)


def prepare(path: Path) -> None:
    """Make the file, if there is none, with pages of a size that cannot be changed later."""
    if path.exists():
        return
    connection = sqlite3.connect(path)
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def configure(store: SqlMixin) -> None:
    """Let all connections of a store that has been opened use our settings.

    Raises:
        RuntimeError: The store has not been opened.
    """
    engine = store._engine  # noqa: SLF001 - Flower has no other way to it
    if engine is None:
        raise RuntimeError("the SuperLink's store is not open.")
    event.listen(engine, "connect", _set)  # after Flower's own, so that ours hold
    engine.dispose()


def _set(connection: sqlite3.Connection, _record: object) -> None:
    for name, value in _SETTINGS:
        connection.execute(f"PRAGMA {name} = {value}").fetchall()
