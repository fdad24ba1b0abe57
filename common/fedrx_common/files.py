"""Files and folders on disk: written whole or not at all, and locked while they change.

Each party uses it for its own folders; nothing here knows what a consortium or a site is.
"""

import fcntl
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrx_common.errors import MisuseError

PARTIAL_SUFFIX = ".partial"
_LOCK_POLL_S = 0.05


class FolderUnusable(MisuseError):
    """A file or folder that cannot be read or written, or a new folder whose place is taken."""


class FolderDamaged(MisuseError):
    """A file of a party's own folder that is not what the party wrote; nothing of it is used."""


class LockHeld(MisuseError):
    """A lock that another process holds, and did not release in time."""


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder (mode 0700) under another name; it appears at `path` whole, or not at all.

    The next process that makes the same folder clears what a killed one left behind.

    Raises:
        FolderUnusable: `path` is there already, or is being made, or the disk does not let us.
    """
    path = path.absolute()
    partial = path.with_name(f".{path.name}.partial")
    with unusable(path):
        _require_absent(path)
        partial.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if not take_lock(descriptor, wait_s=0):
                raise FolderUnusable(f"{partial}: another process is making this folder.")
            _empty(partial)
            try:
                yield partial
                for root, _, _ in os.walk(partial):
                    sync_folder(Path(root))
                _require_absent(path)
                partial.rename(path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        finally:
            os.close(descriptor)
        sync_folder(path.parent)


@contextmanager
def locked(
    folder: Path,
    name: str = "",
    *,
    wait_s: float = math.inf,
    shared: bool = False,
    held: str = "",
) -> Iterator[None]:
    """Hold the lock of a folder, or of a file in it; it ends with the process at latest.

    Args:
        folder: keeps other processes out while it is changed.
        name: a lock file in it, made (mode 0600) if it is not there; the folder itself if empty.
        wait_s: how long to wait for another process; without limit by default, 0 for not at all.
        shared: whether others may hold it at the same time, if they share it too.
        held: what to say if another process still holds the lock, and what to do then.

    Raises:
        LockHeld: another process still holds the lock.
        FolderUnusable: the folder is not there, or not ours.
    """
    path = folder / name
    with unusable(path):
        flags = os.O_CREAT | os.O_RDWR if name else os.O_RDONLY | os.O_DIRECTORY
        descriptor = os.open(path, flags, 0o600)
    try:
        if not take_lock(descriptor, wait_s=wait_s, shared=shared):
            raise LockHeld(
                held or f"{path}: another process holds this lock; try again when it ends."
            )
        yield
    finally:
        os.close(descriptor)


def take_lock(descriptor: int, *, wait_s: float = math.inf, shared: bool = False) -> bool:
    """Take the lock of an open file or folder; closing it releases the lock.

    Args:
        descriptor: the open file or folder.
        wait_s: how long to wait for another process; without limit by default, 0 for not at all.
        shared: whether others may hold it at the same time, if they share it too.

    Returns:
        Whether the lock is taken; False if another process still holds it.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if wait_s == math.inf:
        fcntl.flock(descriptor, kind)
        return True
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_LOCK_POLL_S)
        else:
            return True


def release_lock(descriptor: int) -> None:
    """Release a lock and close its file, whatever processes were forked since it was taken.

    A forked process may hold a copy of the descriptor, so that closing this one is not enough.
    """
    fcntl.flock(descriptor, fcntl.LOCK_UN)
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
    with unusable(path):
        write_file(path, data, mode=0o600)


def write_public(path: Path, data: bytes) -> None:
    """Write a file that may be handed out (mode 0644), all or nothing, and onto the disk."""
    with unusable(path):
        write_file(path, data, mode=0o644)


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
        raise FolderUnusable(f"{path}: exists already; name a folder that does not.")


def _empty(folder: Path) -> None:
    """Remove what a killed process left in a folder that it was making."""
    folder.chmod(0o700)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_file(path: Path, data: bytes, *, mode: int | None = None, sync: bool = True) -> None:
    """Replace `path` by `data`, all or nothing.

    Args:
        path: the file; `PATH.partial` is written first, and a leftover of that name is removed.
        data: all that it holds.
        mode: its permissions, whatever the umask; 0644 less the umask if left out.
        sync: whether it must survive a power cut from the moment that this returns.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    partial.unlink(missing_ok=True)  # others may have it open, or be allowed to read it
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    descriptor = os.open(partial, flags, 0o644 if mode is None else mode)
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
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
    """Read the lines that were written to their end, and whether a torn one follows them."""
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
