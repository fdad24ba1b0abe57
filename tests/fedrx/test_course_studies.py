"""A table of visits at the command line: it runs, is compared on, or is refused in one sentence.

A valid study of two markers and a table of sixty patients at three sites; a test changes one thing.
"""

import re

import pytest

STUDY = """
name = "course"
[cohort]
patients = 60
largest_site = 30
minimum_per_site = 5
[model]
name = "linear_mixed"
[training]
rounds = 2
[privacy]
mode = "none"
[metrics]
evaluations = 0
error_bound = 3.0
[visits]
time_unit = "month"
most = 6
[[markers]]
name = "creatinine"
unit = "mg/dL"
minimum = 0.05
maximum = 40.0
mean = 1.0
scale = 0.5
[[markers]]
name = "urea"
unit = "mg/dL"
minimum = 1.0
maximum = 300.0
mean = 40.0
scale = 20.0
[[treatments]]
name = "drug"
kind = "amount"
unit = "mg/day"
maximum = 50.0
scale = 10.0
[target]
kind = "forecast"
name = "course"
markers = ["creatinine"]
horizons = [
  { at = 3.0, window = [2.0, 4.0] },
  { at = 6.0, window = [5.0, 7.0] },
]
"""

MAPPING = """
[table]
patient = "id"
[visits]
time = "month"
unit = "month"
[markers.creatinine]
column = "crea"
unit = "mg/dL"
[markers.urea]
column = "urea"
unit = "mg/dL"
[treatments.drug]
column = "dose"
unit = "mg/day"
"""

DATA = ("--data", "visits.csv", "--mapping", "visits.toml")
FILES = ("course.toml", *DATA)


def visits():
    """Sixty patients, three visits each, three months apart."""
    rows = [
        f"p{i},s{i % 3},{3 * n},{1 + (i + n) % 5 / 10},{30 + (i * n) % 7},{n}"
        for i in range(60)
        for n in range(3)
    ]
    return "\n".join(["id,site,month,crea,urea,dose", *rows]) + "\n"


@pytest.fixture
def course(place):
    """Study, mapping and table; `course(file, old, new)` changes one thing."""
    files = {"course.toml": STUDY, "visits.toml": MAPPING, "visits.csv": visits()}
    for name, text in files.items():
        (place / name).write_text(text)

    def change(name, old, new):
        assert old in files[name]
        files[name] = files[name].replace(old, new)
        (place / name).write_text(files[name])

    return change


