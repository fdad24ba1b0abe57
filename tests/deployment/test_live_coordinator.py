"""The coordinator's own processes: who is admitted, what is driven, what a kill leaves behind."""

import json
import os
import random
import time
from collections import Counter

import pytest
from live_town import founded

from fedrx_server.gateway.control import list_sites
from fedrx_server.runs.registry import read_wanted

pytestmark = pytest.mark.slow

SITES = 3


@pytest.fixture(scope="module")
def town(nursery, tmp_path_factory):
    with founded(nursery, tmp_path_factory.mktemp("coordinator"), SITES) as town:
        town.open()
        for name in town.names:
            town.enter(name)
        yield town


def begin(town, name, **values):
    study = town.study(name, **values)
    town.approve(study)
    return town.run(study)


def admitted(town):
    return {site.name for site in list_sites(town.superlink_address)}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def check_accounts(town, run):
    """Rounds in order, each once; nobody was charged twice for the same."""
    rounds = [record["round"] for record in run.rounds]
    assert rounds == list(range(1, len(rounds) + 1))
    for name in town.names:
        own = [one for one in town.releases(name) if one.run == run.live["run"]]
        keys = Counter((one.round, one.attempt, one.purpose) for one in own)
        assert set(keys.values()) == {1}
        counted = {(record["round"], record["attempt"]) for record in run.rounds}
        assert counted <= {(one.round, one.attempt) for one in own}


def test_a_worker_killed_again_and_again_loses_and_doubles_nothing(town):
    moments = random.Random(5)
    run = begin(town, "killed_worker", rounds=16)
    for kill in range(3):
        done = len(run.rounds)
        town.until(
            lambda done=done: len(run.rounds) > done or run.live.get("state") == "finished",
            90,
            f"a round after kill {kill}",
        )
        time.sleep(moments.random() * 0.4)
        run.kill()
    run.state("finished", 120)
    check_accounts(town, run)
    result = json.loads((run.folder / "result.json").read_text())
    assert result["finished"]
    assert 0 < result["privacy"]["epsilon"] <= 8.0
    spent = town.json("site", "ledger", town.home("site0"))["studies"]
    own = next(one for one in spent if one["name"] == "killed_worker")
    # The coordinator counts attempts that were begun: never less than any site's ledger.
    assert own["spent"]["total"] <= result["privacy"]["epsilon"] + 1e-9


def test_a_renewed_certificate_is_taken_without_a_restart(town):
    run = begin(town, "renewed", rounds=400)
    run.round(2)
    before = town.json("coordinator", "status", town.folder / "consortium")["processes"]
    town.done("coordinator", "renew", town.folder / "consortium")
    status = ("coordinator", "status", town.folder / "consortium")

    def reopened():
        now = town.json(*status)["processes"]
        return now.get("proxy") and now["proxy"] != before["proxy"]

    town.until(reopened, 60, "a new proxy")
    number = run.rounds[-1]["round"]
    run.round(number + 3, 90)
    run.command("stop")
    run.state("stopped")
    check_accounts(town, run)
    assert town.json(*status)["processes"]["coordinator"] == before["coordinator"]


def test_the_roster_is_followed_while_the_coordinator_serves(town):
    home = town.folder / "consortium"
    town.done("site", "init", town.home("late"), "--site", "late", "--name", "Late")
    assert admitted(town) == set(town.names)
    request = town.home("late") / "enrolment-request.json"
    town.done("coordinator", "enroll", home, request, "--yes")
    town.until(lambda: "late" in admitted(town), 20, "late is admitted")
    town.done("coordinator", "revoke", home, "late", "--reason", "it was a test")
    town.until(lambda: "late" not in admitted(town), 20, "late is shut out")
    log = home / "service.log"
    assert "late is admitted" in log.read_text()
    town.until(lambda: "late is shut out" in log.read_text(), 20, "it is logged")
    town.join(*town.names)


def test_a_second_coordinator_is_refused(town):
    told = town.done("coordinator", "start", town.folder / "consortium", code=2)
    assert "running in this folder already" in told


def test_a_run_that_cannot_be_mended_by_trying_is_marked_and_left_alone(town):
    run = begin(town, "damaged", rounds=400)
    run.round(2)
    run.command("stop")
    checkpoints = sorted((run.folder / "checkpoints").glob("*.safetensors"))
    kept = checkpoints[-1].read_bytes()
    checkpoints[-1].write_bytes(kept[:-50])
    run.command("resume")
    town.until(lambda: read_wanted(run.folder).goal == "failed", 60, "the run is marked as failed")
    shown = run.command("status")
    assert "damaged: restore it from a backup" in shown.replace("is damaged;", "damaged:")
    status = ("coordinator", "status", town.folder / "consortium")
    town.until(lambda: run.name not in town.json(*status)["processes"], 30, "its process is gone")
    time.sleep(4)
    assert run.name not in town.json(*status)["processes"]
    checkpoints[-1].write_bytes(kept)
    number = len(run.rounds)
    run.command("resume")
    run.round(number + 1, 60)
    run.command("stop")
    check_accounts(town, run)


def test_sigterm_ends_runs_proxy_and_superlink_and_the_run_goes_on_later(town):
    run = begin(town, "ended", rounds=400)
    run.round(2)
    pids = town.json("coordinator", "status", town.folder / "consortium")["processes"]
    assert {"superlink", "proxy", run.name} <= set(pids)
    began = time.monotonic()
    assert town.coordinator.end() == 0
    assert time.monotonic() - began < 40  # its unit's TimeoutStopSec
    assert not [pid for pid in pids.values() if alive(pid)]
    number = len(run.rounds)
    assert read_wanted(run.folder).goal == "running"
    assert "No coordinator is running" in run.command("status")
    town.open()
    run.round(number + 2, 90)
    run.command("stop")
    check_accounts(town, run)
