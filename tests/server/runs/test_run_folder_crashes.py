"""A run that is cut off between any two file operations goes on, and counts every update once.

`Machine` is a computer whose power fails at the n-th file operation: a write that is under way
leaves half its bytes, and nothing that the dead process tries afterwards has an effect.
"""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_protocol.study.study import Study
from fedrx_server.runs.folder import RoundRecord, RunFolder

ROUNDS = 3
STUDY = Study.parse(
    """
    name = "dose"
    cohort = {patients = 100, largest_site = 50}
    model = {name = "linear"}
    training = {rounds = 3}
    metrics = {evaluations = 1}
    target = {name = "dose", unit = "mg", minimum = 1, maximum = 200, mean = 35, scale = 15}
    features = [{name = "smoker", kind = "flag"}]
    """
)


class PowerCut(BaseException):
    """No handler may catch it: the process is gone."""


class Machine:
    """Counts file operations, and fails at one of them."""

    OPERATIONS = ("write", "replace", "unlink", "fsync", "mkdir", "open")

    def __init__(self, fails_at: int | None) -> None:
        self.fails_at = fails_at
        self.done = 0

    @contextmanager
    def running(self):
        real = {name: getattr(os, name) for name in self.OPERATIONS}
        for name, operation in real.items():
            setattr(os, name, self._watched(name, operation))
        try:
            yield
        finally:
            for name, operation in real.items():
                setattr(os, name, operation)

    def _watched(self, name, operation):
        def watched(*arguments, **options):
            self.done += 1
            if self.fails_at is not None and self.done >= self.fails_at:
                if name == "write" and self.done == self.fails_at:
                    operation(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise PowerCut
            return operation(*arguments, **options)

        return watched


class Federation:
    """What sites remember across the coordinator's crashes: each attempt is answered once."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def sum_of(self, number: int, attempt: int) -> bytes:
        assert (number, attempt) not in self.asked, "an attempt was used twice"
        self.asked.append((number, attempt))
        return bytes([number, attempt])


def run(path: Path, sites: Federation) -> None:
    """A small coordinator: adds 10**round to its one weight in every round."""
    with RunFolder.open(path, STUDY, durability="power", keep=2) as folder:
        folder.reserve_epoch()
        latest = folder.latest_checkpoint()
        total = float(latest.weights[0]) if latest else 0.0
        first = latest.record.round + 1 if latest else 1
        for number in range(first, ROUNDS + 1):
            attempt = _unmasked(folder, sites, number)
            total += 10.0**number
            folder.save_round(_record(number, attempt), np.array([total], dtype=np.float32))


def _unmasked(folder: RunFolder, sites: Federation, number: int) -> int:
    pending = folder.load_pending()
    if pending is None:
        state = sites.sum_of(number, folder.reserve_attempt(number))
        folder.save_pending(number, state)
        pending = (number, state)
    assert pending[0] == number == pending[1][0]
    return pending[1][1]


def _record(number: int, attempt: int) -> RoundRecord:
    return RoundRecord(number, attempt, 3, 3, 0, None, 1, 1, 0.1)


def start(path: Path) -> None:
    RunFolder.create(path, STUDY, "{}", {}, durability="process").close()


def finish_with_crashes(path: Path, crashes: list[int]) -> tuple[Federation, int]:
    """Run, losing power at the given operations, one after another; then to the end."""
    sites, happened = Federation(), 0
    for index, fails_at in enumerate([*crashes, None]):
        machine = Machine(fails_at)
        try:
            with machine.running():
                run(path, sites)
        except PowerCut:
            happened += 1
        # A fresh copy is the disk after the crash: no descriptor or lock of the dead process.
        path = shutil.copytree(path, path.with_name(f"boot-{index}"))
    _check_finished(path)
    return sites, happened


def _check_finished(path: Path) -> None:
    with RunFolder.open(path, STUDY) as folder:
        assert [one.round for one in folder.rounds] == [1, 2, 3]
        assert folder.latest_checkpoint().weights[0] == 1110
        assert folder.load_pending() is None
    lines = (path / "rounds.jsonl").read_text().splitlines()
    assert len(lines) == ROUNDS
    assert not list(path.rglob("*.partial"))


def operations_of_a_whole_run(tmp_path: Path) -> int:
    start(tmp_path / "whole")
    machine = Machine(None)
    with machine.running():
        run(tmp_path / "whole", Federation())
    return machine.done


def test_a_power_cut_at_every_single_operation_counts_every_update_once(tmp_path):
    count = operations_of_a_whole_run(tmp_path)
    assert count > 60
    for fails_at in range(1, count + 1):
        path = tmp_path / f"crash-{fails_at}" / "run"
        start(path)
        sites, happened = finish_with_crashes(path, [fails_at])
        assert happened == 1
        assert len(sites.asked) <= ROUNDS + 1
        shutil.rmtree(path.parent)


@settings(max_examples=40, deadline=None)
@given(crashes=st.lists(st.integers(1, 100), min_size=2, max_size=5))
def test_repeated_power_cuts_count_every_update_once(tmp_path_factory, crashes):
    path = tmp_path_factory.mktemp("crashes") / "run"
    start(path)
    finish_with_crashes(path, crashes)


def test_a_power_cut_while_the_folder_is_made_leaves_all_or_nothing(tmp_path):
    machine = Machine(None)
    with machine.running():
        RunFolder.create(tmp_path / "whole", STUDY, "{}", {}).close()
    seen = set()
    for fails_at in range(1, machine.done + 1):
        path = tmp_path / f"crash-{fails_at}" / "run"
        path.parent.mkdir()
        with pytest.raises(PowerCut), Machine(fails_at).running():
            RunFolder.create(path, STUDY, "{}", {})
        seen.add(path.exists())
        if path.exists():
            copy = shutil.copytree(path, path.with_name("copy"))
            RunFolder.open(copy, STUDY).close()
    assert seen == {True, False}
