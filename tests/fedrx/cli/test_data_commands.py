"""`fedrx data quality` and `map`, and what a red finding does to an approval."""

import json
import sqlite3
from contextlib import closing

import pytest

from fedrx_client.approvals.store import Approvals
from fedrx_client.approvals.study_files import StudyFiles
from fedrx_client.data.privacy.cache import CacheDamaged
from fedrx_client.identity.identity import SiteIdentity
from fedrx_client.participation.patients import Patients
from fedrx_client.participation.site_source import SiteSource
from fedrx_client.records.audit_log import AuditLog
from fedrx_protocol.study.study import Study

GIVEN = ("study.toml", "--source", "patients.csv", "--mapping", "mapping.toml")
SITE = ("study.toml", "--data", "patients.csv", "--mapping", "mapping.toml")


def spoil(place):
    """Write the weights in grams, where the mapping says kilograms; the study's range is wide."""
    mapping = (place / "mapping.toml").read_text()
    study = (place / "study.toml").read_text()
    assert 'unit = "kg"' in mapping
    lines = (place / "patients.csv").read_text().splitlines()
    header = lines[0].split(",")
    at = header.index("weight")
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        row[at] = f"{float(row[at]) * 10:g}"
    (place / "patients.csv").write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    (place / "study.toml").write_text(study.replace("maximum = 200", "maximum = 2500", 1))


def test_clean_data_give_code_0_and_a_page_without_a_script(fedrx, place):
    ran = fedrx("data", "quality", *GIVEN, "--output", "page.html", "--json")
    assert ran.code == 0, ran
    assert ran.json["ok"]
    assert ran.json["patients"] == 45
    assert {one["name"] for one in ran.json["columns"]} == {"weight_kg", "vkorc1", "dose"}
    page = (place / "page.html").read_text()
    assert "For this site alone" in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert (place / "page.html").stat().st_mode & 0o077 == 0


def test_a_wrong_unit_is_red_and_code_1(fedrx, place):
    spoil(place)
    ran = fedrx("data", "quality", *GIVEN)
    assert ran.code == 1, ran
    assert "units:weight_kg" in ran.out
    assert "RED" in ran.out


def test_bad_input_is_one_sentence_and_code_2(refused, place):
    assert "no such data file" in refused("data", "quality", *GIVEN[:2], "no.csv", *GIVEN[3:])
    (place / "page.html").write_text("x")
    assert "exists already" in refused("data", "quality", *GIVEN, "--output", "page.html")
    assert "is no folder" in refused("data", "quality", *GIVEN, "--output", "no/page.html")
    (place / "summary.json").write_text("{}")
    said = refused("data", "quality", *GIVEN, "--reference", "summary.json")
    assert "is not a consortium's summary" in said


def test_map_writes_a_mapping_once(fedrx, refused, place):
    ran = fedrx("data", "map", "patients.csv", "study.toml", "--output", "new.toml")
    assert ran.code == 0, ran
    assert "looked at 45 rows" in ran.out
    assert "[features.weight_kg]" in (place / "new.toml").read_text()
    said = refused("data", "map", "patients.csv", "study.toml", "--output", "new.toml")
    assert "exists already" in said


class TestApproval:
    @pytest.fixture
    def spoiled(self, joined, place):
        spoil(place)
        return joined

    def test_a_red_finding_stops_it(self, fedrx, spoiled, place):
        ran = fedrx("site", "approve", "a", *SITE, "--max-epsilon", "9", "--yes")
        assert ran.code == 2
        assert "red finding 'units:weight_kg'" in ran.err
        assert "--override units:weight_kg --reason TEXT" in ran.err
        assert not (place / "a" / "approvals").exists()
        lines = fedrx("site", "check", "a", *SITE, "--json").json["lines"]
        red = [one["name"] for one in lines if not one["ok"]]
        assert "quality units:weight_kg" in red

    def test_an_override_needs_a_name_that_is_red_and_a_reason(self, fedrx, spoiled):
        given = ("site", "approve", "a", *SITE, "--max-epsilon", "9", "--yes")
        said = fedrx(*given, "--override", "units:weight_kg").err
        assert "--override and --reason belong together" in said
        said = fedrx(*given, "--override", "units:dose", "--reason", "it is so").err
        assert "is no red finding of these data; red are: units:weight_kg" in said

    def test_it_is_signed_logged_and_shown(self, fedrx, spoiled, place):
        given = ("site", "approve", "a", *SITE, "--max-epsilon", "9", "--yes", "--by", "DPO")
        why = ("--override", "units:weight_kg", "--reason", "the scale of the ward")
        ran = spoiled(*given, *why)
        assert "Overrides: red finding 'units:weight_kg', as the scale of the ward" in ran.out
        (kept,) = Approvals(place / "a").all()
        assert dict(kept.approval.overrides) == {"units:weight_kg": "the scale of the ward"}
        words = AuditLog(place / "a" / "audit.log").lines()[-1].entry.reason
        assert words.endswith("overrides red finding 'units:weight_kg': the scale of the ward")
        ran = fedrx("site", "check", "a", *SITE, "--json")
        assert ran.code == 0, ran.out
        (line,) = [x for x in ran.json["lines"] if x["name"] == "quality units:weight_kg"]
        assert "Overridden: the scale of the ward" in line["text"]

    def test_an_approval_without_one_is_written_as_before(self, approved, place):
        (path,) = (place / "a" / "approvals").glob("*.json")
        assert "overrides" not in json.loads(path.read_bytes())["approval"]


