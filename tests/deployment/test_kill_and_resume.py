"""A study killed with SIGKILL and resumed ends with the very weights of one that was not.

Every run is the `fedrx` command in a process of its own. Beside random moments, processes die
exactly between two file operations, and in the middle of UNMASK.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedrx_client.records.database import SiteStore
from fedrx_client.records.ledger import Ledger
from fedrx_server.runs.folder import RunFolder

pytestmark = pytest.mark.slow

ROUNDS, SITES, SEED = 12, 5, 11
RUN = f"--sites {SITES} --patients 40..60 --rounds {ROUNDS} --seed {SEED} --no-baselines --json"
MODES = ("distributed", "none", "local")
KILLED, KILLED_BY_TIMER = -signal.SIGKILL, -signal.SIGPROF


class Driver:
    """Starts `fedrx` in forked processes, one at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("fork_driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, argv, output, **arranged):
        """Exit status, file operations and seconds of computing of one `fedrx ARGV`."""
        task = {"argv": argv, "output": str(output), **arranged}
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        status, operations, cpu_s = self._process.stdout.readline().split()
        return int(status), int(operations), float(cpu_s)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=30)


@dataclass
class Study:
    """One study in one run folder: started, killed, resumed."""

    driver: Driver
    place: Path
    mode: str
    kills: int = 0
    operations: int = 0
    cpu_s: float = 0.0

    @property
    def folder(self) -> Path:
        return self.place / "run"

    @property
    def answers(self) -> Path:
        return self.place / "answers.txt"

    def go(self, **arranged) -> int:
        """Start the study, or continue it where there is a folder."""
        argv = ["simulate", "--resume", str(self.folder), "--json"]
        if not self.folder.exists():
            argv = ["simulate", *RUN.split(), "--privacy", self.mode, "--output", str(self.folder)]
        status, self.operations, self.cpu_s = self.driver.run(
            argv, self.place / "output.txt", answers=str(self.answers), **arranged
        )
        killed = status in {KILLED, KILLED_BY_TIMER}
        assert status == 0 or killed, (self.place / "output.txt").read_text()
        self.kills += killed
        return status

    @property
    def weights(self):
        return load_file(self.folder / "checkpoints" / f"round-{ROUNDS + 1:04d}.safetensors")[
            "weights"
        ]

    @property
    def result(self):
        return json.loads((self.folder / "result.json").read_text())

    def stage(self) -> str:
        """How far a killed study is."""
        if not self.folder.exists():
            return "start-up"
        if (self.folder / "result.json").exists():
            return "report"
        if (self.folder / "pending.bin").exists():
            return "unmask"
        lines = self.folder / "rounds.jsonl"
        counted = len(lines.read_text().splitlines()) if lines.exists() else 0
        return {0: "first round", ROUNDS + 1: "evaluation"}.get(counted, "rounds")


@pytest.fixture(scope="module")
def driver():
    driver = Driver()
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def uninterrupted(driver, tmp_path_factory):
    """A finished study of each mode, on demand."""
    done: dict[str, Study] = {}

    def of(mode: str) -> Study:
        if mode not in done:
            done[mode] = Study(driver, tmp_path_factory.mktemp(mode), mode)
            assert done[mode].go() == 0
            check_ledgers(done[mode])
        return done[mode]

    return of


def check(study: Study, uninterrupted) -> None:
    assert np.array_equal(study.weights, uninterrupted(study.mode).weights)
    privacy = study.result["privacy"]
    if study.mode == "none":
        assert privacy["epsilon"] is None
    else:
        assert 0 < privacy["epsilon"] <= privacy["promised_epsilon"]
    exact = study.result["metrics"]
    assert exact == uninterrupted(study.mode).result["metrics"]
    check_ledgers(study)


def check_ledgers(study: Study) -> None:
    """One event for each (round, attempt, purpose) that a site answered.

    A kill between ledger and answer may leave one line without an answer: over-counted, as it
    should be, and never the other way round.
    """
    answered = {tuple(line.split()) for line in study.answers.read_text().splitlines()}
    with RunFolder.open(study.folder) as run:
        purposes = {number: _purposes(run.study, number) for number in range(1, ROUNDS + 2)}
        committed = [(record.round, record.attempt) for record in run.rounds]
        assert [record.survivors for record in run.rounds] == [SITES] * (ROUNDS + 1)
    assert [number for number, _ in committed] == list(range(1, ROUNDS + 2))
    stores = sorted((study.folder / "sites").glob("*/site.db"))
    assert len(stores) == SITES
    for path in stores:
        with SiteStore(path) as store:
            ledger = Ledger(store)
            ledger.verify()
            lines = Counter((e.round, e.attempt, e.purpose) for e in ledger.releases())
        assert set(lines.values()) == {1}
        own = {(int(r), int(a)) for site, r, a in answered if site == path.parent.name}
        expected = {(r, a, purpose) for r, a in own for purpose in purposes[r]}
        assert set(committed) <= own
        assert expected <= set(lines)
        unanswered = {(r, a) for r, a, _ in set(lines) - expected}
        assert len(unanswered) <= study.kills


