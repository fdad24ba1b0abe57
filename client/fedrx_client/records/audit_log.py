"""The site's audit log: every request, answer, refusal and approval, one line each.

Hash-chained and on disk before `record` returns, so the site's agent writes it before an answer
leaves. It says who asked for what and what became of it; it must never hold a value, a count or a
name of a patient. A file that has grown long is put aside (`NAME.0001`) and the next one continues
its chain.

A line also says what a file of the site's folder holds since then, so that an older copy of that
file is recognized; see `fedrx_client.records.ledger_file`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from fedrx_common.chained_log import ChainFile, LogUnwritable
from fedrx_common.errors import MisuseError
from fedrx_common.files import sync_folder, take_lock
from fedrx_common.hash_chain import ChainBroken, ChainHead, ChainLine
from fedrx_common.text import escaped

AuditKind = Literal[
    "start",
    "stop",
    "request",
    "answer",
    "refusal",
    "approval",
    "revocation",
    "identity",
    "card",
    "feedback",
    "retention",
]
LABEL = "site audit"
MAX_REASON_CHARACTERS = 1000
MAX_ID_CHARACTERS = 200
MEMORY = "memory"
EARLIER_MEMORY = "earlier memory"
PIN = "pin"
LONGEST_FILE_BYTES = 8_000_000


class AuditEntryInvalid(MisuseError):
    """A line that would not say what happened: an unknown kind, no time, no words."""


class AuditDamaged(MisuseError):
    """The audit log is not what this site wrote; it can no longer show what was asked of it."""


@dataclass(frozen=True)
class AuditEntry:
    """One thing that happened.

    Attributes:
        time: unix seconds.
        kind: what it was; "identity" is a change of the site's own keys or pins, "retention" the
            removal of what was kept of patients or of a study.
        reason: in words for a person, no patient data.
        study: study digest, hexadecimal, or empty where none is concerned.
        run: run id, or empty.
        round: round number, or None.
        attempt: attempt number, or None.
        content: what the file that the line is about holds from now on: of an approval or
            revocation its SHA-256, of a change of pins the roster's serial and digest, of all else
            the state of `site.db`; empty where nothing is said of any.
    """

    time: int
    kind: AuditKind
    reason: str
    study: str = ""
    run: str = ""
    round: int | None = None
    attempt: int | None = None
    content: str = ""

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
        if max(len(self.study), len(self.run), len(self.content)) > MAX_ID_CHARACTERS:
            raise AuditEntryInvalid(
                "A study digest, run id or file's content is too long for the audit log."
            )
        numbers = self.time, self.round or 0, self.attempt or 0
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise AuditEntryInvalid(
                "Time, round and attempt of an audit line are whole numbers, zero or more."
            )

    @property
    def subject(self) -> str:
        """What in the site's folder the line is about, see `about_approval`; empty for nothing."""
        if self.kind in {"approval", "revocation"}:
            return about_approval(self.study)
        if not self.content:
            # Earlier releases named the ledger's head in words.
            named = self.kind in {"start", "answer"} and "; ledger " in self.reason
            return EARLIER_MEMORY if named else ""
        return PIN if self.kind == "identity" else MEMORY

    def to_document(self) -> dict[str, Any]:
        """The entry as JSON values."""
        content = {"content": self.content} if self.content else {}  # younger than many logs
        return {
            **content,
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
        parts = [when, self.kind, where, ", ".join(numbers), self.reason]
        return escaped("  ".join(filter(None, parts)))


@dataclass(frozen=True)
class AuditLine:
    """An entry with its number from 1 and the hash that binds it to all lines before."""

    number: int
    entry: AuditEntry
    hash: bytes


class AuditLog:
    """The audit log of one site; its newest file is verified when opened.

    Args:
        path: a file of JSON lines, made by the first `record`; `PATH.head` is beside it, and
            `PATH.0001`, `PATH.0002`, ... are the files before it.
        longest_bytes: a file that has grown longer is put aside.

    Raises:
        AuditDamaged: a line was changed, removed or reordered; the text names it.
        LogUnwritable: it cannot be read.
    """

    def __init__(self, path: Path, *, longest_bytes: int = LONGEST_FILE_BYTES) -> None:
        self.path = path
        self._longest = longest_bytes
        # Complete what a crash cut off between the two renames of `_turn`.
        for aside in _archives(path)[-1:]:
            if not _head(aside).exists() and not path.exists() and _head(path).exists():
                with _writable(aside):
                    _head(path).rename(_head(aside))
        self._open()

    @property
    def head(self) -> ChainHead:
        """Number of lines and the last hash, when this process last looked."""
        own = self._chain.head
        return ChainHead(self._before.count + own.count, own.hash) if own.count else self._before

    def record(self, entry: AuditEntry) -> AuditLine:
        """Write one line; it is on disk when this returns. Safe from threads and processes.

        Raises:
            LogUnwritable: it could not be written; then whatever it records must not happen.
            AuditDamaged: another process changed the file.
        """
        with self._alone():
            if _archives(self.path) != self._turned:  # another process put a file aside
                self._open()
            with _named_damage():
                line = _line(self._chain.append(entry.to_document()), self._before.count)
            with _writable(self.path):
                full = self.path.stat().st_size > self._longest
            if full:
                self._turn()
        return line

    def lines(self) -> tuple[AuditLine, ...]:
        """All lines of all files, oldest first, verified.

        Raises:
            AuditDamaged: names the first line that was changed, removed or reordered.
        """
        found: list[AuditLine] = []
        before = ChainHead(0, b"")
        with _named_damage():
            for path in (*_archives(self.path), self.path):
                part = ChainFile(path, _label(before)).lines()
                found += [_line(line, before.count) for line in part]
                if part:
                    before = ChainHead(before.count + len(part), part[-1].hash)
        return tuple(found)

    def newest_about(self, subject: str) -> AuditLine | None:
        """The newest line about a file of the folder, of whichever process; None if there is none.

        Args:
            subject: `MEMORY`, `EARLIER_MEMORY`, `PIN`, or what `about_approval` gives.

        Raises:
            AuditDamaged: the log is not what this site wrote.
            LogUnwritable: it cannot be read.
        """
        self._catch_up()
        while subject not in self._newest and self._unread:
            self._read_back()
        return self._newest.get(subject)

    def has(self, head: ChainHead) -> bool:
        """Whether the log had this head once, or has it now.

        Raises:
            AuditDamaged: the log is not what this site wrote.
            LogUnwritable: it cannot be read.
        """
        self._catch_up()
        while head.count < self._first and self._unread:
            self._read_back()
        place = head.count - self._first
        return 0 <= place < len(self._hashes) and self._hashes[place] == head.hash

    def verify(self, noted: ChainHead | None = None) -> ChainHead:
        """Read every line from disk again, check the chain, and return its head.

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

    def _open(self) -> None:
        """Open the newest file, whose chain continues that of the files before it."""
        self._turned = _archives(self.path)
        self._before = ChainHead(0, b"")
        self._unread: list[tuple[Path, ChainHead]] = []
        for path in self._turned:
            self._unread.append((path, self._before))
            head = _noted(path)
            self._before = ChainHead(self._before.count + head.count, head.hash)
        self._newest: dict[str, AuditLine] = {}
        self._first, self._hashes = self._before.count + 1, list[bytes]()
        with _named_damage():
            self._chain = ChainFile(self.path, _label(self._before), learn=self._learn)

    def _learn(self, line: ChainLine) -> None:
        """Remember a line's hash, and that it is the newest about its subject."""
        found = _line(line, self._before.count)
        self._hashes.append(found.hash)
        if found.entry.subject:
            self._newest[found.entry.subject] = found

    def _catch_up(self) -> None:
        """Learn what other processes wrote."""
        if _archives(self.path) != self._turned:
            self._open()
        with _named_damage():
            self._chain.catch_up()

    def _read_back(self) -> None:
        """Learn the lines of one more file that was put aside, the newest of those unread."""
        path, before = self._unread.pop()
        with _named_damage():
            lines = [_line(line, before.count) for line in ChainFile(path, _label(before)).lines()]
        older = {line.entry.subject: line for line in lines if line.entry.subject}
        self._newest = {**older, **self._newest}
        self._first, self._hashes = before.count + 1, [line.hash for line in lines] + self._hashes

    def _turn(self) -> None:
        """Put the full file aside; the next line begins a new one."""
        aside = self.path.with_name(f"{self.path.name}.{len(self._turned) + 1:04d}")
        with _writable(self.path):
            self.path.rename(aside)
            _head(self.path).rename(_head(aside))
            sync_folder(self.path.parent)
        self._open()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other writers out while a line is added and the file perhaps put aside."""
        with _writable(self.path):
            descriptor = os.open(
                self.path.with_name(f"{self.path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600
            )
        try:
            take_lock(descriptor)
            yield
        finally:
            os.close(descriptor)


def about_approval(study: str) -> str:
    """The subject of all lines about the approval of a study (digest)."""
    return f"approval {study}"


def existing_log(path: Path) -> AuditLog:
    """The log of a site's folder, which has lines from the folder's first second on.

    Raises:
        AuditDamaged: it is gone, or is not what this site wrote.
        LogUnwritable: it cannot be read.
    """
    log = AuditLog(path)
    if not log.head.count:
        raise AuditDamaged(
            f"{path}: the audit log is gone, without which nothing in this folder can be trusted "
            "to be the newest; put the newest copy of it back."
        )
    return log


def _archives(path: Path) -> tuple[Path, ...]:
    """The files put aside, oldest first."""
    return tuple(sorted(path.parent.glob(f"{path.name}.[0-9][0-9][0-9][0-9]")))


def _head(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _noted(path: Path) -> ChainHead:
    """Read the head beside a file that was put aside."""
    try:
        count, digest = _head(path).read_text(encoding="ascii").split()
        return ChainHead(int(count), bytes.fromhex(digest))
    except (OSError, ValueError):
        raise AuditDamaged(
            f"{_head(path)}: is missing or unreadable; restore the audit log from a backup."
        ) from None


def _label(before: ChainHead) -> str:
    """Each file's chain begins with the head of the one before it, so none can be exchanged."""
    return f"{LABEL} after {before}" if before.count else LABEL


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LogUnwritable(
            f"{path}: the log cannot be read or written ({error.strerror}); free disk space or "
            "repair the permissions, then try again."
        ) from None


@contextmanager
def _named_damage() -> Iterator[None]:
    try:
        yield
    except ChainBroken as error:
        raise AuditDamaged(str(error)) from None


def _line(line: ChainLine, before: int) -> AuditLine:
    try:
        return AuditLine(before + line.number, AuditEntry(**line.entry), line.hash)
    except (TypeError, AuditEntryInvalid):
        raise AuditDamaged(
            f"line {before + line.number} of the audit log is none that this release writes; read "
            "it with the release that wrote it."
        ) from None
