"""Runs `fedrx` again and again, each time in a process of its own that can be killed.

Torch and Flower are imported once; every command line from standard input is run by a forked
child. What a test wants to happen inside the child is arranged here, never in the product: the
child may kill itself just before its n-th file operation, or around an UNMASK; or the kernel ends
it, wherever it is, once it has computed for so long, which no other work on the machine changes.

One JSON object a line in: {"argv": [...], "kill_at": n?, "kill_unmask": [round, answered]?,
"kill_after_cpu_s": x?, "answers": path?, "output": path}. One line out: its exit status, how many
file operations it did, and for how many seconds it computed.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import torch

from fedrx import api
from fedrx.cli import main as main_command
from fedrx_client.participation.site import Site
from fedrx_client.records.database import SiteStore

torch.set_num_threads(1)

_AUDITED = {"open", "os.rename", "os.remove", "os.mkdir"}


class Operations:
    """Counts what changes files, and kills this process just before a given one."""

    def __init__(self, kill_at: int | None) -> None:
        self.count = 0
        self._kill_at = kill_at

    def install(self) -> None:
        sys.addaudithook(self._audit)
        original = SiteStore._leave

        def leave(store, connection, how):
            self.step()
            original(store, connection, how)
            self.step()

        SiteStore._leave = leave

    def step(self) -> None:
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _audit(self, event: str, args: tuple) -> None:
        if event in _AUDITED and (event != "open" or _writes(args)):
            self.step()


def _writes(args: tuple) -> bool:
    _, mode, flags = args
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) or (mode is not None and mode != "r")


def log_answers(path: str) -> None:
    """Write down every masked vector that a site hands out."""
    train = Site.train

    def logged(site, request, weights):
        reply = train(site, request, weights)
        with Path(path).open("a") as file:
            file.write(f"{site.name} {request.round} {request.attempt}\n")
        return reply

    Site.train = logged


def kill_around_unmask(round_number: int, answered: int) -> None:
    """Die in a round's UNMASK once `answered` sites have answered it; 0: before the first."""
    unmask, done, current = Site.unmask, [0], [0]
    train = Site.train

    def seen(site, request, weights):
        current[0] = request.round
        return train(site, request, weights)

    def counted(site, request):
        if current[0] == round_number and answered == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        reply = unmask(site, request)
        if current[0] == round_number:
            done[0] += 1
            if done[0] == answered:
                os.kill(os.getpid(), signal.SIGKILL)
        return reply

    Site.train, Site.unmask = seen, counted


def run_child(task: dict, report: int) -> None:
    if "answers" in task:
        log_answers(task["answers"])
    if "kill_unmask" in task:
        kill_around_unmask(*task["kill_unmask"])
    output = os.open(task["output"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    operations = Operations(task.get("kill_at"))
    operations.install()
    if "kill_after_cpu_s" in task:  # nobody handles SIGPROF, and so it kills
        signal.setitimer(signal.ITIMER_PROF, task["kill_after_cpu_s"])
    sys.argv = ["fedrx", *task["argv"]]
    code = 70
    try:
        main_command.main()
    except SystemExit as done:
        code = done.code
    os.write(report, str(operations.count).encode())
    sys.stdout.flush()
    os._exit(code)


def warm_up() -> None:
    """Run a small study once, so that whatever is imported on first use is there for all."""
    study = api.override(api.default_study()[0], rounds=1)
    with tempfile.TemporaryDirectory() as folder:
        source = api.SyntheticSites(sites=3, patients=(20, 20))
        api.simulate(study, source=source, seed=0, output=Path(folder) / "run")


def answer(*values: object) -> None:
    sys.stdout.write(" ".join(map(str, values)) + "\n")
    sys.stdout.flush()


def main() -> None:
    warm_up()
    for line in sys.stdin:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            run_child(json.loads(line), write)
        os.close(write)
        _, status, used = os.wait4(pid, 0)
        count = os.read(read, 32).decode() or "0"
        os.close(read)
        answer(os.waitstatus_to_exitcode(status), count, used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    main()
