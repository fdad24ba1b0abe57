"""A hash-chained log in a file of JSON lines; a line is on disk before `append` returns.

Beside the file stands its head (`NAME.head`: count and hash), so that a removed last line is
found too. A line cut short by a crash was never acknowledged and is dropped at the next append.
Several processes may append; each takes the file's lock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrx_protocol.chain import (
    ChainBroken,
    ChainHead,
    ChainLine,
    genesis,
    next_line,
    verify_lines,
)
from fedrx_protocol.errors import MisuseError
from fedrx_protocol.private_files import sync_folder, write_all


class LogUnwritable(MisuseError):  # noqa: N818 - named for what happened
    """The log cannot be read or written; what is not recorded must not happen."""


class ChainFile:
    """A chained log at `path`, verified when it is opened.

    Args:
        path: the file; made with mode 0600 by the first append.
        label: what kind of log it is; another label's file does not verify.

    Raises:
        ChainBroken: a line was changed, removed or reordered.
        LogUnwritable: the file cannot be read.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path = path
        self._genesis = genesis(label)
        self._head, self._size = self._genesis, 0
        self.verify()

    def append(self, entry: dict[str, Any]) -> ChainLine:
        """Add one line; it is on disk when this returns.

        Raises:
            LogUnwritable: it could not be written (disk full, read-only); nothing was added.
            ChainBroken: another process changed the file since.
        """
        with self._named_errors(), self._locked(os.O_CREAT | os.O_RDWR | os.O_APPEND) as descriptor:
            self._catch_up(descriptor)
            line = next_line(self._head, entry)
            data = line.to_bytes() + b"\n"
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, self._size)
                raise
            self._head, self._size = line.head, self._size + len(data)
            self._write_head(line.head)
            return line

    def lines(self) -> tuple[ChainLine, ...]:
        """All lines, oldest first, read from disk and verified.

        Raises:
            ChainBroken: names the first line that was changed, removed or reordered.
        """
        with self._named_errors():
            if not self.path.exists() and not self._head_path.exists():
                return ()
            with self._locked(os.O_RDONLY) as descriptor:
                return self._read(descriptor)

    def verify(self) -> ChainHead:
        """Check every line on disk and return the head.

        Raises:
            ChainBroken: names the first line that was changed, removed or reordered.
        """
        lines = self.lines()
        return lines[-1].head if lines else self._genesis

    @property
    def _head_path(self) -> Path:
        return self.path.with_name(self.path.name + ".head")

    @contextmanager
    def _locked(self, flags: int) -> Iterator[int]:
        new = not self.path.exists()
        descriptor = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if new:
                sync_folder(self.path.parent)
            yield descriptor
        finally:
            os.close(descriptor)

    def _catch_up(self, descriptor: int) -> None:
        """Believe memory only if the file has the size we left it with."""
        if os.fstat(descriptor).st_size != self._size:
            self._read(descriptor)
            os.ftruncate(descriptor, self._size)

    def _read(self, descriptor: int) -> tuple[ChainLine, ...]:
        """Verify the whole lines; a torn one after them is left out."""
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        *whole, torn = data.split(b"\n")
        try:
            lines = tuple(verify_lines(self._genesis, whole))
            head = lines[-1].head if lines else self._genesis
            self._require_head(head, lines)
        except ChainBroken as error:
            raise ChainBroken(
                f"{self.path}: {error}; keep the file as evidence, find out who wrote to it, and "
                "go on with the copy of a backup."
            ) from None
        self._head, self._size = head, len(data) - len(torn)
        return lines

    def _require_head(self, head: ChainHead, lines: tuple[ChainLine, ...]) -> None:
        """The head on disk is the last line, or the one before it after a crash in between."""
        noted = self._noted_head()
        if noted.count > head.count:
            raise ChainBroken(f"line {head.count + 1} was removed from the end")
        before = lines[-2].head if len(lines) > 1 else self._genesis
        if noted not in (head, before):
            raise ChainBroken(f"its head was replaced by that of {noted.count} lines")

    def _noted_head(self) -> ChainHead:
        if not self._head_path.exists():
            return self._genesis
        try:
            count, digest = self._head_path.read_text(encoding="ascii").split()
            return ChainHead(int(count), bytes.fromhex(digest))
        except ValueError:
            raise ChainBroken("its head is unreadable") from None

    def _write_head(self, head: ChainHead) -> None:
        """Written in place: 85 bytes, less than the smallest sector, so never torn."""
        new = not self._head_path.exists()
        descriptor = os.open(self._head_path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            write_all(descriptor, f"{head.count:020d} {head.hash.hex()}".encode("ascii"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(self.path.parent)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LogUnwritable(
                f"{self.path}: the log cannot be read or written ({error.strerror}); free disk "
                "space or repair the permissions, then try again."
            ) from None
