"""The coordinator's supervisor as a real process: however it ends, nothing of it stays behind."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import live_consortium
import pytest
from live_consortium import wait_until, write_certificates
from spare_ports import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nginx")]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Supervisor:
    """SuperLink and proxy under a process of their own."""

    def __init__(self, folder: Path) -> None:
        write_certificates(folder / "tls")
        self.folder, self.ports = folder, free_ports(3)
        self.process = None

    def start(self) -> None:
        command = [sys.executable, live_consortium.__file__, "supervise"]
        arguments = [self.folder / "coordinator", self.folder / "tls", *map(str, self.ports)]
        with (self.folder / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log)
        wait_until(lambda: self.log.count("ready: sites reach") == self.starts, 60, "ready")

    starts = 1

    @property
    def log(self) -> str:
        return (self.folder / "supervisor.log").read_text()

    @property
    def listening(self) -> list[bool]:
        return [listens(port) for port in self.ports]


@pytest.fixture
def supervisor(tmp_path):
    made = Supervisor(tmp_path)
    made.start()
    yield made
    made.process.kill()
    made.process.wait()


def test_a_killed_supervisor_leaves_no_orphan_and_a_new_one_starts(supervisor):
    assert all(supervisor.listening)
    supervisor.process.send_signal(signal.SIGKILL)
    supervisor.process.wait()
    wait_until(lambda: not any(supervisor.listening), 20, "ports free")
    supervisor.starts = 2
    supervisor.start()
    assert all(supervisor.listening)
    assert (supervisor.folder / "coordinator" / "superlink.log.1").exists()


def test_sigterm_stops_the_proxy_first_and_then_the_superlink(supervisor):
    supervisor.process.terminate()
    wait_until(lambda: not listens(supervisor.ports[0]), 20, "proxy gone")
    assert supervisor.process.wait(60) == 0
    assert not any(supervisor.listening)
