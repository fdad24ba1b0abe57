"""A table with a row for each visit: read into courses, and every mistake told in one sentence."""

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema

from fedrx_client.data.load import load_cohort, load_split
from fedrx_client.data.mapping import TableMapping
from fedrx_common.errors import DataError
from fedrx_models.cohort.visits import EPISODE, TIME
from fedrx_simulation.cohorts.tables import write_tables

SCHEMA = flux_schema(most=6)
MAPPING = """
[table]
patient = "id"

[visits]
time = "t"
unit = "hour"
episode = "stay"

[features.age]
kind = "number"
column = "age"
unit = "years"

[markers.bilirubin]
column = "bili"
unit = "mg/L"

[markers.albumin]
column = "alb"
unit = "mg/L"

[markers.platelets]
measured = false

[treatments.drug]
column = "drug"
unit = "mg"

[treatments.oxygen]
column = "oxygen"
yes = ["yes"]
no = ["no"]
"""
TABLE = """id,site,age,stay,t,bili,alb,drug,oxygen
a,x,70,s1,0,10,40,0,no
b,x,50,s9,2,5,,,
a,x,70,s1,1,NA,50,5,yes
a,x,70,s1,4,20,45,5,
a,x,70,s0,7,20,45,5,
b,x,50,s9,3,6,60,2,yes
"""


@pytest.fixture
def load(tmp_path):
    def read(table=TABLE, mapping=MAPPING, schema=SCHEMA):
        path = tmp_path / "visits.csv"
        path.write_text(table)
        return load_cohort(path, TableMapping.parse(mapping), schema, site="here")

    return read


def test_visits_become_courses(load):
    cohort = load().cohort
    assert cohort.patients == ("a", "b")
    assert cohort.values["age"].tolist() == [70, 50]
    a, b = cohort.visits
    assert a[:4, TIME].tolist() == [0, 1, 4, 7]
    assert a[:4, EPISODE].tolist() == [0, 0, 0, 1]
    assert a[:4, 3].tolist() == [40, 50, 45, 45]
    assert a[:4, 5:].tolist() == [[0, 0], [5, 1], [5, 0], [5, 0]]
    assert np.isnan(a[1, 2])
    assert np.isnan(a[:, 4]).all()
    assert np.isnan(a[4:]).all()
    assert b[:2, 5:].tolist() == [[0, 0], [2, 1]]


def test_every_row_is_accounted_for(load):
    quality = load().quality
    assert (quality.rows_read, quality.rows_kept) == (6, 6)
    assert quality.missing == {"bilirubin": 1, "albumin": 1, "platelets": 6}
    assert "platelets 6 (100.0 %)" in quality.text()


def test_times_and_values_are_converted(load):
    minutes = MAPPING.replace('unit = "hour"', 'unit = "minute"')
    table = TABLE.replace(",0,10,", ",0,10,").replace("s1,1,", "s1,60,").replace("s1,4,", "s1,240,")
    table = table.replace("s9,2,", "s9,120,").replace("s9,3,", "s9,180,")
    visits = load(table, minutes).cohort.visits
    assert visits[0, :3, TIME] == pytest.approx([0, 1, 4])


def test_the_newest_visits_are_kept(load):
    rows = "".join(f"c,x,60,s,{t},10,40,0,no\n" for t in range(9))
    loaded = load(TABLE + rows)
    assert loaded.cohort.visits[2, :, TIME].tolist() == [3, 4, 5, 6, 7, 8]
    assert loaded.quality.dropped["visits before the newest ones"] == 3
    assert loaded.quality.rows_kept == 12


def test_a_patient_with_nothing_to_forecast_is_dropped_where_the_mapping_says_so(load):
    mapping = MAPPING.replace("[features", 'short = "drop"\n\n[features', 1)
    loaded = load(TABLE + "c,x,60,s,0,10,40,0,no\n", mapping)
    assert loaded.cohort.patients == ("a", "b")
    assert loaded.quality.dropped["visits of patients with nothing to forecast"] == 1


