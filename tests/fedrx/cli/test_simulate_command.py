"""`fedrx simulate` as a script and as a person use it."""

import errno
import json
import os
import re
import signal
import subprocess
import time

import pytest
from keyboard import FEDRX, start_fedrx

from fedrx import comparison
from fedrx_server.runs import checkpoints

DATA = ("--data", "patients.csv", "--mapping", "mapping.toml", "--split-by", "site")
SMALL = ("--sites", "4", "--patients", "30..40", "--rounds", "3", "--no-baselines")
REAL = ("simulate", "study.toml", *DATA, "--seed", "1")
QUICK = (*REAL, "--no-baselines")


def test_json_is_one_object_on_standard_output_and_nothing_else(fedrx, place):
    ran = fedrx(*REAL, "--json")
    assert ran.code == 0, ran.err
    assert ran.err == ""
    assert ran.out.count("\n") == 1
    found = ran.json
    asked = {
        *("metrics", "reported", "privacy", "rounds", "sites", "seconds", "bytes_up"),
        *("bytes_down", "run"),
    }
    assert set(found) == asked | {"study", "study_digest", "model", "data", "notes"}
    assert found["data"]["rows_kept"] == found["data"]["rows_read"] > 0
    # Warfarin's published equation does not speak of this study's features.
    assert set(found["metrics"]) == {"pooled", "federated", "personalised", "site_alone", "fixed"}
    for metrics in found["metrics"].values():
        assert {"mae", "r2", "within_20_percent"} <= set(metrics)
        assert metrics["mae"] > 0
    assert found["metrics"]["pooled"]["mae"] < found["metrics"]["fixed"]["mae"]
    assert {"mode", "epsilon", "delta"} <= set(found["privacy"])
    assert found["privacy"]["mode"] == "distributed"
    assert 0 < found["privacy"]["epsilon"] <= 8
    assert (found["rounds"], found["sites"]) == (3, 3)
    assert found["bytes_up"] > 0
    assert found["bytes_down"] > 0
    # So few held-out patients: noise hides the error, and a program must not take it for one.
    assert found["reported"]["mae"] is None
    assert found["reported"]["mae_low"] < found["reported"]["mae_high"]
    low, high = found["metrics"]["federated"]["mae_ci"]
    assert low < found["metrics"]["federated"]["mae"] < high
    folder = place / found["run"]
    assert json.loads((folder / "result.json").read_text()) == found
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "study.toml").read_text() == (place / "study.toml").read_text()


def test_a_person_gets_a_table_the_privacy_the_bytes_and_the_report(fedrx, place):
    assert fedrx("study", "new", "--output", "mine.toml").code == 0
    text = (place / "mine.toml").read_text()
    named = text.replace('name = "linear"', 'name = "mlp"\nhidden = [4]')
    (place / "mine.toml").write_text(named)
    ran = fedrx("simulate", "mine.toml", *SMALL[:6], "--seed", "2")
    assert ran.code == 0, ran.err
    for row in ("Pooled", "Federated", "Each site alone", "Fixed dose", "Published equation"):
        assert row in ran.out
    assert "if at least 3 of 4 sites are honest and take part" in " ".join(ran.out.split())
    assert "up, " in ran.out
    assert " kB" in ran.out
    report = next(line for line in ran.out.splitlines() if line.startswith("Report: "))
    page = (place / report.removeprefix("Report: ")).read_text()
    assert "<dt>Model</dt><dd>mlp</dd><dt>Hyper-parameters</dt><dd>hidden = [4]</dd>" in page
    assert "4/4, 4 sites: reported MAE hidden by noise" in ran.err
    assert "would have seen a mean absolute error that is hidden by noise: more held-out" in ran.out
    assert re.search(r"Federated +│ +\d+\.\d\d \(\d+\.\d\d–\d+\.\d\d\)", ran.out)
    told = ran.err.splitlines()
    assert told[-8:] == [
        "judging the model",
        "fitting a private head at each site",
        "comparing with pooled data",
        *(f"comparing with each site alone, {i} of 4" for i in range(1, 5)),
        "writing the report",
    ]


