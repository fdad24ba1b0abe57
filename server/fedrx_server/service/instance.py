"""Whether somebody serves a consortium's folder: one process at a time, seen by all others."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from fedrx_common.documents import read_json
from fedrx_common.errors import MisuseError
from fedrx_common.files import write_file

_LOCK_PATIENCE_S: Final = 1.0
_SERVING: Final = "serving.json"


class CoordinatorRunning(MisuseError):
    """Two coordinators on one folder would drive every run twice."""


def is_serving(consortium: Path) -> bool:
    """Whether a coordinator serves this folder now."""
    descriptor = os.open(_lock_path(consortium), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@dataclass(frozen=True)
class Serving:
    """What serves a consortium's folder, and which of its sites have shown themselves lately.

    Args:
        processes: Process ids by name.
        online: By site; a site that was never there is not online.
    """

    processes: Mapping[str, int] = field(default_factory=dict)
    online: Mapping[str, bool] = field(default_factory=dict)


def write_instance(consortium: Path, serving: Serving) -> None:
    """Write it down, for whoever asks for the status."""
    document = json.dumps(asdict(serving), sort_keys=True)
    write_file(consortium / _SERVING, document.encode(), sync=False)


def serving_of(consortium: Path) -> Serving | None:
    """What serves this folder now; None if nobody does."""
    if not is_serving(consortium):
        return None
    try:
        told = read_json((consortium / _SERVING).read_bytes())
        processes = {str(name): int(pid) for name, pid in told["processes"].items()}
        return Serving(processes, {str(s): bool(on) for s, on in told["online"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # It has only just begun, or another release wrote the file.
        return Serving()


@contextmanager
def exclusive(consortium: Path) -> Iterator[None]:
    """Be the only coordinator of a folder; the lock ends with the process, however it ends.

    Raises:
        CoordinatorRunning: Another process serves this folder.
    """
    descriptor = os.open(_lock_path(consortium), os.O_CREAT | os.O_RDWR, 0o600)
    end = time.monotonic() + _LOCK_PATIENCE_S
    try:
        while not _locked(descriptor):
            # Somebody may only be looking whether anybody serves.
            if time.monotonic() > end:
                raise CoordinatorRunning(
                    f"{consortium}: a coordinator is running in this folder already; stop it first."
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock_path(consortium: Path) -> Path:
    return consortium / "lock"
