"""The one set-up of logging of a process: a file of bounded size and, for a person, the console.

Libraries and modules only ask for a logger by name. The program that a person or the system starts
decides here where the lines go.
"""

import logging
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import MappingProxyType

from fedrx_common.files import FolderUnusable

QUIET_CLIENT: Mapping[str, int] = MappingProxyType({"": logging.INFO, "httpx": logging.WARNING})
"""Levels of a process whose HTTP client would log every call."""


class _PrivateFile(RotatingFileHandler):
    """A log that only this user may read: a trace in it could quote a patient."""

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).touch(mode=0o600)
        return super()._open()


def log_to(
    path: Path,
    *,
    most_bytes: int,
    older_files: int,
    levels: Mapping[str, int | str] = QUIET_CLIENT,
    form: str = "%(asctime)s %(levelname)s %(message)s",
    times: str | None = None,
    console: bool = True,
    private: bool = False,
) -> None:
    """Log to a file of bounded size, and to standard error.

    Args:
        path: the file; `PATH.1` is the one before it, and so on.
        most_bytes: how long a file may be.
        older_files: how many files are kept beside the newest.
        levels: by logger, the least level that is written; the name "" is the root's.
        form: of a line, in the words of `logging`.
        times: of the time in a line; to the millisecond if left out.
        console: whether standard error shows the lines too.
        private: whether only this user may read the file.

    Raises:
        FolderUnusable: the file cannot be written.
    """
    kind = _PrivateFile if private else RotatingFileHandler
    try:
        file = kind(path, maxBytes=most_bytes, backupCount=older_files, encoding="utf-8")
    except OSError as error:
        raise FolderUnusable(f"{path}: cannot be written ({error.strerror}).") from None
    handlers: list[logging.Handler] = [file]
    if console:
        handlers.append(logging.StreamHandler(sys.stderr))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(form, times))
        logging.getLogger().addHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.raiseExceptions = False  # a full disk must not print a trace for every line
