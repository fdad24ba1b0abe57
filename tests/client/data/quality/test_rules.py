"""Each rule: what makes a finding red or amber, where it points, and that it quotes no cell."""

import json
from datetime import date

import numpy as np
import pytest

from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.privacy.pipeline import pipeline_digest
from fedrx_client.data.quality.findings import Finding, FindingInvalid, first_places
from fedrx_client.data.quality.page import page
from fedrx_client.data.quality.reference import ConsortiumSummary
from fedrx_client.data.quality.report import look_at
from fedrx_client.data.quality.rules import schema_of
from fedrx_client.data.quality.scale import PublicReference, off_by
from fedrx_client.data.readers.source import Source
from fedrx_common.errors import DataError
from fedrx_protocol.study.study import Study

STUDY = Study.parse(
    """
name = "small"
[cohort]
patients = 60
largest_site = 400
[model]
name = "linear"
[target]
name = "dose"
unit = "mg/week"
minimum = 1
maximum = 200
mean = 35
scale = 15
[[features]]
name = "weight"
kind = "number"
unit = "kg"
minimum = 20
maximum = 300
mean = 78
scale = 20
[[features]]
name = "creatinine"
kind = "number"
unit = "mg/dL"
minimum = 0.1
maximum = 20
mean = 1.0
scale = 0.5
[[features]]
name = "sex"
kind = "category"
values = ["m", "f"]
[[features]]
name = "smoker"
kind = "flag"
"""
)
MAPPING = """
[table]
patient = "id"
[[filters]]
reason = "no visit"
column = "visit"
present = true
[target]
column = "dose"
unit = "mg/week"
[features.weight]
kind = "number"
column = "kg"
unit = "kg"
[features.creatinine]
kind = "number"
column = "crea"
unit = "mg/dL"
[features.sex]
kind = "category"
column = "sex"
[features.smoker]
kind = "flag"
any_of = ["smokes"]
"""
HEADER = ("id", "visit", "dose", "kg", "crea", "sex", "smokes")
TODAY = date(2026, 11, 28)


def rows(count=60):
    rng = np.random.default_rng(5)
    return [
        {
            "id": f"P{i}",
            "visit": f"2020-01-{1 + i % 28:02}",
            "dose": f"{rng.normal(35, 10):.1f}",
            "kg": f"{rng.normal(78, 15):.1f}",
            "crea": f"{rng.lognormal(0, 0.3):.2f}",
            "sex": "mf"[i % 2],
            "smokes": str(i % 2),
        }
        for i in range(count)
    ]


@pytest.fixture
def look(tmp_path):
    def run(change=lambda row, i: None, *, count=60, mapping=MAPPING, summary=None):
        table = rows(count)
        for i, row in enumerate(table):
            change(row, i)
        lines = [",".join(HEADER), *(",".join(row[name] for name in HEADER) for row in table)]
        path = tmp_path / "table.csv"
        path.write_text("\n".join(lines) + "\n")
        agreed, source = TableMapping.parse(mapping), Source.parse(path)
        try:
            loaded = load_cohort(source, agreed, STUDY.feature_schema, site="a")
        except DataError as error:
            loaded = error
        digest = pipeline_digest(agreed, STUDY.feature_schema)
        return look_at(source, agreed, STUDY, loaded, pipeline=digest, today=TODAY, summary=summary)

    return run


def levels(report):
    return {one.name: one.level for one in report.findings}


def every(part, column, value):
    """Set a column to a value in every `part`th row."""

    def change(row, i):
        if i % part == 0:
            row[column] = value(row) if callable(value) else value

    return change


def test_clean_data_have_no_finding(look):
    report = look()
    assert report.findings == []
    assert (report.rows_read, report.rows_kept, report.patients) == (60, 60, 60)
    assert page(report).count("No rule found anything to look at") == 1