def test_check_shows_the_pipeline_and_a_study_may_pin_it(fedrx, joined, place):
    shown = fedrx("site", "check", "a", *SITE, "--json").json["pipeline"]
    assert fedrx("data", "cohort", *GIVEN, "--json").json["pipeline"] == shown
    assert f"Pipeline: {shown}" in fedrx("data", "cohort", *GIVEN).out
    agreed = (place / "study.toml").read_text()
    for pin, code in ((shown, 0), ("ab" * 32, 2)):
        text = agreed.replace("minimum_per_site = 5", f'minimum_per_site = 5\npipeline = "{pin}"')
        (place / "study.toml").write_text(text)
        ran = fedrx("site", "approve", "a", *SITE, "--max-epsilon", "9", "--yes")
        assert ran.code == code, ran
        start = ("--mapping", "mapping.toml", "--data", "patients.csv", "--split-by", "site")
        folder = f"run-{code}"
        ran = fedrx("simulate", "study.toml", *start, "--output", folder)
        assert ran.code == code, ran
    assert "agreed on abababababab (cohort.pipeline)" in ran.err
    ran = fedrx("site", "check", "a", *SITE)
    assert "agreed on abababababab" in ran.out


def test_forget_removes_what_is_over(fedrx, approved, joined, place):
    assert "take it back first" in fedrx("site", "forget", "a", "--study", "small_dose").err
    joined("site", "approve", "a", "--revoke", "small_dose")
    ran = joined("site", "forget", "a", "--study", "small_dose", "--by", "DPO", "--yes")
    assert "To be removed: 0 cached cohorts and 1 study folder." in ran.out
    assert not list((place / "a" / "studies").iterdir())
    assert "removed by DPO" in joined("site", "audit", "a").out
    assert "Nothing is kept" in joined("site", "forget", "a", "--older-than", "0").out
    assert "give one of them" in fedrx("site", "forget", "a").err
    assert fedrx("site", "ledger", "a", "--verify").code == 0


QUERIED = """
[sql]
query = "select id, dose, weight, snp from visits"
"""


def test_a_site_with_a_database_keeps_its_cohort_sealed(fedrx, joined, place):
    rows = [line.split(",") for line in (place / "patients.csv").read_text().splitlines()[1:]]
    database = place / "hospital.db"
    with closing(sqlite3.connect(database)) as file, file:
        file.execute("create table visits (id text, site text, dose real, weight real, snp text)")
        named = [[f"MRN-88347-{row[0]}", *row[1:]] for row in rows]
        file.executemany("insert into visits values (?, ?, ?, ?, ?)", named)
    (place / "mapping.toml").write_text((place / "mapping.toml").read_text() + QUERIED)
    given = ("study.toml", "--data", f"sqlite:///{database}", "--mapping", "mapping.toml")
    joined("site", "approve", "a", *given, "--max-epsilon", "9", "--yes")
    assert fedrx("site", "check", "a", *given).code == 0
    home = place / "a"
    (sealed,) = (home / "cohorts").iterdir()
    for path in home.rglob("*"):
        assert not path.is_file() or b"MRN-88347" not in path.read_bytes()
    # The site starts without the database: what it kept is what was approved.
    database.unlink()
    kept = StudyFiles(home).load(Study.load(place / "study.toml").digest)
    keys = SiteIdentity(home).keys()
    way = SiteSource(home, "a", kept.study, kept.mapping, kept.source)
    patients = Patients(kept, "a", lambda: way.approved(keys.identity, now=1_900_000_000))
    patients.require_unchanged(thorough=True)
    (approval,) = Approvals(home).all()
    assert patients.cohort.fingerprint == approval.approval.cohort
    sealed.write_bytes(sealed.read_bytes()[:-1])
    with pytest.raises(CacheDamaged, match="the source is read again"):
        patients.require_unchanged(thorough=True)
