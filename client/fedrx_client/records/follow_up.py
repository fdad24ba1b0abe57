"""Predictions that a site keeps to compare with what happened: one SQLite file, pseudonyms only.

It holds no feature of a patient and no id of the source. Without the site's key a pseudonym leads
to no patient.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from fedrx_common.errors import MisuseError

FOLLOW_UP = "follow_up.sqlite"
"""The file's name in a site's folder."""
_WAIT_S = 10.0
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS prediction (patient TEXT NOT NULL, model TEXT NOT NULL, "
    "study TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, low REAL, high REAL, "
    "level REAL, time INTEGER NOT NULL)"
)
_INSERT = (
    "INSERT INTO prediction (patient, model, study, name, value, low, high, level, time) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT = (
    "SELECT patient, model, study, name, value, low, high, level, time FROM prediction "
    "ORDER BY time, rowid"
)


class FollowUpUnusable(MisuseError):
    """The file of kept predictions cannot be read or written; nothing was compared or kept."""


@dataclass(frozen=True)
class KeptPrediction:
    """One predicted number of one patient.

    Attributes:
        patient: the pseudonym.
        model: digest of the model.
        study: digest of its study.
        name: what was predicted: the target, or a drug of a panel.
        value: the prediction.
        low: lower end of its interval; None for a probability.
        high: upper end.
        level: nominal coverage of the interval; None likewise.
        time: when, in unix seconds.
    """

    patient: str
    model: str
    study: str
    name: str
    value: float
    low: float | None
    high: float | None
    level: float | None
    time: int


class FollowUpStore:
    """Kept predictions of a site.

    Args:
        folder: the site's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FOLLOW_UP

    def add(self, kept: Sequence[KeptPrediction]) -> None:
        """Keep predictions; they are on disk when this returns.

        Raises:
            FollowUpUnusable: they cannot be written.
        """
        with self._open() as connection, connection:
            connection.execute(_SCHEMA)
            connection.executemany(_INSERT, [astuple(one) for one in kept])

    def all(self) -> tuple[KeptPrediction, ...]:
        """List what is kept, oldest first; empty where nothing ever was.

        Raises:
            FollowUpUnusable: it cannot be read.
        """
        if not self.path.exists():
            return ()
        with self._open() as connection:
            rows = connection.execute(_SELECT)
            return tuple(KeptPrediction(*row) for row in rows)

    def counts(self, before: int | None = None) -> dict[str, int]:
        """Count predictions by study, all of them or those made before a time.

        Raises:
            FollowUpUnusable: they cannot be read.
        """
        found: dict[str, int] = {}
        for one in self.all():
            if before is None or one.time < before:
                found[one.study] = found.get(one.study, 0) + 1
        return found

    def remove(self, study: str, before: int | None = None) -> None:
        """Remove a study's predictions, all or those made before a time, also from free pages.

        Raises:
            FollowUpUnusable: they cannot be removed.
        """
        if not self.path.exists():
            return
        with self._open() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            with connection:
                connection.execute(
                    "DELETE FROM prediction WHERE study = ? AND (? IS NULL OR time < ?)",
                    (study, before, before),
                )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            if not self.path.exists():
                self.path.touch(mode=0o600)
            with closing(sqlite3.connect(self.path, timeout=_WAIT_S)) as connection:
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise FollowUpUnusable(
                f"{self.path}: kept predictions cannot be read or written ({error}); look at the "
                "disk and its permissions, or remove the file to begin again."
            ) from None
