"""Whether a coordinator serves a consortium's folder: one at a time, seen by all others."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from pydantic import with_config

from fedrx_common.documents import STRICT, DocumentInvalid, read
from fedrx_common.files import LockHeld, locked, write_file

_LOCK_PATIENCE_S: Final = 1.0
_SERVING: Final = "serving.json"
_LOCK: Final = "lock"


def is_serving(consortium: Path) -> bool:
    """Whether a coordinator serves this folder now."""
    try:
        with locked(consortium, _LOCK, wait_s=0, shared=True):
            return False
    except LockHeld:
        return True


@with_config(STRICT)
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
        return read(consortium / _SERVING, Serving)
    except (OSError, DocumentInvalid):
        # It has only just begun, or another release wrote the file.
        return Serving()


@contextmanager
def exclusive(consortium: Path) -> Iterator[None]:
    """Be the only coordinator of a folder; the lock ends with the process, however it ends.

    Raises:
        LockHeld: Another process serves this folder.
    """
    running = f"{consortium}: a coordinator is running in this folder already; stop it first."
    # Waits a little: another process may only be looking whether a coordinator serves.
    with locked(consortium, _LOCK, wait_s=_LOCK_PATIENCE_S, held=running):
        yield
