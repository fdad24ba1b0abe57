"""What a site must remember across restarts so that its rules hold: one record a context.

The store only keeps records and finds them again. All rules are in the site's state machine. A
store must have a record on disk before `save` returns, or raise.
"""

from dataclasses import dataclass, field
from typing import Protocol

from fedrx_common.canonical_json import MalformedMessage, from_base64, from_json, to_base64, to_json


@dataclass(frozen=True)
class ContextRecord:
    """One context a site has sent a masked vector in.

    Attributes:
        session: 32 bytes.
        context: 32 bytes, the record's key.
        epoch: key epoch of the context.
        round: its round.
        attempt: its attempt.
        model_digest: SHA-256 of the model it was about.
        participants: U, sorted.
        threshold: least number of survivors.
        kit: what answering UNMASK needs after a restart; empty once a later round has begun.
        revealed_seeds: sites toward which the pairwise seed was revealed.
        unmask_survivors: the one list V that was answered, or None.
        unmask_reply: the answer's bytes, to be given again for the same list, or None.
    """

    session: bytes
    context: bytes
    epoch: int
    round: int
    attempt: int
    model_digest: bytes
    participants: tuple[str, ...]
    threshold: int
    kit: bytes = field(repr=False)
    revealed_seeds: frozenset[str] = frozenset()
    unmask_survivors: tuple[str, ...] | None = None
    unmask_reply: bytes | None = field(default=None, repr=False)

    @property
    def order(self) -> tuple[int, int, int]:
        """What grows from one record of a session to the next: round, epoch, attempt."""
        return (self.round, self.epoch, self.attempt)

    def to_bytes(self) -> bytes:
        """Canonical JSON, so that a store can keep the record as one blob."""
        survivors, reply = self.unmask_survivors, self.unmask_reply
        return to_json(
            {
                "attempt": self.attempt,
                "context": to_base64(self.context),
                "epoch": self.epoch,
                "kit": to_base64(self.kit),
                "model_digest": to_base64(self.model_digest),
                "participants": list(self.participants),
                "revealed_seeds": sorted(self.revealed_seeds),
                "round": self.round,
                "session": to_base64(self.session),
                "threshold": self.threshold,
                "unmask_reply": None if reply is None else to_base64(reply),
                "unmask_survivors": None if survivors is None else list(survivors),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "ContextRecord":
        """Read what `to_bytes` wrote.

        Raises:
            MalformedMessage: it is not such a record; the site's store is damaged.
        """
        document = from_json(data, source="A guard record")
        try:
            survivors, reply = document["unmask_survivors"], document["unmask_reply"]
            record = cls(
                session=from_base64(document["session"], source="A record's session"),
                context=from_base64(document["context"], source="A record's context"),
                epoch=_integer(document["epoch"]),
                round=_integer(document["round"]),
                attempt=_integer(document["attempt"]),
                model_digest=from_base64(
                    document["model_digest"], source="A record's model digest"
                ),
                participants=_texts(document["participants"]),
                threshold=_integer(document["threshold"]),
                kit=from_base64(document["kit"], source="A record's kit"),
                revealed_seeds=frozenset(_texts(document["revealed_seeds"])),
                unmask_survivors=None if survivors is None else _texts(survivors),
                unmask_reply=(
                    None if reply is None else from_base64(reply, source="A record's reply")
                ),
            )
        except (KeyError, TypeError):
            raise MalformedMessage("A guard record lacks a field or has a wrong type.") from None
        if record.to_bytes() != data:
            raise MalformedMessage("A guard record has unknown fields.")
        return record


class GuardStore(Protocol):
    """Where a site keeps its context records."""

    def load(self, context: bytes) -> ContextRecord | None:
        """The record of `context`, or None."""

    def latest(self, session: bytes) -> ContextRecord | None:
        """The record of `session` with the largest `order`, or None."""

    def answered_model(self, model_digest: bytes) -> bytes | None:
        """The context, of any session, whose UNMASK was answered under this digest, or None."""

    def opened_list(self, study: bytes) -> bytes | None:
        """What `keep_list` was given first for this study, or None."""

    def keep_list(self, study: bytes, listed: bytes) -> None:
        """Keep the one list that sums of a study are opened over; on disk before this returns."""

    def save(self, record: ContextRecord) -> None:
        """Keep `record` in place of an older one of its context; on disk before this returns."""


class MemoryGuard:
    """A store that forgets with its process: for simulated sites and tests."""

    def __init__(self) -> None:
        self._records: dict[bytes, ContextRecord] = {}
        self._latest: dict[bytes, ContextRecord] = {}
        self._answered: dict[bytes, bytes] = {}
        self._lists: dict[bytes, bytes] = {}

    def load(self, context: bytes) -> ContextRecord | None:
        """The record of `context`, or None."""
        return self._records.get(context)

    def latest(self, session: bytes) -> ContextRecord | None:
        """The record of `session` with the largest `order`, or None."""
        return self._latest.get(session)

    def answered_model(self, model_digest: bytes) -> bytes | None:
        """The context whose UNMASK was answered under this digest, or None."""
        return self._answered.get(model_digest)

    def opened_list(self, study: bytes) -> bytes | None:
        """What `keep_list` was given first for this study, or None."""
        return self._lists.get(study)

    def keep_list(self, study: bytes, listed: bytes) -> None:
        """Keep the one list that sums of a study are opened over."""
        self._lists.setdefault(study, listed)

    def save(self, record: ContextRecord) -> None:
        """Keep `record` in place of an older one of its context."""
        self._records[record.context] = record
        latest = self._latest.get(record.session)
        if latest is None or record.order >= latest.order:
            self._latest[record.session] = record
        if record.unmask_survivors is not None:
            self._answered[record.model_digest] = record.context


def _integer(value: object) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError
    return tuple(value)