def test_a_table_of_several_sites_is_split(tmp_path):
    path = tmp_path / "visits.csv"
    path.write_text(TABLE.replace("b,x", "b,y"))
    loaded = load_split(path, TableMapping.parse(MAPPING), SCHEMA, split_by="site")
    assert {site: cohort.patients for site, cohort in loaded.cohorts.items()} == {
        "x": ("a",),
        "y": ("b",),
    }


def test_features_may_stand_in_a_file_of_their_own(load, tmp_path):
    own = 'features = "once.csv"\npatient = "who"\n\n[features'
    mapping = MAPPING.replace("[features", own, 1)
    (tmp_path / "once.csv").write_text("who,age\nz,20\nb,51\na,71\n")
    bare = "\n".join(",".join(row.split(",")[:2] + row.split(",")[3:]) for row in TABLE.split())
    assert load(bare, mapping).cohort.values["age"].tolist() == [71, 51]
    (tmp_path / "once.csv").write_text("who,age\na,71\n")
    with pytest.raises(DataError, match=r"patient 'b' has no row in once\.csv; add one"):
        load(bare, mapping)


def test_features_of_a_file_cannot_belong_to_patients_of_two_sites(tmp_path):
    own = 'features = "once.csv"\npatient = "who"\n\n[features'
    (tmp_path / "once.csv").write_text("who,age\na,71\n")
    path = tmp_path / "visits.csv"
    path.write_text(TABLE.replace("b,x", "a,y"))
    mapping = TableMapping.parse(MAPPING.replace("[features", own, 1))
    with pytest.raises(DataError, match="two sites have the same id"):
        load_split(path, mapping, SCHEMA, split_by="site")


class TestJoinedFiles:
    """`[join]`: whose stay it is, and where, stands in a file with a row for each stay."""

    JOIN = '[join]\nfile = "stays.csv"\nby = "stay"\n\n[visits]'
    STAYS = "stay,id,site,age\ns0,a,x,70\ns1,a,x,70\ns9,b,y,50\n"

    @pytest.fixture
    def load_joined(self, load, tmp_path):
        bare = "\n".join(row.split(",", 3)[3] for row in TABLE.split()) + "\n"

        def read(stays=self.STAYS, by="stay"):
            (tmp_path / "stays.csv").write_text(stays)
            return load(bare, MAPPING.replace("[visits]", self.JOIN.replace("stay", by), 1))

        return read

    def test_they_say_whose_each_visit_is(self, load, load_joined):
        assert load_joined().cohort.fingerprint == load().cohort.fingerprint

    def test_a_mapping_names_the_file_for_whoever_watches_it(self):
        mapping = TableMapping.parse(MAPPING.replace("[visits]", self.JOIN, 1))
        assert mapping.files == ("stays.csv",)

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("s9,b,y,50\n", "", "line 3, column 'stay': value 's9' has no row in stays.csv; add"),
            (
                "s0,a",
                "s1,a",
                "line 3, column 'stay': value 's1' is already on line 2; keep one row",
            ),
            ("stay,id", "number,id", "column 'stay', which the mapping names, is not there"),
        ],
    )
    def test_a_mistake_in_them_is_one_sentence(self, load_joined, old, new, words):
        with pytest.raises(DataError) as found:
            load_joined(self.STAYS.replace(old, new))
        assert words in str(found.value)


