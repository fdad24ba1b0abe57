"""The command run in this process, in a folder of its own, with a small study beside it."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small_doses import MAPPING, SCHEMA

from fedrx.cli import main as main_command

torch.set_num_threads(1)

STUDY = """
name = "small_dose"
[cohort]
patients = 60
largest_site = 40
minimum_per_site = 5
held_out = 0.3
[model]
name = "linear"
[training]
rounds = 3
[privacy]
epsilon = 8.0
[metrics]
evaluations = 1
"""


HEADER = "id,site,dose,weight,snp"


def table(rows=45):
    """Three sites whose dose follows weight and genotype."""
    lines = [HEADER]
    for i in range(rows):
        snp, weight = ("CC", "CT", "TT")[i % 3], 50 + i
        dose = 20 + 0.3 * weight - 5 * (i % 3)
        lines.append(f"p{i},hospital-{'ABC'[i // 15]},{dose:g},{weight},{snp}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working folder, with study.toml, mapping.toml and patients.csv in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(STUDY + SCHEMA)
    (tmp_path / "mapping.toml").write_text(MAPPING)
    (tmp_path / "patients.csv").write_text(table())
    return tmp_path


@pytest.fixture
def fedrx(place, monkeypatch, capsys):
    """`fedrx("simulate", "--seed", "1")` runs the command line and says how it ended."""

    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["fedrx", *map(str, argv)])
        with pytest.raises(SystemExit) as ended:
            main_command.main()
        captured = capsys.readouterr()
        return Ran(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def refused(fedrx, place):
    """Runs a command that must be refused: one sentence, code 2, and nothing left behind."""

    def run(*argv):
        before = _files(place)
        ran = fedrx(*argv)
        assert ran.code == 2, ran
        assert ran.out == ""
        assert "Traceback" not in ran.err
        assert ran.err.startswith("fedrx: ")
        assert len(ran.err.strip().splitlines()) == 1, ran.err
        assert _files(place) == before
        return ran.err

    return run


def _files(folder: Path):
    return sorted(folder.rglob("*"))


SITE_FILES = ("study.toml", "--data", "patients.csv", "--mapping", "mapping.toml")
SITES = ("a", "b", "d")


@pytest.fixture
def joined(fedrx, place):
    """Three enrolled sites, of which `a` has joined, with 40 patients that the study allows."""
    lines = (place / "patients.csv").read_text().splitlines()
    (place / "patients.csv").write_text("\n".join(lines[:41]) + "\n")

    def done(*argv):
        ran = fedrx(*argv)
        assert ran.code == 0, ran.err
        return ran

    done("coordinator", "init", "c", "--host", "x.example.org", "--name", "W")
    for site in SITES:
        done("site", "init", site, "--site", site, "--name", site)
    done("coordinator", "enroll", "c", *(f"{s}/enrolment-request.json" for s in SITES), "--yes")
    heard = done("coordinator", "roster", "c", "--json").json["fingerprint"]
    given = ("--roster", "c/roster.json", "--ca", "c/ca.crt", "--fingerprint", heard)
    done("site", "join", "a", *given)
    return done


@pytest.fixture
def approved(joined):
    ran = joined("site", "approve", "a", *SITE_FILES, "--max-epsilon", "9", "--by", "DPO", "--yes")
    return ran.out
