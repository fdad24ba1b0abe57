"""A hash-chained log in a file of JSON lines; a line is on disk before `append` returns.

Beside the file is its head (`NAME.head`: count and hash), so that a removed last line is found too.
A line cut short by a crash was never acknowledged and is dropped at the next append.
Several processes may append; each takes the file's lock.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from fedrx_common.errors import MisuseError
from fedrx_common.files import sync_folder, take_lock, write_all
from fedrx_common.hash_chain import (
    ChainBroken,
    ChainHead,
    ChainLine,
    genesis,
    next_line,
    verify_lines,
)


class LogUnwritable(MisuseError):
    """A log that cannot be read or written; what is not recorded must not happen."""


class ChainFile:
    """A chained log at `path`, verified when it is opened.

    Args:
        path: the file; made with mode 0600 by the first append.
        label: what kind of log it is; another label's file does not verify.
        learn: is given each line once, in order: those that are there, then those that any process
            adds, as soon as this one meets them.

    Raises:
        ChainBroken: a line was changed, removed or reordered.
        LogUnwritable: the file cannot be read.
    """

    def __init__(
        self, path: Path, label: str, *, learn: Callable[[ChainLine], None] | None = None
    ) -> None:
        self.path = path
        self._genesis = genesis(label)
        self._learn = learn or (lambda _: None)
        self._head, self._size = self._genesis, 0
        self.catch_up()

    @property
    def head(self) -> ChainHead:
        """The head when this process last looked."""
        return self._head

    def append(self, entry: dict[str, Any]) -> ChainLine:
        """Add one line; it is on disk when this returns.

        Raises:
            LogUnwritable: it could not be written (disk full, read-only); nothing was added.
            ChainBroken: another process changed the file since.
        """
        with self._named_errors(), self._locked(os.O_CREAT | os.O_RDWR | os.O_APPEND) as descriptor:
            self._catch_up(descriptor)
            os.ftruncate(descriptor, self._size)
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
            self._learn(line)
            return line

    def catch_up(self) -> None:
        """Read and verify the lines that were added since this process last looked.

        Raises:
            ChainBroken: what is on disk does not continue what was read before.
        """
        with self._named_errors():
            if self._size or self._is_there():
                with self._locked(os.O_RDONLY) as descriptor:
                    self._catch_up(descriptor)

    def lines(self) -> tuple[ChainLine, ...]:
        """All lines, oldest first, read from disk and verified.

        Raises:
            ChainBroken: names the first line that was changed, removed or reordered.
        """
        with self._named_errors():
            if not self._is_there():
                return ()
            with self._locked(os.O_RDONLY) as descriptor:
                return self._read(descriptor, self._genesis, 0)[0]

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
            take_lock(descriptor)
            if new:
                sync_folder(self.path.parent)
            yield descriptor
        finally:
            os.close(descriptor)

    def _is_there(self) -> bool:
        return self.path.exists() or self._head_path.exists()

    def _catch_up(self, descriptor: int) -> None:
        """Trust memory only if the file has the size that this process last saw."""
        if 0 < self._size == os.fstat(descriptor).st_size:
            return
        lines, size = self._read(descriptor, self._head, self._size)
        self._head, self._size = (lines[-1].head if lines else self._head), size
        for line in lines:
            self._learn(line)

    def _read(
        self, descriptor: int, known: ChainHead, offset: int
    ) -> tuple[tuple[ChainLine, ...], int]:
        """Verify the whole lines behind those known, and give where they end.

        A torn line after them was never acknowledged and is left out.
        """
        size = os.fstat(descriptor).st_size
        data = os.pread(descriptor, max(size - offset, 0), offset)
        *whole, torn = data.split(b"\n")
        try:
            if size < offset:
                _refuse_removed(os.pread(descriptor, size, 0).count(b"\n"))
            lines = tuple(verify_lines(known, whole))
            self._check_head([known, *(line.head for line in lines)])
        except ChainBroken as error:
            raise ChainBroken(
                f"{self.path}: {error}; keep the file as evidence, find out who wrote to it, and "
                "go on with the copy of a backup."
            ) from None
        return lines, offset + len(data) - len(torn)

    def _check_head(self, heads: list[ChainHead]) -> None:
        """Compare the head on disk: it is the last, or the one before after a crash in between."""
        noted = self._genesis
        if self._head_path.exists():
            try:
                count, digest = self._head_path.read_text(encoding="ascii").split()
                noted = ChainHead(int(count), bytes.fromhex(digest))
            except ValueError:
                raise ChainBroken("its head is unreadable") from None
        if noted.count > heads[-1].count:
            _refuse_removed(heads[-1].count)
        if noted not in heads[-2:]:
            raise ChainBroken(f"its head was replaced by that of {noted.count} lines")

    def _write_head(self, head: ChainHead) -> None:
        """Write in place: 85 bytes, less than the smallest sector, so never torn."""
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


def _refuse_removed(left: int) -> NoReturn:
    raise ChainBroken(f"line {left + 1} was removed from the end")
