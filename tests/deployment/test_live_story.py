"""The whole story once, each step the command that a person types: three hospitals, warfarin.

With three sites the threshold is three, so the run waits whenever one is missing. What stays
running is started as a person would; what ends at once is forked, to spare imports.
"""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from keyboard import start_fedrx
from live_consortium import BUSY, wait_until
from live_town import Nursery
from spare_ports import free_ports

pytestmark = pytest.mark.slow

SITES = ("charite", "mayo", "karolinska")
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "120", "OMP_NUM_THREADS": "1"}


class Person:
    """Somebody at a keyboard in one folder."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder, self.nursery = folder, nursery
        self.started: dict[str, subprocess.Popen] = {}

    def types(self, line: str, code: int = 0) -> str:
        """Type a command and read what it says."""
        output = self.folder / f"typed-{time.monotonic_ns()}.out"
        pid = self.nursery.start(line.split(), output, cwd=str(self.folder))
        status, said = self.nursery.wait(pid, 120), output.read_text()
        assert status == code, f"fedrx {line}: {status}\n{said}"
        return said

    def reads(self, line: str) -> dict:
        """Type a command with --json."""
        return json.loads(self.types(f"{line} --json").strip().splitlines()[-1])

    def starts(self, name: str, line: str) -> None:
        """Leave a command running."""
        with (self.folder / f"{name}.out").open("ab") as output:
            self.started[name] = start_fedrx(
                line.split(), cwd=self.folder, env=ENVIRONMENT, stdout=output, stderr=output
            )

    def sees(self, name: str, words: str, timeout_s: float = 90) -> None:
        """Wait until a running command says something."""
        path = self.folder / f"{name}.out"
        try:
            wait_until(lambda: words in path.read_text(), timeout_s, f"{name}: {words!r}")
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{path.read_text()[-4000:]}") from None

    def stops(self, name: str, number: int = signal.SIGTERM) -> int:
        """Stop a running command; gives its exit status."""
        process = self.started.pop(name)
        process.send_signal(number)
        return process.wait(40 * BUSY)

    def leaves(self) -> None:
        """Stop all that still runs, sites first."""
        for name in reversed(list(self.started)):
            self.stops(name)


@pytest.fixture
def person(tmp_path, nursery):
    person = Person(tmp_path, nursery)
    yield person
    person.leaves()


def test_three_hospitals_from_keys_to_report(person):
    folder = person.folder
    port, inner, health, *probes = free_ports(6)

    # The coordinator founds the consortium; each site makes its keys; the coordinator enrols them.
    person.types("coordinator init consortium --name Warfarin --host localhost")
    for site in SITES:
        person.types(f"site init {site} --site {site} --name {site}")
    requests = " ".join(f"{site}/enrolment-request.json" for site in SITES)
    person.types(f"coordinator enroll consortium {requests} --yes")
    heard = person.reads("coordinator roster consortium")["fingerprint"]
    for site in SITES:
        given = f"--roster consortium/roster.json --ca consortium/ca.crt --fingerprint {heard}"
        person.types(f"site join {site} {given}")
    for path in folder.glob("*/keys-*/*"):
        if "request" not in path.name:
            assert path.stat().st_mode & 0o777 == 0o600

    # The study, and patients to rehearse it with.
    person.types("study new --output study.toml")
    text = (folder / "study.toml").read_text()
    text = text.replace("patients = 5410", "patients = 240").replace("rounds = 100", "rounds = 60")
    (folder / "study.toml").write_text(text)
    person.types("study patients study.toml --sites 3 --patients 70..90 --output patients")

    # The coordinator opens its door.
    ports = f"--port {port} --inner-port {inner} --health-port {health} --host 127.0.0.1"
    person.starts("coordinator", f"coordinator start consortium {ports}")
    person.sees("coordinator", "eady")

    # Each site looks, approves and starts.
    door = f"--coordinator localhost:{port}"
    for number, site in enumerate(SITES, 1):
        files = f"study.toml --data patients/site-{number}.csv --mapping patients/mapping.toml"
        before = person.types(f"site check {site} {files} {door}", code=2)
        assert re.findall(r"^NOT  (.*?):", before, re.MULTILINE) == ["approval"], before
        person.types(f"site approve {site} {files} --max-epsilon 2 --by DPO --yes")
        person.types(f"site check {site} {files} {door}")
    for site, probe in zip(SITES[:2], probes, strict=False):
        person.starts(site, f"site start {site} {door} --health-port {probe}")

    # The run begins, and waits for the third site: with three sites the threshold is three.
    person.starts("run", "coordinator run consortium study.toml")
    [run] = wait_for_runs(person)
    waits_for(person, run, "karolinska")
    there = {"charite": True, "mayo": True, "karolinska": False}
    wait_until(lambda: person.reads("coordinator status consortium")["online"] == there, 30, there)
    person.starts("karolinska", f"site start karolinska {door} --health-port {probes[2]}")
    rounds_reach(person, run, 2)

    # Ctrl-C lets go of the view and leaves the run alone; a site that leaves stops it, not ends it.
    assert person.stops("run", signal.SIGINT) == 0
    person.types("site approve mayo --revoke warfarin_dose --by DPO")
    waits_for(person, run, "mayo")
    held = len(rounds(person, run))
    time.sleep(2)
    assert len(rounds(person, run)) == held
    files = "study.toml --data patients/site-2.csv --mapping patients/mapping.toml"
    person.types(f"site approve mayo {files} --max-epsilon 2 --by DPO --yes")
    rounds_reach(person, run, held + 1)

    # Stop and resume; the rest by itself.
    person.types(f"coordinator stop consortium {run}")
    state_is(person, run, "stopped")
    person.types(f"coordinator resume consortium {run}")
    state_is(person, run, "finished")

    finished = rounds(person, run)
    assert [record["round"] for record in finished] == list(range(1, 62))
    assert {record["survivors"] for record in finished} == {3}
    home = folder / "consortium" / "runs" / run
    for name in ("report.html", "result.json", "model.safetensors"):
        assert (home / name).is_file(), name
    person.types(f"coordinator report consortium {run} --output report.html")
    page = (folder / "report.html").read_text()
    assert "Warfarin" in page or "warfarin" in page

    # What a site can show its steward afterwards.
    for site in SITES:
        person.types(f"site audit {site} --verify")
        ledger = person.reads(f"site ledger {site}")
        [spent] = ledger["studies"]
        assert 0 < spent["spent"]["total"] <= 1.0
        assert spent["left"] > 0
    log = folder / "charite" / "audit.log"
    changed = log.read_text().replace("warfarin_dose", "warfarin_dosf", 1)
    log.write_text(changed)
    person.types("site audit charite --verify", code=2)


def wait_for_runs(person: Person) -> list[str]:
    """The runs, once there is one."""

    def runs() -> list[str]:
        return [run["run"] for run in person.reads("coordinator status consortium")["runs"]]

    wait_until(runs, 60, "a run")
    return runs()


def live(person: Person, run: str) -> dict:
    path = person.folder / "consortium" / "runs" / run / "live.json"
    return json.loads(path.read_text()) if path.exists() else {}


def rounds(person: Person, run: str) -> list[dict]:
    path = person.folder / "consortium" / "runs" / run / "rounds.jsonl"
    *whole, _ = path.read_text().split("\n") if path.exists() else [""]
    return [json.loads(line) for line in whole]


def waits_for(person: Person, run: str, site: str) -> None:
    wait_until(
        lambda: (
            live(person, run).get("state") == "waiting" and site in live(person, run)["waiting_for"]
        ),
        60,
        f"waiting for {site}",
    )


def rounds_reach(person: Person, run: str, number: int) -> None:
    wait_until(lambda: len(rounds(person, run)) >= number, 60, f"round {number}")


def state_is(person: Person, run: str, state: str) -> None:
    wait_until(lambda: live(person, run).get("state") == state, 90, f"state {state}")
