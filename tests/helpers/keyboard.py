"""Commands that hear Control-C, however the tests themselves were started.

A test run in the background of a shell ignores SIGINT, and its children inherit that. A small
program between the two puts it right: code between fork and exec would run in a copy of this
process, whose threads may hold any lock.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FEDRX = Path(sys.executable).with_name("fedrx")
_LAUNCHER = (
    "import os, signal, sys; "
    "signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


def start_fedrx(argv: Sequence[str], **given: Any) -> subprocess.Popen:
    """Start `fedrx` as a person at a keyboard would; `given` as for `subprocess.Popen`."""
    return subprocess.Popen([sys.executable, "-c", _LAUNCHER, FEDRX, *argv], **given)