@pytest.mark.parametrize(
    ("change", "name", "level"),
    [
        (every(30, "kg", "Jane Doe"), "number:weight", "red"),
        (every(30, "kg", "12"), "range:weight", "red"),
        (every(30, "sex", "Jane Doe"), "code:sex", "red"),
        (every(30, "smokes", "Jane Doe"), "code:smoker", "red"),
        (every(30, "dose", "Jane Doe"), "number:dose", "red"),
        (
            every(1, "crea", lambda row: f"{88.4 * float(row['crea']):.0f}"),
            "units:creatinine",
            "red",
        ),
        (every(1, "kg", lambda row: f"{2.2 * float(row['kg']):.0f}"), "units:weight", "red"),
        (
            every(10, "crea", lambda row: f"{10 * float(row['crea']):.1f}"),
            "units:creatinine",
            "amber",
        ),
        (every(1, "kg", lambda row: f"{float(row['kg']) + 30:.0f}"), "drift:weight", "amber"),
        (every(2, "kg", ""), "missing:weight", "amber"),
        (every(1, "kg", ""), "missing:weight", "red"),
        (every(30, "id", "P1"), "duplicate:patients", "red"),
        (every(30, "visit", "2023-02-30"), "date:visit", "red"),
        (every(30, "visit", "2030-01-01"), "date:visit", "red"),
        (every(30, "visit", "31.12.2026"), "date:visit", "red"),
        (every(30, "visit", "1900-01-01"), "date:visit", "amber"),
        (every(1, "sex", "m"), "constant:sex", "amber"),
        (every(1, "visit", ""), "", ""),
    ],
)
def test_each_rule_finds_its_fault(look, change, name, level):
    if not name:
        with pytest.raises(DataError, match="no row is left"):
            look(change)
        return
    report = look(change)
    assert levels(report).get(name) == level
    assert "Jane" not in report.text() + page(report) + json.dumps(report.to_dict())
    assert report.findings == sorted(report.findings, key=lambda one: one.level != "red")


def test_a_finding_says_how_many_where_and_what_to_do(look):
    report = look(every(20, "kg", "12"))
    (one,) = [x for x in report.findings if x.name == "range:weight"]
    assert one.text == (
        "3 of 60 values in column 'kg' are outside the study's range (lines 2, 22, 42)."
    )
    assert "check the unit" in one.remedy.lower()
    assert report.patients is None
    (loading,) = [x for x in report.findings if x.name == "loading"]
    assert loading.text.endswith("about table.csv, line 2, column 'kg'.")


def test_what_the_mapping_takes_as_missing_is_amber(look):
    lenient = MAPPING.replace('unit = "kg"', 'unit = "kg"\nunknown = "missing"')
    report = look(every(20, "kg", "12"), mapping=lenient)
    assert levels(report) == {"range:weight": "amber"}
    assert report.patients == 60


def test_rows_that_a_filter_drops_are_not_judged(look):
    def change(row, i):
        if i < 5:
            row.update(visit="", kg="Jane Doe")

    report = look(change)
    assert levels(report) == {}
    assert (report.rows_read, report.rows_kept, report.dropped["no visit"]) == (60, 55, 5)


def test_equal_rows_of_two_patients_are_shown(look):
    def change(row, i):
        if i in (7, 8):
            row.update(dose="31.5", kg="70", crea="1", sex="m", smokes="1")

    assert levels(look(change)) == {"duplicate:rows": "amber"}


