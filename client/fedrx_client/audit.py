"""The site's audit log: every request, answer, refusal and approval, one line each.

Hash-chained and on disk before `record` returns, so the site's agent writes it before an answer
leaves. It says who asked for what and what became of it; it must never hold a value, a count or a
name of a patient.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from fedrx_protocol.chain import ChainBroken, ChainHead, ChainLine
from fedrx_protocol.chain_file import ChainFile
from fedrx_protocol.errors import MisuseError

AuditKind = Literal[
    "start", "stop", "request", "answer", "refusal", "approval", "revocation", "identity"
]
LABEL = "site audit"
MAX_REASON_CHARACTERS = 1000
MAX_ID_CHARACTERS = 200


class AuditEntryInvalid(MisuseError):  # noqa: N818 - named for what happened
    """A line that would not say what happened: an unknown kind, no time, no words."""


class AuditDamaged(MisuseError):  # noqa: N818
    """The audit log is not what this site wrote; it can no longer show what was asked of it."""


@dataclass(frozen=True)
class AuditEntry:
    """One thing that happened.

    Attributes:
        time: unix seconds.
        kind: what it was; "identity" is a change of the site's own keys or pins.
        reason: in words for a person, no patient data.
        study: study digest, hexadecimal, or empty where none is concerned.
        run: run id, or empty.
        round: round number, or None.
        attempt: attempt number, or None.
    """

    time: int
    kind: AuditKind
    reason: str
    study: str = ""
    run: str = ""
    round: int | None = None
    attempt: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(AuditKind):
            raise AuditEntryInvalid(
                f"An audit line is one of {', '.join(get_args(AuditKind))}, not {self.kind!r}."
            )
        if not 0 < len(self.reason.strip()) <= len(self.reason) <= MAX_REASON_CHARACTERS:
            raise AuditEntryInvalid(
                f"An audit line needs its reason in 1 to {MAX_REASON_CHARACTERS} characters; "
                "shorten what a peer sent before it is quoted."
            )
        if max(len(self.study), len(self.run)) > MAX_ID_CHARACTERS:
            raise AuditEntryInvalid("A study digest or run id is too long for the audit log.")
        _require_counts(self)

    def to_document(self) -> dict[str, Any]:
        """The entry as JSON values."""
        return {
            "attempt": self.attempt,
            "kind": self.kind,
            "reason": self.reason,
            "round": self.round,
            "run": self.run,
            "study": self.study,
            "time": self.time,
        }

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.time, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        numbers = [
            f"{name} {value}"
            for name, value in (("round", self.round), ("attempt", self.attempt))
            if value is not None
        ]
        where = ", ".join(filter(None, [f"study {self.study[:12]}" * bool(self.study), self.run]))
        return "  ".join(filter(None, [when, self.kind, where, ", ".join(numbers), self.reason]))


@dataclass(frozen=True)
class AuditLine:
    """An entry with its number from 1 and the hash that binds it to all lines before."""

    number: int
    entry: AuditEntry
    hash: bytes


class AuditLog:
    """The audit log of one site; verified when opened.

    Args:
        path: a file of JSON lines, made by the first `record`; `PATH.head` stands beside it.

    Raises:
        AuditDamaged: a line was changed, removed or reordered; the text names it.
        LogUnwritable: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._chain = ChainFile(path, LABEL)
        except ChainBroken as error:
            raise AuditDamaged(str(error)) from None

    def record(self, entry: AuditEntry) -> AuditLine:
        """Write one line; it is on disk when this returns. Safe from threads and processes.

        Raises:
            LogUnwritable: it could not be written; then whatever it records must not happen.
            AuditDamaged: another process changed the file.
        """
        try:
            return _line(self._chain.append(entry.to_document()))
        except ChainBroken as error:
            raise AuditDamaged(str(error)) from None

    def lines(self) -> tuple[AuditLine, ...]:
        """All lines, oldest first, verified.

        Raises:
            AuditDamaged: names the first line that was changed, removed or reordered.
        """
        try:
            return tuple(map(_line, self._chain.lines()))
        except ChainBroken as error:
            raise AuditDamaged(str(error)) from None

    def verify(self, noted: ChainHead | None = None) -> ChainHead:
        """Read every line from disk anew, check the chain, and return its head.

        Args:
            noted: a head that was written down elsewhere; it shows a log that was replaced whole.

        Raises:
            AuditDamaged: names the first line that was changed, removed or reordered, or says
                that this is not the log the head was noted from.
        """
        lines = self.lines()
        heads = {line.number: line.hash for line in lines}
        if noted is not None and noted.count and heads.get(noted.count) != noted.hash:
            raise AuditDamaged(
                f"{self.path}: line {noted.count} is not the one that was noted: the log was "
                "replaced; keep it as evidence and go on with the copy of a backup."
            )
        if not lines:
            return self._chain.verify()
        return ChainHead(lines[-1].number, lines[-1].hash)


def _line(line: ChainLine) -> AuditLine:
    try:
        return AuditLine(line.number, AuditEntry(**line.entry), line.hash)
    except (TypeError, AuditEntryInvalid):
        raise AuditDamaged(
            f"line {line.number} of the audit log is none that this release writes; read it with "
            "the release that wrote it."
        ) from None


def _require_counts(entry: AuditEntry) -> None:
    numbers = entry.time, entry.round or 0, entry.attempt or 0
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise AuditEntryInvalid(
            "Time, round and attempt of an audit line are whole numbers, zero or more."
        )
