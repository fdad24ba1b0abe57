"""Runs many `fedrx` commands at a time, each in a process of its own that a test can kill.

Torch and Flower are imported once; a command is a forked child. What a test wants to go wrong
inside the child is arranged here, never in the product.

One JSON object a line in, one line out:
    {"argv": [...], "output": path, "fault": {...}?, "cwd": path?,
     "netns": name?, "file_limit": bytes?, "environment": {...}?}       ->  pid
    {"wait": pid, "timeout_s": x}                                     ->  exit status, or "alive"

Faults; a site that died of one is well when it is started again:
    {"die": "before reply" | "after reply" | "in unmask", "armed": path}    once the path exists
    {"slow_s": x, "rounds": [first, last]}
    {"lie": true}    shares that do not open in odd rounds, a commitment that fits nothing in even
    {"clock_s": x}
"""

import ctypes
import datetime as dt
import json
import os
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from flwr.supernode import node_auth_http_interceptor

import fedrx_server.rounds.loop  # noqa: F401 - imported once for all children
from fedrx.cli import main as main_command
from fedrx_client.connection import fleet
from fedrx_client.participation.site import Site
from fedrx_protocol.messages.secure_aggregation import SEALED_SHARE_BYTES

torch.set_num_threads(1)

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1


def die(when: str, armed: str) -> None:
    """Kill this process at a moment of the first round after the file `armed` appeared."""
    train, unmask, reply = Site.train, Site.unmask, fleet.Fleet.reply

    def kill(moment: str) -> None:
        if moment == when and Path(armed).exists():
            Path(armed).unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    def trained(site, request, weights):
        answer = train(site, request, weights)
        kill("before reply")
        return answer

    def replied(self, message):
        reply(self, message)
        if message.metadata.message_type.startswith("train"):
            kill("after reply")

    def unmasked(site, request):
        answer = unmask(site, request)
        kill("in unmask")
        return answer

    Site.train, Site.unmask, fleet.Fleet.reply = trained, unmasked, replied


def slow(seconds: float, rounds: list[int]) -> None:
    """Take so much longer to train, in some rounds."""
    train, (first, last) = Site.train, rounds

    def slowly(site, request, weights):
        if first <= request.round <= last:
            time.sleep(seconds)
        return train(site, request, weights)

    Site.train = slowly


def lie() -> None:
    """Train as agreed, and send what cannot be unmasked."""
    train = Site.train

    def lying(site, request, weights):
        masked = train(site, request, weights)
        if request.round % 2:
            return replace(masked, shares=dict.fromkeys(masked.shares, bytes(SEALED_SHARE_BYTES)))
        return replace(masked, commitment=bytes(32))

    Site.train = lying


def shift_clock(seconds: float) -> None:
    """Let this process's clock be off."""
    real, signed = time.time, node_auth_http_interceptor.now

    def shifted() -> float:
        # gRPC compares this clock with another one, and would wait for a day.
        for_grpc = sys._getframe(1).f_globals["__name__"].startswith("grpc")
        return real() if for_grpc else real() + seconds

    time.time = shifted
    node_auth_http_interceptor.now = lambda: signed() + dt.timedelta(seconds=seconds)


def install(fault: dict) -> None:
    """Arrange what is to go wrong in this process."""
    if "clock_s" in fault:
        shift_clock(fault["clock_s"])
    if "die" in fault:
        die(fault["die"], fault["armed"])
    if "lie" in fault:
        lie()
    if "slow_s" in fault:
        slow(fault["slow_s"], fault["rounds"])


def enter(netns: str) -> None:
    """Move this process into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/run/netns/{netns}", os.O_RDONLY)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter {netns}")
    os.close(descriptor)


def run_child(task: dict) -> None:
    """Be one `fedrx` command."""
    os.setsid()
    # Whatever becomes of the tests, nothing of theirs is left behind.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(task["output"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if task.get("cwd"):
        os.chdir(task["cwd"])
    if task.get("netns"):
        enter(task["netns"])
    if task.get("file_limit"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["file_limit"], resource.RLIM_INFINITY))
    os.environ.update(task.get("environment") or {})
    install(task.get("fault") or {})
    sys.argv = ["fedrx", *task["argv"]]
    code: object = 70
    try:
        main_command.main()
    except SystemExit as done:
        code = done.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0)


def wait(pid: int, timeout_s: float) -> str:
    """The exit status of a child, or that it is alive."""
    end = time.monotonic() + timeout_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return str(os.waitstatus_to_exitcode(status))
        if time.monotonic() > end:
            return "alive"
        time.sleep(0.02)


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        task = json.loads(line)
        if "wait" in task:
            answer = wait(task["wait"], task["timeout_s"])
        else:
            pid = os.fork()
            if pid == 0:
                run_child(task)
            answer = str(pid)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
