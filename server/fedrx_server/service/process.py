"""A process that is started again when it dies, whose log stays short, and that is no orphan."""

import ctypes
import logging
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from fedrx_common.backoff import Backoff
from fedrx_server.service import parent_death

_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 2**20
# The same for a process that is still to be started.
SETTING: Final = {"MALLOC_MMAP_THRESHOLD_": str(_LARGE_BYTES)}


def give_back_large_blocks() -> bool:
    """Set it for this process; False where the system has no such thing."""
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES))
    except (OSError, AttributeError, TypeError):
        return False


logger = logging.getLogger(__name__)
_STOP_WITHIN_S: Final = 10.0
_RESTART_WAITS: Final = Backoff(first=0.5, longest=30.0)
_STEADY_AFTER_S: Final = 60.0
# Each log has at most so much, and as much again in its predecessor.
_LOG_BYTES: Final = 4 * 2**20
# The kernel ends a child with the thread that started it, so one that stays starts them all.
_STARTER: Final = ThreadPoolExecutor(1, thread_name_prefix="children")


class Child:
    """A process that is started again when it dies: soon at first, later if it dies again.

    Args:
        name: For people.
        command: Program, as an absolute path, and its arguments.
        log: Where its output goes.
        env: Its whole environment.
    """

    def __init__(self, name: str, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.name, self.log = name, log
        self._command, self._env = command, env
        self._process: subprocess.Popen[bytes] | None = None
        self._early_deaths = 0  # in a row, each soon after a start
        self._started = self._due = 0.0

    @property
    def pid(self) -> int:
        """Its process id; 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it."""
        self._started = time.monotonic()
        self._process = _STARTER.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        bound = [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid())]
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command
                [*bound, *self._command],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C at the terminal is for the supervisor, which stops its children in order.
                start_new_session=True,
            )

    def begin_log(self) -> None:
        """Keep the log of last time as `.1` and begin a new one."""
        if self.log.exists():
            self.log.replace(_older(self.log))

    def trim_log(self) -> None:
        """Keep what is too long as `.1`; the child appends, and so goes on at the beginning."""
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            shutil.copyfile(self.log, _older(self.log))
            os.truncate(self.log, 0)

    def revive(self) -> None:
        """Start again if dead and if it is time."""
        now = time.monotonic()
        if self.alive:
            return
        if not self._due:
            steady = now - self._started > _STEADY_AFTER_S
            self._early_deaths = 0 if steady else self._early_deaths + 1
            wait = _RESTART_WAITS.after(1 + self._early_deaths)
            self._due = now + wait
            logger.error("%s died; see %s. Again in %.1f s", self.name, self.log, wait)
        elif now >= self._due:
            self._due = 0.0
            self.start()

    def stop(self) -> None:
        """Stop it, by force if it does not listen."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _older(log: Path) -> Path:
    return log.with_name(f"{log.name}.1")
