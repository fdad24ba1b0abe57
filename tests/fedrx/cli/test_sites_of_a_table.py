"""Who takes part in a simulation of a table: told by name, whatever language the name is in."""

import pytest

from fedrx.sources import site_ids
from fedrx_protocol.trust.roster import SITE_ID

DATA = ("--data", "patients.csv", "--mapping", "mapping.toml", "--split-by", "site")
RUN = ("simulate", "study.toml", *DATA, "--seed", "1", "--no-baselines")


@pytest.fixture
def change(place):
    """`change(old, new, file)` edits a file of the folder."""

    def edit(old, new, file="patients.csv"):
        text = (place / file).read_text(encoding="utf-8")
        assert old in text
        (place / file).write_text(text.replace(old, new), encoding="utf-8")

    return edit


def test_sites_have_names_of_any_language(fedrx, change):
    for letter, name in zip("ABC", ("St. Anna Düsseldorf", "東京大学病院", "ok-1"), strict=True):
        change(f"hospital-{letter}", name)
    ran = fedrx(*RUN, "--output", "run")
    assert ran.code == 0, ran.err
    assert "'St. Anna Düsseldorf' is St.-Anna-Dusseldorf" in ran.out
    assert "'東京大学病院' is site" in ran.out
    assert "'ok-1' is" not in ran.out  # an id already
    again = fedrx("simulate", "--resume", "run")
    assert again.code == 0, again.err


def test_ids_follow_from_the_names_alone():
    names = ["Ä b", "A b", "A-b", "..", "東京", "x" * 90, "y"]
    found = site_ids(names)
    assert all(SITE_ID.fullmatch(one) for one in found.values())
    assert len(set(found.values())) == len(names)
    assert site_ids(reversed(names)) == found
    assert (found["A-b"], found["y"]) == ("A-b", "y")


def test_a_site_below_the_minimum_stays_out_and_is_named(fedrx, place, change):
    lines = (place / "patients.csv").read_text().splitlines()
    few = [line.replace("hospital-A", "hospital-D") for line in lines[1:5]]
    more = [line.replace("p", "q", 1) for line in few]
    (place / "patients.csv").write_text("\n".join((*lines, *more)) + "\n")
    ran = fedrx(*RUN, "--output", "run")
    assert ran.code == 0, ran.err
    told = (
        "Site 'hospital-D' is left out: it has 4 patients, and the study asks for at least 5 a site"
    )
    assert told in ran.out
    again = fedrx("simulate", "--resume", "run", "--json")
    assert again.code == 0, again.err
    assert again.json["sites"] == 3
    assert any(told in note for note in again.json["notes"])


def test_a_table_of_another_size_than_agreed_is_pointed_out(fedrx, change):
    change("patients = 60", "patients = 45", "study.toml")
    assert fedrx(*RUN, "--json", "--output", "fits").json["notes"] == []
    change("patients = 45", "patients = 450", "study.toml")
    (note,) = fedrx(*RUN, "--json", "--output", "far").json["notes"]
    assert note.startswith("The sites have 45 patients, but cohort.patients says 450")


def test_one_model_is_compared_with_itself_without_each_site(fedrx, place, change):
    lines = (place / "patients.csv").read_text().splitlines()
    more = [line.replace("hospital-A", "hospital-D").replace("p", "q", 1) for line in lines[1:16]]
    (place / "patients.csv").write_text("\n".join((*lines, *more)) + "\n")
    alone = ("--models", "linear", "--leave-one-site-out", "--json", "--output", "compared")
    ran = fedrx("compare", "study.toml", *DATA, "--seed", "1", *alone)
    assert ran.code == 0, ran.err
    (table,) = ran.json["tables"]
    assert table["scheme"] == "sites"
    assert [one["model"] for one in table["models"]] == ["linear"]
    assert table["models"][0]["interval"] is not None
    assert ran.json["notes"] == []
