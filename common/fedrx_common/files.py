"""Files and folders that hold private keys: readable by their owner alone, whole or not there.

Used by both ends, each for its own folder; nothing here knows what a consortium or a site is.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrx_common.errors import MisuseError


class FolderExists(MisuseError):
    """The folder is there already; overwriting it could destroy keys that nobody else has."""


class FolderUnusable(MisuseError):
    """A file or folder of keys cannot be read or written."""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder (mode 0700) under another name; it appears at `path` whole, or not at all.

    What a killed process left behind is cleared by the next one that makes the same folder.

    Raises:
        FolderExists: `path` is there already, or is being made.
        FolderUnusable: the disk does not let us.
    """
    path = path.absolute()
    partial = path.with_name(f".{path.name}.partial")
    with unusable(path):
        _require_absent(path)
        with _claimed(partial):
            try:
                yield partial
                _sync_tree(partial)
                _require_absent(path)
                partial.rename(path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        sync_folder(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` while it is changed; waits for them.

    Raises:
        FolderUnusable: it is not there, or not ours.
    """
    with unusable(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def unusable(path: Path) -> Iterator[None]:
    """Name an operating system's error after the file it happened to."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise FolderUnusable(
            f"{where}: cannot be read or written ({error.strerror}); check the path, the disk and "
            "the permissions, then try again."
        ) from None


def write_private(path: Path, data: bytes) -> None:
    """Write a file with mode 0600, all or nothing, and onto the disk."""
    _write(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Write a file that may be handed out (mode 0644), all or nothing, and onto the disk."""
    _write(path, data, 0o644)


def sync_folder(folder: Path) -> None:
    """Flush a folder's names, without which a new file may be lost in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; the system may take fewer at once."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _require_absent(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise FolderExists(f"{path}: exists already; name a folder that does not.")


@contextmanager
def _claimed(partial: Path) -> Iterator[None]:
    """Make `partial` ours; a leftover that no living process holds is cleared first."""
    partial.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderExists(f"{partial}: another process is making this folder.") from None
        _empty(partial)
        yield
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    folder.chmod(0o700)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync_tree(folder: Path) -> None:
    for root, _, _ in os.walk(folder):
        sync_folder(Path(root))


def _write(path: Path, data: bytes, mode: int) -> None:
    partial = path.with_name(path.name + ".partial")
    with unusable(path):
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        try:
            os.fchmod(descriptor, mode)
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
        sync_folder(path.parent)


PARTIAL_SUFFIX = ".partial"


def write_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace `path` by `data`, all or nothing."""
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    descriptor = os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    try:
        write_all(descriptor, data)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(path)
    if sync:
        sync_folder(path.parent)


def append_line(path: Path, line: bytes, *, sync: bool = True) -> None:
    """Append one line; a crash may leave a torn last line, which `whole_lines` finds."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    try:
        write_all(descriptor, line + b"\n")
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def whole_lines(path: Path) -> tuple[list[bytes], bool]:
    """The lines that were written to their end, and whether a torn one follows them."""
    data = path.read_bytes() if path.exists() else b""
    *lines, rest = data.split(b"\n")
    return lines, bool(rest)


def remove_file(path: Path, *, sync: bool = True) -> None:
    """Remove a file that may be gone already."""
    path.unlink(missing_ok=True)
    if sync:
        sync_folder(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Remove what an interrupted `write_file` left behind."""
    for partial in folder.rglob(f"*{PARTIAL_SUFFIX}"):
        partial.unlink(missing_ok=True)
