"""Files that are either as they were or as they should be, whenever the machine stops.

A file is written beside its place, flushed, and renamed into it. `sync=False` leaves the flush
out: the result survives a killed process, not a power cut (simulations ask for that).
"""

import os
from pathlib import Path

from fedrx_common.files import sync_folder, write_all

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
