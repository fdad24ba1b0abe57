"""A coordinator and its hospitals as real processes on loopback, driven by the `fedrx` command.

Whatever a test does here a person could type. The processes are forked from a nursery that has
imported everything once; see `nursery` for what can be made to go wrong in them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from live_consortium import BUSY, wait_until
from small_doses import MAPPING, SCHEMA
from spare_ports import free_ports

from fedrx_client.records.database import SiteStore
from fedrx_client.records.ledger import Ledger
from fedrx_protocol.privacy.events import Release
from fedrx_server.gateway.control import SuperLinkAddress

STUDY = """
name = "small_dose"
[cohort]
patients = {patients}
largest_site = 200
minimum_per_site = 10
held_out = 0.3
[model]
name = "linear"
[training]
rounds = {rounds}
[training.optimizer]
learning_rate = 0.5
[privacy]
mode = "{mode}"
epsilon = 8.0
reserve_rounds = 30
[metrics]
evaluations = 2
[schedule]
round_deadline_s = {deadline_s}
"""


def table(site: str, patients: int) -> str:
    """Patients whose dose follows weight and genotype."""
    lines = ["id,dose,weight,snp"]
    for i in range(patients):
        snp, weight = ("CC", "CT", "TT")[i % 3], 45 + (i * 7 + len(site)) % 60
        lines.append(f"{site}-{i},{20 + 0.3 * weight - 5 * (i % 3):g},{weight},{snp}")
    return "\n".join(lines) + "\n"


class Nursery:
    """Forks `fedrx` commands; see the module of that name."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"},
        )

    def start(self, argv: Sequence[object], output: Path, **arranged: Any) -> int:
        """Start a command; gives its pid."""
        argv = [str(part) for part in argv]
        return int(self._ask({"argv": argv, "output": str(output), **arranged}))

    def wait(self, pid: int, timeout_s: float) -> int | None:
        """Exit status of a command; None if it still runs after so long."""
        answer = self._ask({"wait": pid, "timeout_s": timeout_s * BUSY})
        return None if answer == "alive" else int(answer)

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _ask(self, task: dict[str, Any]) -> str:
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@dataclass
class Running:
    """A command that stays: a coordinator, a site; not well if something goes wrong in it."""

    nursery: Nursery
    pid: int
    output: Path
    well: bool = True
    status: int | None = None

    @property
    def text(self) -> str:
        """What it wrote."""
        return self.output.read_text() if self.output.exists() else ""

    def alive(self) -> bool:
        """Whether it still runs."""
        if self.status is None:
            self.status = self.nursery.wait(self.pid, 0)
        return self.status is None

    def tell(self, number: int) -> None:
        """Send a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 30) -> int:
        """Signal it and wait until it is gone; gives the exit status."""
        if self.alive():
            self.tell(number)
            self.status = self.nursery.wait(self.pid, timeout_s)
        assert self.status is not None, f"pid {self.pid} does not end:\n{self.text[-3000:]}"
        return self.status


@dataclass
class Town:
    """One consortium: its folders, its processes, and what they left on disk.

    Args:
        folder: for everything.
        nursery: starts processes.
        names: site ids.
        patients: per site.
    """

    folder: Path
    nursery: Nursery
    names: tuple[str, ...]
    patients: int = 40
    listen: str = "127.0.0.1"
    hosts: tuple[str, ...] = ("localhost",)
    coordinator: Running | None = field(default=None, init=False)
    sites: dict[str, Running] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.public, self.inner, self.probe, *probes = free_ports(3 + len(self.names))
        self.probes = dict(zip(self.names, probes, strict=True))

    # --- commands ---

    def done(self, *argv: object, code: int = 0, timeout_s: float = 120, **arranged: Any) -> str:
        """Run a command to its end; gives what it printed."""
        output = self.folder / f"command-{time.monotonic_ns()}.txt"
        pid = self.nursery.start(argv, output, **arranged)
        status = self.nursery.wait(pid, timeout_s)
        text = output.read_text()
        assert status == code, f"{' '.join(map(str, argv))}: {status}\n{text}"
        return text

    def json(self, *argv: object, code: int = 0) -> Any:
        """Run a command with --json; gives what it printed, parsed."""
        lines = self.done(*argv, "--json", code=code).strip().splitlines()
        return json.loads(lines[-1])

    # --- from nothing to approved ---

    def found(self) -> None:
        """The coordinator's folder and the sites' folders, enrolled and joined."""
        home = self.folder / "consortium"
        hosts = [part for host in self.hosts for part in ("--host", host)]
        self.done("coordinator", "init", home, "--name", "Town", *hosts)
        for name in self.names:
            self.done("site", "init", self.home(name), "--site", name, "--name", name.title())
        self.enroll(*self.names)

    def enroll(self, *names: str) -> None:
        """Enrol sites, and let every site accept the new roster."""
        home = self.folder / "consortium"
        requests = [self.home(name) / "enrolment-request.json" for name in names]
        self.done("coordinator", "enroll", home, *requests, "--yes")
        self.join(*self.names)

    def join(self, *names: str) -> None:
        """Let sites accept the consortium's present roster."""
        home = self.folder / "consortium"
        heard = self.json("coordinator", "roster", home)["fingerprint"]
        given = ("--roster", home / "roster.json", "--ca", home / "ca.crt", "--fingerprint", heard)
        for name in names:
            self.done("site", "join", self.home(name), *given)

    def study(self, name: str = "study", **values: Any) -> Path:
        """Write a study file."""
        values = {
            "patients": self.patients * len(self.names),
            "rounds": 5,
            "mode": "distributed",
            "deadline_s": 20,
            **values,
        }
        path = self.folder / f"{name}.toml"
        path.write_text((STUDY.format(**values) + SCHEMA).replace("small_dose", name))
        return path

    def files(self, name: str) -> tuple[Path, Path]:
        """A site's table and mapping, written if not there."""
        data, mapping = self.folder / f"{name}.csv", self.folder / "mapping.toml"
        if not data.exists():
            data.write_text(table(name, self.patients))
        mapping.write_text(MAPPING)
        return data, mapping

    def approve(self, study: Path, *names: str, cap: float = 20) -> None:
        """Let sites approve a study."""
        for name in names or self.names:
            data, mapping = self.files(name)
            given = ("--data", data, "--mapping", mapping, "--max-epsilon", cap, "--yes")
            self.done("site", "approve", self.home(name), study, *given)

    # --- processes ---

    def open(self, timeout_s: float = 60, **arranged: Any) -> None:
        """Start the coordinator and wait until sites can reach it."""
        ports = ("--port", self.public, "--inner-port", self.inner, "--health-port", self.probe)
        argv = ("coordinator", "start", self.folder / "consortium", *ports, "--host", self.listen)
        output = self.folder / "coordinator.txt"
        written = len(output.read_text()) if output.exists() else 0
        self.coordinator = Running(
            self.nursery, self.nursery.start(argv, output, **arranged), output
        )
        self.until(lambda: "eady" in self.coordinator.text[written:], timeout_s, "coordinator")

    def enter(self, name: str, *, door: str = "localhost", **arranged: Any) -> Running:
        """Start a site."""
        address = f"{door}:{self.public}"
        given = ("--coordinator", address, "--health-port", self.probes[name])
        output = self.folder / f"{name}.txt"
        argv = ("site", "start", self.home(name), *given)
        pid = self.nursery.start(argv, output, **arranged)
        running = Running(self.nursery, pid, output, well=not arranged)
        self.sites[name] = running
        return running

    def close(self) -> None:
        """Stop everything that still runs."""
        everybody = [*self.sites.values(), *([self.coordinator] if self.coordinator else [])]
        for running in everybody:
            if running.alive():
                running.tell(signal.SIGCONT)
                running.tell(signal.SIGTERM)
        for running in everybody:
            running.end(timeout_s=40)

    # --- a run ---

    def run(self, study: Path) -> "LiveRun":
        """Ask for a run, and leave it to the coordinator."""
        home = self.folder / "consortium"
        made = self.json("coordinator", "run", home, study, "--detach")
        return LiveRun(self, made["run"])

    def until(self, happened: Callable[[], object], timeout_s: float, what: str) -> float:
        """Wait; an error shows what the processes wrote."""
        try:
            return wait_until(happened, timeout_s, what)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.account()}") from None

    def account(self) -> str:
        """The end of every process's output."""
        paths = sorted(p for p in self.folder.glob("*.txt") if not p.name.startswith("command-"))
        return "\n".join(f"=== {path.name}\n{path.read_text()[-2500:]}" for path in paths)

    @property
    def superlink_address(self) -> SuperLinkAddress:
        """The coordinator's own way to its SuperLink."""
        home = self.folder / "consortium"
        secret = next(home.rglob("tasks.secret")).read_bytes()
        return SuperLinkAddress(f"127.0.0.1:{self.inner}", (home / "ca.crt").read_bytes(), secret)

    def child(self, words: str) -> int:
        """Pid of the process of this town whose command line has these words."""
        mine = str(self.folder)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                line = path.read_bytes().replace(b"\0", b" ").decode()
                if words in line and mine in line:
                    return int(path.parent.name)
        raise AssertionError(f"no process of {mine} is called {words}")

    # --- what lies on disk ---

    def home(self, name: str) -> Path:
        """A site's folder."""
        return self.folder / name

    def releases(self, name: str) -> tuple[Release, ...]:
        """A site's ledger, verified."""
        with SiteStore(self.home(name) / "site.db") as store:
            return Ledger(store).releases()

    def audit(self, name: str) -> list[dict[str, Any]]:
        """A site's audit log, verified, oldest first."""
        self.done("site", "audit", self.home(name), "--verify")
        entries: list[dict[str, Any]] = self.json("site", "audit", self.home(name))["lines"]
        return entries

    def refusals(self, name: str) -> str:
        """Everything that a site has refused, as text."""
        return "\n".join(e["reason"] for e in self.audit(name) if e["kind"] == "refusal")