def test_what_the_others_change_runs(fedrx, course):
    ran = fedrx("simulate", *FILES, "--sites", "3", "--seed", "1", "--no-baselines", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["data"]["rows_kept"] == 180
    again = fedrx("simulate", "--resume", ran.json["run"], "--json")
    assert again.json["metrics"] == ran.json["metrics"]


def test_models_are_compared_patient_by_patient_and_marker_by_marker(fedrx, course, place):
    course("course.toml", 'markers = ["creatinine"]', 'markers = ["creatinine", "urea"]')
    compared = ("--models", "last_value,linear_mixed", "--folds", "3", "--output", "c")
    ran = fedrx("compare", *FILES, "--sites", "3", "--seed", "1", *compared, "--json")
    assert ran.code == 0, ran.err
    (table,) = ran.json["tables"]
    rule, model = table["models"]
    assert rule["means"]["ratio"] == pytest.approx(1.0)
    assert (table["headline"]["key"], table["unit"], model["pairs"]) == ("ratio", "patients", 60)
    assert list(model["single"]) == ["creatinine 3", "creatinine 6", "urea 3", "urea 6"]
    for name, (mean, (low, high)) in model["single"].items():
        assert mean == pytest.approx(model["means"][f"ratio {name}"])
        assert low < mean < high
    page = (place / "c" / "comparison.html").read_text()
    assert "Error relative to the last value, marker by marker" in page
    assert re.search(r'<th scope="row">urea 6</th>\s*<td>1\.00 \(1\.00–1\.00\)</td>', page)


MISTAKES = [
    ("visits.csv", "p0,s0,6,", "p0,s0,1,", "line 4, column 'month': a visit at 1 stands after one"),
    ("visits.csv", "p0,s0,6,", "p0,s0,3,", "the patient's visit at 3 is already on line 3; keep o"),
    ("visits.csv", "p0,s0,6,", "p0,s0,,", "line 4, column 'month': the visit has no time"),
    ("visits.csv", "p0,s0,6,1.2,", "p0,s0,6,120,", "'120' mg/dL is outside the study's range of 0"),
    ("visits.csv", "p0,s0,6,1.2,", "p0,s0,6,-1,", "'-1' mg/dL is outside the study's range of 0.0"),
    ("visits.csv", "p0,s0,6,1.2,30,2", "p0,s0,6,1.2,30,900", "'900' mg/day is outside the study's"),
    (
        "visits.csv",
        "p0,s0,6,1.2,",
        "p0,s0,6,high,",
        "line 4, column 'crea': 'high' is not a num",
    ),
    ("visits.toml", '"crea"\nunit = "mg/dL"', '"crea"\nunit = "mmol/L"', "is 'mmol/L', which can"),
    ("visits.toml", '"month"\nunit = "month"', '"month"\nunit = "kg"', "is 'kg', which cannot"),
    (
        "visits.toml",
        "[markers.urea]",
        "[markers.potassium]",
        "'markers.potassium' is not in the",
    ),
    (
        "visits.csv",
        "p0,s0,3,1.1,30,1\np0,s0,6,1.2,30,2\n",
        "",
        "patient 'p0' has one visit only",
    ),
    ("course.toml", "[2.0, 4.0]", "[2.5, 2.6]", "[2.5, 2.6] must begin above 0 and hold the horiz"),
]


@pytest.mark.parametrize(("file", "old", "new", "words"), MISTAKES)
def test_a_mistake_is_refused_before_anything_is_trained(refused, course, file, old, new, words):
    course(file, old, new)
    assert words in refused("simulate", *FILES, "--split-by", "site", "--seed", "1")


@pytest.mark.parametrize(("file", "old", "new", "words"), MISTAKES[:-1])
def test_a_site_sees_it_in_its_check(fedrx, joined, course, file, old, new, words):
    course(file, old, new)
    ran = fedrx("site", "check", "a", *FILES, "--json")
    assert ran.code == 2
    (line,) = [line for line in ran.json["lines"] if line["name"] == "data"]
    assert not line["ok"]
    assert words in line["text"]
    assert line["remedy"]


class TestWhatNobodyHas:
    """Markers, horizons and visits that no site of a simulation can tell anything of."""

    FAR = ("course.toml", "at = 6.0, window = [5.0, 7.0]", "at = 24.0, window = [20.0, 30.0]")
    NO_UREA = ("visits.toml", 'column = "urea"\nunit = "mg/dL"', "measured = false")

    @pytest.fixture
    def told(self, refused, course):
        def run(*changes):
            for change in changes:
                course(*change)
            return refused("simulate", *FILES, "--split-by", "site", "--seed", "1")

        return run

    def test_every_horizon_beyond_the_data(self, told):
        near = ("course.toml", "{ at = 3.0, window = [2.0, 4.0] },", "")
        assert "bring longer follow-up, or a study with other horizons" in told(near, self.FAR)

    def test_one_horizon_beyond_the_data(self, told):
        assert "nobody has a visit 20 to 30 after another" in told(self.FAR)

    def test_a_marker_to_be_forecast(self, told):
        more = ("course.toml", 'markers = ["creatinine"]', 'markers = ["creatinine", "urea"]')
        assert "nobody has marker 'urea' measured at two visits" in told(more, self.NO_UREA)

    def test_a_marker_that_is_only_looked_at(self, told):
        assert "no site has marker 'urea' measured at any visit: take it out of" in told(
            self.NO_UREA
        )
