"""The demonstration of deploy/ without a container engine: its scripts and commands as processes.

Volumes are folders, the coordinator's name is localhost, ports are free ones; all else is as in
`deploy/compose.yaml`. Where root may make a mount namespace, the services have a read-only root
and a small `/tmp` too.
"""

import json
import os
import runpy
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from live_consortium import BUSY, wait_until
from spare_ports import free_ports

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SITES = ("charite", "mayo", "osaka")
PROGRAMS = Path(sys.executable).parent
PROBE = runpy.run_path(str(DEPLOY / "probe.py"))
QUIET = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
# Nothing can be written but the volumes and a temporary file system of the compose file's size; it
# is not at /tmp, where a test's own folder may lie.
SHUT_IN = """
mount --make-rprivate / && mount --bind "$1" "$1" && mount -t tmpfs -o size=256m tmpfs /var/tmp &&
mount -o remount,bind,ro / || exit 99
shift
export HOME=/var/tmp TMPDIR=/var/tmp FLWR_HOME=/var/tmp/flower PYTHONDONTWRITEBYTECODE=1
exec "$@"
"""
ENVIRONMENT = {**os.environ, **QUIET, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}


def check(*command):
    """Run a command; whatever it complains about is the test's message."""
    done = subprocess.run(
        list(map(str, command)),
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Demonstration:
    """The services of the compose file in one folder."""

    def __init__(self, folder: Path) -> None:
        self.data, self.secrets = folder / "data", folder / "secrets"
        self.services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
        self.started: dict[str, subprocess.Popen] = {}
        door, inner, health, *probes = free_ports(3 + len(SITES))
        self.probes = {"coordinator": health, **dict(zip(SITES, probes, strict=True))}
        self._own = {
            "--host=0.0.0.0": "--host=127.0.0.1",
            "--port=8443": f"--port={door}",
            "--health-port=9444": f"--health-port={health}",
            "--coordinator=coordinator:8443": f"--coordinator=localhost:{door}",
        }
        self._inner = f"--inner-port={inner}"
        for party in ("coordinator", *SITES):
            (self.data / party).mkdir(parents=True)
        shut_in = ["unshare", "-m", "sh", "-c", SHUT_IN, "sh", str(self.data)]
        touch = [*shut_in, "touch", str(folder / "leak")]
        # With the mounts made, `touch` itself fails: the root is read-only.
        tried = subprocess.run(touch, check=False, capture_output=True)
        self.read_only = tried.returncode == 1
        self._prefix = shut_in if self.read_only else []

    def bootstrap(self) -> str:
        """Make the passphrases, found, enrol, approve."""
        check("sh", DEPLOY / "demo" / "secrets.sh", self.secrets)
        return check(
            "sh", DEPLOY / "demo" / "bootstrap.sh", self.data, DEPLOY / "demo", self.secrets
        )

    def start(self, name: str) -> None:
        """Start a service with its command."""
        words = [self._own.get(word, word) for word in self.services[name]["command"]]
        words = [word.replace("/run/secrets", str(self.secrets)) for word in words]
        words = [word.replace("/data", str(self.data)) for word in words]
        if name in SITES:
            probe = f"--health-port={self.probes[name]}"
            words = [probe if word.startswith("--health-port") else word for word in words]
        else:
            words.append(self._inner)
        with (self.data / f"{name}.out").open("wb") as output:
            self.started[name] = subprocess.Popen(
                [*self._prefix, PROGRAMS / "fedrx", *words],
                stdout=output,
                stderr=output,
                env=ENVIRONMENT,
            )

    def healthy(self, name: str) -> bool:
        """What the container engine asks, without a process for each time."""
        return bool(PROBE["is_serving"](self.probes[name]))

    def stop(self) -> dict[str, int]:
        """Stop as a container engine does; gives exit statuses."""
        for process in self.started.values():
            process.send_signal(signal.SIGTERM)
        grace = int(self.services["coordinator"]["stop_grace_period"].removesuffix("s"))
        return {name: process.wait(grace * BUSY) for name, process in self.started.items()}


@pytest.fixture
def demonstration(tmp_path):
    made = Demonstration(tmp_path)
    yield made
    for process in made.started.values():
        if process.poll() is None:
            process.kill()
            process.wait()


def test_from_nothing_to_rounds(nginx, demonstration):
    demonstration.bootstrap()
    data = demonstration.data
    for site in SITES:
        said = check("fedrx", "site", "approvals", data / site / "site", "--json")
        (approval,) = json.loads(said)["approvals"]
        assert (approval["name"], approval["state"]) == ("warfarin_demo", "in force")
        keys = (data / site / "site").glob("keys-*/*.key")
        assert {stat.S_IMODE(key.stat().st_mode) for key in keys} <= {0o600}
    assert "already" in demonstration.bootstrap()

    for name in ("coordinator", *SITES):
        demonstration.start(name)
    for name in ("coordinator", *SITES):
        wait_until(lambda name=name: demonstration.healthy(name), 60, f"{name} is healthy")

    consortium = data / "coordinator" / "consortium"
    study = DEPLOY / "demo" / "study.toml"
    begun = check("fedrx", "coordinator", "run", consortium, study, "--detach", "--json")
    rounds = Path(json.loads(begun)["folder"]) / "rounds.jsonl"
    wait_until(lambda: rounds.is_file() and len(rounds.read_text().splitlines()) > 1, 60, "rounds")
    assert set(demonstration.stop().values()) == {0}
    spent = check("fedrx", "site", "ledger", data / "charite" / "site")
    assert "warfarin_demo" in spent
    if not demonstration.read_only:
        pytest.skip("READ-ONLY ROOT UNCHECKED (needs root and unshare); all else passed")