@dataclass
class LiveRun:
    """One run of a town."""

    town: Town
    name: str

    @property
    def folder(self) -> Path:
        """The run's folder at the coordinator."""
        return self.town.folder / "consortium" / "runs" / self.name

    @property
    def live(self) -> dict[str, Any]:
        """What the run says of itself now; nothing before it has begun."""
        path = self.folder / "live.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """Finished rounds."""
        path = self.folder / "rounds.jsonl"
        *whole, _ = path.read_text().split("\n") if path.exists() else [""]
        return [json.loads(line) for line in whole]

    def round(self, number: int, timeout_s: float = 60) -> dict[str, Any]:
        """Wait until a round is finished; gives its record."""
        self.town.until(
            lambda: any(r["round"] >= number for r in self.rounds), timeout_s, f"round {number}"
        )
        return next(r for r in self.rounds if r["round"] == number)

    def state(self, wanted: str, timeout_s: float = 60) -> dict[str, Any]:
        """Wait for a state of the run."""
        self.town.until(
            lambda: self.live.get("state") == wanted, timeout_s, f"state '{wanted}' ({self.live})"
        )
        return self.live

    def kill(self) -> bool:
        """Kill the run's process, if it has one now; pid 0 would be all of these tests."""
        pid = self.live.get("pid")
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pid)

    def command(self, verb: str, *more: object) -> str:
        """`fedrx coordinator VERB` about this run."""
        return self.town.done(
            "coordinator", verb, self.town.folder / "consortium", self.name, *more
        )


@contextmanager
def founded(nursery: Nursery, folder: Path, sites: int, **changes: Any) -> Iterator[Town]:
    """A town with its keys and roster; everything is stopped at the end."""
    town = Town(folder, nursery, tuple(f"site{i}" for i in range(sites)), **changes)
    try:
        town.found()
        yield town
    finally:
        town.close()
