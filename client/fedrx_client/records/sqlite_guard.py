"""The round guard on disk: what a site must remember of secure aggregation across restarts.

The rules live in the protocol's state machine; this keeps records and finds them again. Records
share the ledger's file, so that both can be written in one transaction.
"""

from fedrx_client.records.database import LedgerDamaged, SiteStore
from fedrx_common.errors import MisuseError, PeerError
from fedrx_protocol.secagg.replay_guard import ContextRecord

_LATEST = (
    "SELECT record FROM guard_context WHERE session = ? "
    "ORDER BY round DESC, epoch DESC, attempt DESC LIMIT 1"
)
_PRUNE = (
    "DELETE FROM guard_context WHERE context IN (SELECT context FROM guard_context "
    "WHERE session = ? ORDER BY round DESC, epoch DESC, attempt DESC LIMIT -1 OFFSET ?)"
)


class SqliteGuard:
    """A `GuardStore` in a site's SQLite file.

    Args:
        store: the site's file.
        keep: how many of a session's newest records stay. A round number never goes back, so an
            older one is never asked for again; that a model was answered, and over which sites a
            study was opened, stays known for ever.
    """

    def __init__(self, store: SiteStore, *, keep: int = 8) -> None:
        if keep < 1:
            raise MisuseError(f"keep is {keep}: the guard needs at least its newest record.")
        self._store = store
        self._keep = keep
        # What was saved last, with its bytes: most reads ask for it, and parsing is the slow part.
        self._last: tuple[bytes, ContextRecord | None] = (b"", None)

    def load(self, context: bytes) -> ContextRecord | None:
        """The record of `context`, or None.

        Raises:
            LedgerDamaged: it cannot be read; the site must not go on without it.
        """
        return self._first("SELECT record FROM guard_context WHERE context = ?", context)

    def latest(self, session: bytes) -> ContextRecord | None:
        """The record of `session` with the largest `order`, or None.

        Raises:
            LedgerDamaged: it cannot be read; the site must not go on without it.
        """
        return self._first(_LATEST, session)

    def answered_model(self, model_digest: bytes) -> bytes | None:
        """The context whose UNMASK was answered under this digest, or None."""
        rows = self._store.read(
            "SELECT context FROM guard_answered WHERE model_digest = ?", (model_digest,)
        )
        return _blob(rows[0][0]) if rows else None

    def opened_list(self, study: bytes) -> bytes | None:
        """What `keep_list` was given first for this study, or None."""
        rows = self._store.read("SELECT sites FROM guard_list WHERE study = ?", (study,))
        return _blob(rows[0][0]) if rows else None

    def keep_list(self, study: bytes, listed: bytes) -> None:
        """Keep the one list that sums of a study are opened over, for ever.

        It is on disk when this returns, or when the store's outermost transaction ends.
        """
        self._store.write(
            "INSERT OR IGNORE INTO guard_list (study, sites) VALUES (?, ?)", (study, listed)
        )

    def save(self, record: ContextRecord) -> None:
        """Keep `record` in place of an older one of its context.

        It is on disk when this returns, or when the store's outermost transaction ends.
        """
        blob = record.to_bytes()
        with self._store.transaction():
            self._store.write(
                "INSERT OR REPLACE INTO guard_context "
                "(context, session, round, epoch, attempt, record) VALUES (?, ?, ?, ?, ?, ?)",
                (record.context, record.session, *record.order, blob),
            )
            if record.unmask_survivors is not None:
                self._store.write(
                    "INSERT OR REPLACE INTO guard_answered (model_digest, context) VALUES (?, ?)",
                    (record.model_digest, record.context),
                )
            self._store.write(_PRUNE, (record.session, self._keep))
        self._last = (blob, record)

    def verify(self) -> None:
        """Read every record.

        Raises:
            LedgerDamaged: one cannot be read, or is not of the context it is kept under.
        """
        for context, value in self._store.read("SELECT context, record FROM guard_context"):
            if self._read(_blob(value)).context != context:
                raise LedgerDamaged(
                    f"{self._store.path}: a guard record was exchanged; restore the file from a "
                    "backup, and take part in no study until then."
                )

    def _first(self, statement: str, key: bytes) -> ContextRecord | None:
        rows = self._store.read(statement, (key,))
        if not rows:
            return None
        blob = _blob(rows[0][0])
        return self._last[1] if blob == self._last[0] else self._read(blob)

    def _read(self, blob: bytes) -> ContextRecord:
        try:
            return ContextRecord.from_bytes(blob)
        except PeerError as error:
            raise LedgerDamaged(
                f"{self._store.path}: a guard record is damaged ({error}); restore the file from "
                "a backup, and take part in no study until then."
            ) from None


def _blob(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise LedgerDamaged(f"the guard holds {type(value).__name__} where bytes belong.")
    return value