def test_written_tables_are_read_as_they_were(tmp_path):
    cohort = flux_cohort(SCHEMA, 30, missingness=0.2)
    (table,) = write_tables({"site-1": cohort}, tmp_path / "tables")
    mapping = TableMapping.load(tmp_path / "tables" / "mapping.toml")
    read = load_cohort(table, mapping, SCHEMA, site="site-1").cohort
    kept = [i for i, patient in enumerate(cohort.patients) if patient in read.patients]
    assert len(kept) > 20
    assert read.fingerprint == cohort.select(kept).fingerprint


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("s1,4,20", "s1,0.5,20", "line 5, column 't': a visit at 0.5 stands after one at 1; sort"),
        ("s1,4,20", "s1,1,20", "the patient's visit at 1 is already on line 4; keep one row per"),
        ("s1,4,20", "s1,,20", "line 5, column 't': the visit has no time"),
        ("s1,4,20", "s1,soon,20", "'soon' is not a number; correct it."),
        ("s0,7,", ",7,", "line 6, column 'stay': the visit belongs to no episode"),
        ("s1,4,20,45", "s1,4,20,999", "'999' mg/L is outside the study's range of 1 to 99 mg/L"),
        ("s1,4,20", "s1,4,high", "'high' is not a number"),
        ("45,5,\na,x,70,s0", "45,5000,\na,x,70,s0", "'5000' mg is outside the study's range of 0"),
        ("5,yes", "5,maybe", "allowed: yes, no; correct it, or the unit or codes that"),
        ("b,x,50,s9,3,6,60,2,yes\n", "", "patient 'b' has one visit only, so that nothing can be"),
        ("b,x,50,s9,3", "b,x,50,s9,9", "patient 'b' has 2 visits, but no marker of the target at"),
        ("id,site", "who,site", "column 'id', which the mapping names, is not there"),
    ],
)
def test_a_mistake_in_the_table_is_one_sentence(load, old, new, words):
    assert TABLE.count(old) == 1
    with pytest.raises(DataError) as found:
        load(TABLE.replace(old, new))
    assert words in str(found.value)
    assert "\n" not in str(found.value)


def test_an_episode_is_not_taken_up_again(load):
    late = TABLE + "a,x,70,s1,9,20,45,5,\n"
    with pytest.raises(DataError, match="the episode goes on after another has begun"):
        load(late)


def test_a_horizon_beyond_the_data_is_one_sentence(load):
    mapping = MAPPING.replace("[features", 'short = "drop"\n\n[features', 1)
    far = SCHEMA.model_dump(mode="json")
    far["target"]["horizons"] = [{"at": 90.0, "window": [80.0, 99.0]}]
    with pytest.raises(DataError, match="bring longer follow-up, or a study with other horizons"):
        load(TABLE, mapping, type(SCHEMA).model_validate(far))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"alb"\nunit = "mg/L"', '"alb"\nunit = "stone"', "'markers.albumin.unit' is 'stone', wh"),
        ('unit = "hour"', 'unit = "fortnight"', "'visits.unit' is 'fortnight', which cannot be"),
        ("[markers.platelets]", "[markers.crp]", "'markers.crp' is not in the study; its markers"),
        ("[markers.platelets]\nmeasured = false\n", "", "'markers.platelets' is missing; a site w"),
        ("measured = false", "unknown = 'missing'", "give column and unit, or measured = false"),
        ("[treatments.drug]", "[treatments.pill]", "'treatments.pill' is not in the study"),
        ('episode = "stay"', 'features = "once.csv"', "features and patient belong together"),
        ('"drug"\nunit = "mg"', '"drug"', "'treatments.drug.unit' is '', which cannot be"),
    ],
)
def test_a_mistake_in_the_mapping_is_one_sentence(load, old, new, words):
    assert MAPPING.count(old) == 1
    with pytest.raises(DataError) as found:
        load(TABLE, MAPPING.replace(old, new))
    assert words in str(found.value)
    assert "\n" not in str(found.value)


def test_a_mapping_without_visits_is_told_so(load):
    start, end = MAPPING.index("[visits]"), MAPPING.index("[features")
    with pytest.raises(DataError, match="section 'visits' is missing; give at least its time"):
        load(TABLE, MAPPING[:start] + MAPPING[end:])
