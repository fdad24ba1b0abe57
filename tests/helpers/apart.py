"""Runs a function of a test file in a new process, which may die, fork and be waited for.

It is not forked from the tests' own process: a copy of that would hold the locks of threads that
are not copied, gRPC's among them.
"""

import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def start(function: Callable[..., object], *arguments: object) -> subprocess.Popen:
    """Call a function, which its test file must have by name, with what can be pickled.

    The file is read anew there: whatever it takes from the clock has another value.
    """
    file, name = function.__code__.co_filename, function.__name__
    given = pickle.dumps(arguments).hex()
    return subprocess.Popen(
        [sys.executable, __file__, file, name, given], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def exit_code(function: Callable[..., object], *arguments: object) -> int:
    """Call a function to its end, or to the process's."""
    with start(function, *arguments) as process:
        return process.wait()


if __name__ == "__main__":
    sys.path.append(str(Path(sys.argv[1]).parent))
    runpy.run_path(sys.argv[1])[sys.argv[2]](*pickle.loads(bytes.fromhex(sys.argv[3])))
