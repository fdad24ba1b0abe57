"""Whether a coordinator serves a consortium's folder: one at a time, seen by all others."""

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
from fedrx_server.runs.files import try_lock

_LOCK_PATIENCE_S: Final = 1.0
_SERVING: Final = "serving.json"
_LOCK: Final = "lock"


class CoordinatorRunning(MisuseError):
    """Two coordinators on one folder would drive every run twice."""


def is_serving(consortium: Path) -> bool:
    """Whether a coordinator serves this folder now."""
    descriptor = try_lock(consortium / _LOCK, mode=0o600, shared=True)
    if descriptor is None:
        return True
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
    """Write it down, for commands that show the status."""
    document = json.dumps(asdict(serving), sort_keys=True)
    write_file(consortium / _SERVING, document.encode(), sync=False)


def serving_of(consortium: Path) -> Serving | None:
    """What serves this folder now; None if nothing does."""
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
    end = time.monotonic() + _LOCK_PATIENCE_S
    while (descriptor := try_lock(consortium / _LOCK, mode=0o600)) is None:
        # Another process may only be looking whether a coordinator serves.
        if time.monotonic() > end:
            raise CoordinatorRunning(
                f"{consortium}: a coordinator is running in this folder already; stop it first."
            )
        time.sleep(0.05)
    try:
        yield
    finally:
        os.close(descriptor)