class TestConsortium:
    def summary(self, tmp_path, **columns):
        path = tmp_path / "summary.json"
        document = {"format": "fedrx/1 reference", "study": STUDY.digest, "columns": columns}
        path.write_text(json.dumps(document))
        return ConsortiumSummary.load(path, STUDY)

    def test_a_site_like_the_others_has_no_finding(self, look, tmp_path):
        summary = self.summary(
            tmp_path, weight={"mean": 77, "scale": 16}, sex={"shares": {"m": 0.52, "f": 0.48}}
        )
        assert look(summary=summary).findings == []

    def test_another_population_is_amber_and_another_unit_red(self, look, tmp_path):
        summary = self.summary(
            tmp_path,
            weight={"mean": 104, "scale": 12},
            creatinine={"mean": 0.1, "scale": 0.03},
            sex={"shares": {"m": 0.9, "f": 0.1}},
        )
        found = levels(look(summary=summary))
        assert found == {
            "units:creatinine": "red",
            "consortium:weight": "amber",
            "consortium:sex": "amber",
        }

    @pytest.mark.parametrize(
        ("document", "says"),
        [
            ({"format": "fedrx/1 reference", "study": "ab" * 32, "columns": {}}, "not of 'small'"),
            ({"format": "other", "study": "ab" * 32, "columns": {}}, "'format'"),
            ([], "is not a consortium's summary"),
            ({"format": "fedrx/1 reference", "study": "ab" * 32, "columns": {"x": 1}}, "columns.x"),
        ],
    )
    def test_what_is_no_summary_of_this_study_is_refused(self, tmp_path, document, says):
        path = tmp_path / "summary.json"
        path.write_text(json.dumps(document))
        with pytest.raises(DataError, match=says):
            ConsortiumSummary.load(path, STUDY)


@pytest.mark.parametrize(
    ("unit", "mean", "scale", "factor", "named"),
    [
        ("kg", 78, 20, 2.2046, "lb"),
        ("kg", 78, 20, 1000, "g"),
        ("cm", 168, 10, 1 / 2.54, "in"),
        ("cm", 168, 10, 0.01, "m"),
        ("mg/dL", 150, 60, 1 / 18.016, "mmol/L (glucose)"),
        ("mmol/L", 6, 2, 18.016, "mg/dL (glucose)"),
        ("mg/dL", 1.0, 0.4, 88.42, "µmol/L (creatinine)"),
        ("umol/L", 80, 30, 1 / 88.42, "mg/dL (creatinine)"),
        ("g/dL", 13, 2, 10, "g/L"),
        ("year", 60, 15, 12, "month"),
        ("mg/week", 35, 15, 1 / 7, "mg/day"),
    ],
)
def test_units_are_recognised_by_their_factor(unit, mean, scale, factor, named):
    rng = np.random.default_rng(1)
    spread = np.sqrt(np.log1p((scale / mean) ** 2))
    usual = mean * rng.lognormal(0, spread, 500)
    reference = PublicReference(unit, mean, scale)
    assert off_by(usual, reference) is None
    found = off_by(usual * factor, reference)
    assert found is not None
    assert (found.unit, found.share) == (named, 1.0)


def test_fahrenheit_is_recognised_and_children_are_no_unit():
    warm = PublicReference("C", 37, 0.7)
    assert off_by(np.full(50, 98.6), warm).unit == "°F"
    assert off_by(np.full(50, 38.5), warm) is None
    weights = np.random.default_rng(2).normal(22, 5, 300)
    assert off_by(weights, PublicReference("kg", 78, 20)) is None
    assert off_by(np.array([160.0] * 5), PublicReference("kg", 78, 20)) is None


def test_the_schema_is_made_from_the_study():
    schema = schema_of(STUDY.feature_schema)
    assert list(schema.columns) == ["weight", "creatinine", "sex", "smoker", "dose"]
    assert [check.name for check in schema.columns["weight"].checks] == ["number", "range"]


def test_findings_are_named_and_red_ones_have_a_remedy():
    with pytest.raises(FindingInvalid):
        Finding("range:weight", "red", "text")
    with pytest.raises(FindingInvalid):
        Finding("Range weight", "amber", "text")
    assert first_places("line", range(2, 9)) == "lines 2, 3, 4, 5, 6 and 2 more"
    assert first_places("row", [3]) == "row 3"
    assert first_places("row", []) == ""