def _purposes(study, number: int) -> set[str]:
    found = {"training"} if number < study.final_round else set()
    return found | ({"metrics"} if number in study.evaluation_rounds else set())


def test_twenty_studies_killed_at_any_moment(driver, uninterrupted, tmp_path):
    moments = random.Random(3)
    stages = Counter()
    for i in range(20):
        mode = MODES[i % len(MODES)]
        whole = uninterrupted(mode).cpu_s
        place = tmp_path / str(i)
        place.mkdir()
        study = Study(driver, place, mode)
        study.go(kill_after_cpu_s=whole * (i + moments.random()) / 20)
        if study.kills:
            stages[study.stage()] += 1
            assert study.go() == 0
        check(study, uninterrupted)
    assert sum(stages.values()) >= 10, stages
    assert len(stages) >= 3, stages


@pytest.mark.parametrize("mode", MODES)
def test_killed_between_two_file_operations(driver, uninterrupted, tmp_path, mode):
    count = uninterrupted(mode).operations
    assert count > 500
    moments = random.Random(mode)
    # Every operation between two commits of one round is as likely as any other.
    for i in range(6):
        place = tmp_path / str(i)
        place.mkdir()
        study = Study(driver, place, mode)
        assert study.go(kill_at=1 + int(count * (i + moments.random()) / 6)) == KILLED
        assert study.go() == 0
        check(study, uninterrupted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("answered", [0, 1, 3, SITES])
def test_killed_in_the_middle_of_unmask(driver, uninterrupted, tmp_path, mode, answered):
    """A site that opened a sum in mode `none` takes part in no other one of that model."""
    study = Study(driver, tmp_path, mode)
    assert study.go(kill_unmask=[7, answered]) == KILLED
    assert study.stage() == "unmask"
    assert study.go() == 0
    check(study, uninterrupted)
    with RunFolder.open(study.folder) as run:
        assert [record.attempt for record in run.rounds] == [0] * (ROUNDS + 1)
    assert sum(line.split()[1] == "7" for line in study.answers.read_text().splitlines()) == SITES


@pytest.mark.parametrize("mode", MODES)
def test_killed_many_times_in_a_row(driver, uninterrupted, tmp_path, mode):
    study, moments = Study(driver, tmp_path, mode), random.Random(mode)
    for _ in range(7):
        study.go(kill_at=moments.randint(250, 500))
    assert study.kills >= 5
    while study.go() != 0:
        pass
    check(study, uninterrupted)


def test_a_finished_study_is_resumed_to_the_same_end(driver, uninterrupted, tmp_path):
    study = Study(driver, tmp_path, "distributed")
    assert study.go() == 0
    assert study.go() == 0
    check(study, uninterrupted)


def test_the_installed_command_survives_a_kill_too(uninterrupted, tmp_path):
    """The same with a whole interpreter, killed once it has begun to count rounds."""
    folder = tmp_path / "run"
    command = Path(sys.executable).with_name("fedrx")
    argv = [command, "simulate", *RUN.split(), "--privacy", "none", "--output", folder]
    argv = ["nice", "-n", "5", *argv]  # on no machine is it over before this test looks again
    with (tmp_path / "output.txt").open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output)
    while not (folder / "rounds.jsonl").exists():
        assert process.poll() is None, (tmp_path / "output.txt").read_text()
        time.sleep(0.005)
    process.kill()
    assert process.wait() == KILLED, (tmp_path / "output.txt").read_text()
    done = subprocess.run(
        [command, "simulate", "--resume", folder, "--json"],
        capture_output=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["rounds"] == ROUNDS
    weights = load_file(folder / "checkpoints" / f"round-{ROUNDS + 1:04d}.safetensors")["weights"]
    assert np.array_equal(weights, uninterrupted("none").weights)
