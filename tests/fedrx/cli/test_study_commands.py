"""`fedrx study new|check`, the help of every command, and how little they import."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from fedrx import api
from fedrx_protocol.study.study import Study


def test_a_new_study_file_is_the_built_in_study(fedrx, place):
    ran = fedrx("study", "new", "--output", "mine.toml")
    assert ran.code == 0
    assert "fedrx study check mine.toml" in ran.out
    assert Study.load(place / "mine.toml") == api.default_study()[0]


def test_the_example_is_the_built_in_study(repository):
    example = Study.load(repository / "examples" / "warfarin" / "study.toml")
    assert example == api.default_study()[0]


def test_checking_says_what_privacy_and_rounds_cost(fedrx):
    ran = fedrx("study", "check", "study.toml", "--sites", "5")
    assert ran.code == 0
    for part in ("fine", "3 rounds", "5 sites", "at least 4", "ε = 8", "noise multiplier"):
        assert part in ran.out
    assert ran.out.count("Warning") == 1  # of 18 held-out patients, see below


def test_evaluations_that_will_say_nothing_are_told_with_what_helps(fedrx):
    found = fedrx("study", "check", "study.toml", "--sites", "5", "--json").json
    (warning,) = found["warnings"]
    assert "Noise will hide all evaluations: with about 18 held-out patients" in warning
    assert "Use metrics.evaluations = 0, so that a single one at the end" in warning
    assert "hold out about" in warning
    assert f"Warning: {warning}" in fedrx("study", "check", "study.toml", "--sites", "5").out
    evaluations = found["evaluations"]
    assert (evaluations["hidden"], evaluations["final_hidden"]) == (True, True)
    assert evaluations["final_noise_length"] > evaluations["could_tell"]


@pytest.mark.parametrize(
    ("patients", "evaluations", "words"),
    [
        (5000, 5, ()),
        (3000, 5, ("the 5 evaluations before the last", "Use metrics.evaluations = 2: so few")),
        (1000, 5, ("all evaluations", "Use metrics.evaluations = 0", "and hold out about 300")),
        (
            1400,
            3,
            (
                "all evaluations",
                "metrics.evaluations = 0, so that",
                "has the whole budget: it can be read",
            ),
        ),
        (1000, 0, ("the only evaluation", "Hold out about 300 patients")),
    ],
)
def test_what_helps_fits_the_study_and_is_true(patients, evaluations, words):
    study = api.default_study()[0].with_(
        cohort={"patients": patients, "largest_site": 200}, metrics={"evaluations": evaluations}
    )
    cost = api.study_cost(study, 5)
    assert len(cost["warnings"]) == bool(words)
    for part in words:
        assert part in cost["warnings"][0]
    used = [n for n in (0, 2) if f"evaluations = {n}" in "".join(words)]
    more = 1.5 if any("old out about" in part for part in words) else 1
    helped = study.with_(
        cohort={"patients": round(patients * more)},
        metrics={"evaluations": used[0] if used else evaluations},
    )
    assert api.study_cost(helped, 5)["warnings"] == []


def test_checking_prints_the_whole_digest(fedrx):
    said = fedrx("study", "check", "study.toml").out
    found = fedrx("study", "check", "study.toml", "--json").json
    assert len(found["digest"]) == 64
    assert found["digest"] in said
    rounds = ", ".join(map(str, found["evaluation_rounds"]))
    assert f"3 rounds, metrics after rounds {rounds}." in said
    assert found["evaluation_rounds"][-1] == found["rounds"] == 3


def test_checking_as_json(fedrx):
    ran = fedrx("study", "check", "study.toml", "--sites", "5", "--json")
    found = ran.json
    assert ran.err == ""
    assert (found["rounds"], found["sites"], found["threshold"]) == (3, 5, 4)
    # Intercept, one number with its missing flag, three genotypes less the reference, missing.
    assert found["weights"] * 4 == found["bytes_down_per_site_and_round"]
    assert found["privacy"]["noise_multiplier"] > 0
    assert found["bytes_up_per_site_and_round"] > found["bytes_down_per_site_and_round"]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("[privacy]", "[privacy]\ndelta = 0.01", "δ = 0.01 is large for 60 patients: 0.0017 is"),
        ("[metrics]", "[metrics]\nerror_bound = 500.0", "500, but no error can be above 199"),
        ("largest_site = 40", "largest_site = 61", "is 61, but all sites together have 60"),
    ],
)
def test_what_is_seldom_meant_is_a_warning(fedrx, place, before, after, words):
    text = (place / "study.toml").read_text().replace(before, after)
    (place / "study.toml").write_text(text)
    warning, _ = fedrx("study", "check", "study.toml", "--sites", "5", "--json").json["warnings"]
    assert words in warning
    assert f"Warning: {warning}" in fedrx("study", "check", "study.toml", "--sites", "5").out


def test_targets_that_no_block_measures_are_told(fedrx, place):
    assert fedrx("study", "new", "--task", "response", "--output", "panel.toml").code == 0
    check = ("study", "check", "panel.toml")
    assert "which no block measures" not in fedrx(*check).out
    text = (place / "panel.toml").read_text().replace('["EGFR", "ERBB2"]', '["EGFR", "NOSUCH1"]')
    (place / "panel.toml").write_text(text)
    assert "targets NOSUCH1, which no block measures." in fedrx(*check).out
    found = fedrx(*check, "--json").json["targets_in_no_block"]
    assert list(found.values()) == [["NOSUCH1"]]


@pytest.mark.parametrize("mode", ["none", "local"])
def test_other_modes_can_be_checked(fedrx, place, mode):
    text = (place / "study.toml").read_text().replace("[privacy]", f'[privacy]\nmode = "{mode}"')
    (place / "study.toml").write_text(text)
    ran = fedrx("study", "check", "study.toml")
    assert ran.code == 0
    assert ("No differential privacy" in ran.out) == (mode == "none")


@pytest.mark.parametrize(
    "command", [("simulate",), ("compare",), ("study", "new"), ("study", "check")], ids=" ".join
)
def test_every_command_has_help_with_an_example(fedrx, command):
    ran = fedrx(*command, "--help")
    assert ran.code == 0
    assert f"Example: fedrx {' '.join(command)}" in ran.out
    assert ("[transfer]" in ran.out) == (command == ("simulate",))
    assert "\\[" not in ran.out


@pytest.mark.parametrize(
    ("command", "panels"),
    [
        ("simulate", ("Patients", "What differs from the study file", "How it runs", "Output")),
        ("compare", ("What is compared", "Patients", "What differs from the study file", "Output")),
        ("site approve", ("The patients", "What is allowed", "Who signs", "Taking back")),
        ("site start", ("Connection", "Computing", "Service")),
        ("coordinator start", ("What sites see", "On loopback only")),
    ],
)
def test_the_help_of_long_commands_groups_their_options(fedrx, command, panels):
    said = fedrx(*command.split(), "--help").out
    assert [panel for panel in panels if f"─ {panel} ─" not in said] == []


def test_the_help_of_a_command_explains_its_arguments(fedrx):
    assert "built-in warfarin study if left" in fedrx("simulate", "--help").out


@pytest.mark.parametrize("group", [(), ("study",)], ids=" ".join)
def test_a_group_without_a_command_shows_its_commands(fedrx, group):
    ran = fedrx(*group)
    assert ran.code == 2
    assert "Commands" in ran.out + ran.err


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["simulate", "--help"],
        ["site", "approve", "--help"],
        ["simulate", "--nonsense"],
        ["simulate", "nofile.toml"],
        ["simulate", "--data", "x.csv", "--mapping", "nofile.toml", "--split-by", "site"],
        ["compare", "nofile.toml", "--models", "linear"],
        ["study", "check", "nofile.toml"],
        ["study", "schema", "--mapping"],
        ["predict", "nofile", "--patient", "patient.json"],
        ["coordinator", "run", "consortium", "nofile.toml"],
    ],
    ids=" ".join,
)
def test_help_and_typing_mistakes_do_not_wait_for_torch(argv):
    heavy = "{'torch', 'flwr', 'ray', 'pandas', 'plotly', 'dp_accounting', 'fedrx.api'}"
    script = (
        "import sys; from fedrx.cli import main as cli; sys.argv = ['fedrx', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        f"except SystemExit: sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_importing_fedrx_is_light_and_complete():
    script = (
        "import sys, fedrx; assert 'torch' not in sys.modules\n"
        "for name in fedrx.__all__: getattr(fedrx, name)\n"
        "try: fedrx.nonsense\n"
        "except AttributeError as error: assert 'nonsense' in str(error)\n"
        "else: sys.exit('no error')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_installed_command_is_this_one():
    command = Path(sys.executable).with_name("fedrx")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert "simulate" in done.stdout


def test_patients_for_a_rehearsal_are_checked_by_the_same_study(fedrx, place):
    (place / "study.toml").unlink()
    assert fedrx("study", "new", "--output", "study.toml").code == 0
    argv = ("study", "patients", "study.toml", "--sites", "2", "--patients", "25..30")
    assert fedrx(*argv, "--output", "drawn").code == 0
    assert sorted(path.name for path in (place / "drawn").iterdir()) == [
        "mapping.toml",
        "site-1.csv",
        "site-2.csv",
    ]
    again = fedrx(*argv, "--output", "drawn")
    assert (again.code, "is not empty" in again.err) == (2, True)


@pytest.mark.parametrize("kind", ["study", "mapping"])
def test_the_schema_of_a_file_is_printed(fedrx, kind):
    ran = fedrx("study", "schema", *(["--mapping"] if kind == "mapping" else []))
    assert ran.code == 0
    assert ran.json["title"] == f"FedRx {kind} file"


def test_the_version_names_fedrx_and_what_it_stands_on(fedrx):
    ran = fedrx("--version")
    assert ran.code == 0
    names = [line.split() for line in ran.out.splitlines()]
    assert names == [[name, version(name)] for name in ("fedrx", "flwr", "torch")]
