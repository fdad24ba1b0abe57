"""The pages on data: their worked examples run as they stand."""

import re
import shlex
from pathlib import Path

import pytest

from fedrx_client.data.mapping import TableMapping

DOCS = Path(__file__).resolve().parents[2] / "docs"
MAP, QUALITY = ((DOCS / name).read_text() for name in ("data_map.md", "data_quality.md"))


def blocks(page):
    """Return the fenced blocks of a page, in order."""
    return re.findall(r"^```\w*\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.fixture
def example(place):
    for name in ("study.toml", "patients.csv", "mapping.toml"):
        (place / name).unlink()
    _, study, table, *_ = blocks(MAP)
    (place / "study.toml").write_text(study)
    (place / "patients.csv").write_text(table)
    return place


def command(block):
    return shlex.split(block)[1:]


def test_the_mapping_of_the_page_is_what_the_command_proposes(fedrx, example):
    ran = fedrx(*command(blocks(MAP)[3]))
    assert ran.code == 0, ran
    assert (example / "mapping.toml").read_text() == blocks(MAP)[4]


def test_quality_says_what_the_page_says_before_and_after(fedrx, example):
    proposed, repaired = blocks(MAP)[4:6]
    (example / "mapping.toml").write_text(proposed)
    shown = blocks(QUALITY)
    given = command(shown[1])
    ran = fedrx(*given)
    assert (ran.code, ran.out) == (1, shown[2])
    before, _, rest = proposed.partition("[features.creatinine]")
    mended = before + repaired + "\n[features.sex]" + rest.partition("[features.sex]")[2]
    assert not TableMapping.parse(mended).absent
    (example / "mapping.toml").write_text(mended)
    (example / "page.html").unlink()
    ran = fedrx(*given)
    assert (ran.code, ran.out) == (0, shown[3])