def test_the_same_seed_gives_the_same_study(fedrx):
    first, again = (fedrx(*QUICK, "--json", "--output", name).json for name in ("a", "b"))
    other = fedrx(*QUICK, "--seed", "2", "--json", "--output", "c").json
    assert first["metrics"] == again["metrics"]
    assert first["reported"] == again["reported"]
    assert first["metrics"] != other["metrics"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--epsilon", "3"), {"mode": "distributed", "promised_epsilon": 3.0}),
        (("--privacy", "none"), {"mode": "none", "epsilon": None}),
        (("--privacy", "local"), {"mode": "local"}),
    ],
)
def test_options_override_the_study_file(fedrx, options, expected):
    found = fedrx("simulate", *SMALL, "--seed", "1", "--json", *options).json
    assert expected.items() <= found["privacy"].items()
    assert found["rounds"] == 3


def test_model_and_rounds_override_the_study_file(fedrx):
    found = fedrx("simulate", *SMALL[:-3], "--rounds", "2", "--model", "mlp", "--json").json
    assert (found["model"], found["rounds"]) == ("mlp", 2)


def test_every_knob_of_synthetic_sites_is_heard(fedrx):
    knobs = ("--heterogeneity", "0.1", "--missingness", "0.5", "--shift", "0.5")
    plain = fedrx("simulate", *SMALL, "--seed", "1", "--json").json
    for name, value in zip(knobs[::2], knobs[1::2], strict=True):
        turned = fedrx("simulate", *SMALL, "--seed", "1", "--json", name, value).json
        assert turned["metrics"] != plain["metrics"], name


def test_dropped_sites_do_not_stop_a_study(fedrx, place):
    found = fedrx("simulate", *SMALL, "--seed", "1", "--dropout", "0.2", "--json").json
    lines = (place / found["run"] / "rounds.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["dropped"] for line in lines) > 0
    assert found["privacy"]["epsilon"] <= 1


def test_a_study_that_stops_ends_with_code_3_and_can_be_resumed(fedrx, place):
    ran = fedrx("simulate", *SMALL, "--seed", "1", "--dropout", "0.97", "--output", "run")
    assert ran.code == 3
    assert ran.out == ""
    assert ran.err.splitlines()[-1].startswith("fedrx: round ")
    assert "resume the run" in ran.err
    assert "Traceback" not in ran.err
    assert fedrx("simulate", "--resume", "run").code == 3


def test_a_disk_that_fills_in_the_middle_of_a_run_is_one_sentence(fedrx, monkeypatch):
    whole = checkpoints.write_file

    def full(path, *given, **options):
        if "2" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(path, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_file", full)
        ran = fedrx(*QUICK, "--output", "run")
    assert ran.code == 3
    assert "fedrx: a file cannot be read or written (No space left on device); look" in ran.err
    assert fedrx("simulate", "--resume", "run", "--json").json["metrics"]


def test_a_finished_run_is_resumed_to_the_same_numbers(fedrx):
    first = fedrx(*QUICK, "--json", "--output", "run").json
    again = fedrx("simulate", "study.toml", "--resume", "run", "--json").json
    first.pop("seconds"), again.pop("seconds")
    assert again == first


def test_resuming_works_from_another_folder(fedrx, place, monkeypatch):
    first = fedrx(*QUICK, "--json", "--output", "run").json
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    again = fedrx("simulate", "--resume", place / "run", "--json").json
    assert again["metrics"] == first["metrics"]


def test_the_file_of_the_run_is_the_same_study_whatever_options_changed(fedrx, place):
    ran = fedrx(*REAL, "--epsilon", "3", "--output", "run", "--no-baselines")
    assert "comparing with pooled data" not in ran.err
    assert fedrx("simulate", "study.toml", "--resume", "run").code == 0


@pytest.mark.parametrize(
    "command", [("compare", "--models"), ("simulate", "--compare")], ids=["new", "old"]
)
def test_an_interrupted_comparison_says_how_to_go_on(fedrx, monkeypatch, command):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "compare", interrupted)
    ran = fedrx(*command, "linear,mlp", *SMALL[:4], "--output", "c")
    assert ran.code == 130
    assert "goes on when the same command is given again" in ran.err
    assert "--resume" not in ran.err  # which refuses a comparison


@pytest.mark.slow
def test_an_interrupted_study_says_how_to_go_on(place):
    """Control-C in a real process: code 130, one sentence, and the run goes on from there."""
    argv = ["simulate", *SMALL[:4], "--output", "run"]
    process = start_fedrx(argv, cwd=place, stderr=subprocess.PIPE, text=True)
    while not (place / "run" / "rounds.jsonl").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("fedrx: interrupted")
    assert "Traceback" not in err
    done = subprocess.run(
        [FEDRX, "simulate", "--resume", "run", "--json"],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert json.loads(done.stdout)["rounds"] == 100
