"""A table becomes cohorts as the mapping says; anything else is one sentence with its place."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from fedrx_client.data.load import load_cohort, load_dealt, load_split
from fedrx_client.data.mapping import TableMapping
from fedrx_common.errors import DataError

from .conftest import HEADER, MAPPING, ROWS

P1 = ROWS[0]


def test_values_arrive_in_the_studys_units(load):
    cohort = load().cohort
    assert cohort.site == "a"
    assert cohort.patients == ("p1", "p2", "p3", "p4", "p7")
    assert cohort.target.tolist() == [35.0, 21.0, 28.0, 42.0, 17.5]
    weights = [w * 0.45359237 for w in (200, 150, math.nan, 180, 180.5)]
    assert cohort.values["weight_kg"] == pytest.approx(weights, nan_ok=True)
    assert cohort.values["age_decade"] == pytest.approx([6, 9, math.nan, 4, 2], nan_ok=True)
    assert cohort.values["race"].tolist() == [0, 1, 0, 1, 1]


def test_the_first_rule_that_applies_fills_a_missing_genotype(load):
    # p3 by its neighbour, p4 by its laboratory, p7 by none: its race and laboratory do not fit.
    result = load()
    assert result.cohort.values["vkorc1"].tolist() == [0, 2, 0, 1, -1]
    assert result.quality.imputed == {
        "vkorc1 by neighbour": 1,
        "vkorc1 by laboratory": 1,
    }


def test_a_flag_is_yes_if_any_column_says_so(load):
    # p3 has nothing recorded, which this study takes for yes.
    assert load().cohort.values["smoker"].tolist() == [True, False, True, True, False]


def test_every_row_is_accounted_for(load):
    quality = load().quality
    assert (quality.rows_read, quality.rows_kept) == (7, 5)
    assert quality.dropped == {"not stable": 1, "no target recorded": 1}
    assert quality.missing == {
        "weight_kg": 1,
        "age_decade": 1,
        "vkorc1": 1,
        "race": 0,
        "smoker": 1,
    }


def test_a_table_splits_into_sites_in_natural_order(write, mapping, small_schema):
    result = load_split(write(*ROWS), mapping, small_schema, split_by="site")
    assert {site: cohort.patients for site, cohort in result.cohorts.items()} == {
        "2": ("p2", "p3", "p7"),
        "10": ("p1",),
        "b": ("p4",),
    }
    assert list(result.cohorts) == ["2", "10", "b"]
    with pytest.raises(DataError, match="holds 3 sites, not one"):
        _ = result.cohort


def test_a_table_without_sites_is_dealt_out_the_same_whatever_the_order(
    write, mapping, small_schema
):
    rows = [P1.replace("p1", f"p{i}") for i in range(11)]
    first, again = (
        load_dealt(write(*order), mapping, small_schema, sites=3).cohorts
        for order in (rows, rows[::-1])
    )
    assert list(first) == ["part-1", "part-2", "part-3"]
    assert sorted(len(cohort) for cohort in first.values()) == [3, 4, 4]
    for site, cohort in first.items():
        assert sorted(cohort.patients) == sorted(again[site].patients)
    with pytest.raises(DataError, match="has 11 patients, too few for 12 sites: ask for fewer"):
        load_dealt(write(*rows), mapping, small_schema, sites=12)


def test_the_same_patient_id_at_two_sites_is_two_patients(write, mapping, small_schema):
    path = write(P1, P1.replace("p1,10", "p1,2"))
    cohorts = load_split(path, mapping, small_schema, split_by="site").cohorts
    assert [cohort.patients for cohort in cohorts.values()] == [("p1",), ("p1",)]


def test_a_dropped_row_may_repeat_a_patient(load):
    assert load(P1, P1.replace("yes", "no")).cohort.patients == ("p1",)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (P1.replace("200", "2000"), "column 'weight': '2000' lb is outside .* 20 to 250 kg"),
        (P1.replace("200", "fat"), "column 'weight': 'fat' is not a number"),
        (P1.replace("200", "nan"), "column 'weight': 'nan' is not a number"),
        (P1.replace("200", "1_0"), "column 'weight': '1_0' is not a number"),
        (P1.replace("60 - 69", "64"), "column 'age': '64' is not an age range"),
        (P1.replace("60 - 69", "60 - 79"), "column 'age': '60 - 79' is not an age range"),
        (P1.replace("60 - 69", "100+"), r"column 'age': '100\+' is outside .* 0 to 9 decade"),
        (P1.replace("CC", "CG"), "column 'snp': 'CG' is not known; allowed: CC, CT, TT"),
        (P1.replace("White", "Green"), "column 'race': 'Green' is not known; allowed: White"),
        (P1.replace("y,n", "y,?"), "column 'cigars': '\\?' is neither yes nor no; allowed: y, n"),
        (P1.replace("yes,5", "yes,100"), "column 'dose': '100' mg/day is outside .* 1 to 400"),
        (P1.replace("p1", ""), "column 'id': the patient has no id"),
    ],
)
def test_an_impossible_value_is_named_with_its_line(load, row, sentence):
    with pytest.raises(DataError, match=rf"table\.csv, line 3, {sentence}") as error:
        load(ROWS[1], row)
    assert len(str(error.value).splitlines()) == 1


def test_what_to_do_about_a_value_can_be_followed(load):
    with pytest.raises(DataError, match='set unknown = "missing" for it in the mapping'):
        load(P1.replace("CC", "CG"))
    with pytest.raises(DataError, match="drop the row by a filter"):
        load(P1.replace("yes,5", "yes,many"))


def test_unknown_values_may_count_as_missing(load):
    unknown = 'unknown = "missing"\n'
    result = load(
        P1.replace("200", "2000").replace("CC", "CG").replace("y,n", "?,n"),
        replace=[
            ('unit = "lb"\n', f'unit = "lb"\n{unknown}'),
            ('column = "snp"\n', f'column = "snp"\n{unknown}'),
            (
                'any_of = ["cigarettes", "cigars"]\n',
                f'any_of = ["cigarettes", "cigars"]\n{unknown}',
            ),
        ],
    )
    assert np.isnan(result.cohort.values["weight_kg"][0])
    # An unknown genotype is missing, so the rules fill it like any other missing one.
    assert result.cohort.values["vkorc1"].tolist() == [0]
    assert result.cohort.values["smoker"].tolist() == [False]
    unknowns = {"weight_kg": 1, "age_decade": 0, "vkorc1": 1, "race": 0, "smoker": 1}
    assert result.quality.unknown == unknowns


def test_a_doubled_patient_is_named_with_both_lines(load):
    with pytest.raises(DataError, match="line 4, column 'id': patient 'p1' is already on line 2"):
        load(P1, ROWS[1], P1)


def test_a_row_without_a_site_is_named(write, mapping, small_schema):
    path = write(P1, ROWS[1].replace("p2,2", "p2,NA"))
    with pytest.raises(DataError, match="line 3, column 'site': the row belongs to no site"):
        load_split(path, mapping, small_schema, split_by="site")


def test_no_row_left_says_why(load):
    with pytest.raises(DataError, match="no row is left; dropped: not stable 1, no target rec"):
        load(ROWS[4], ROWS[5])


def test_a_column_that_is_not_there_is_named(write, load, mapping, small_schema):
    with pytest.raises(DataError, match="column 'weight', which the mapping names, is not there"):
        load(P1, header=HEADER.replace("weight", "mass"))
    with pytest.raises(DataError, match="column 'hospital', which the mapping names"):
        load_split(write(P1), mapping, small_schema, split_by="hospital")


def test_a_helper_category_outside_the_study_takes_any_value(write, small_schema):
    text = MAPPING + '\n[features.ward]\nkind = "category"\ncolumn = "lab"\n'
    text = text.replace('only_if_column = { lab = ["L1", "L2"] }', 'only_if = { ward = ["L2"] }')
    cohort = load_cohort(write(*ROWS), TableMapping.parse(text), small_schema, site="a").cohort
    assert cohort.values["vkorc1"].tolist() == [0, 2, 0, 1, -1]
    assert "ward" not in cohort.values


def test_decimal_commas_and_semicolons(load):
    options = [('patient = "id"\n', 'patient = "id"\ndelimiter = ";"\ndecimal = ","\n')]
    row = P1.replace(",", ";").replace(";200;", ";180,5;")
    cohort = load(row, header=HEADER.replace(",", ";"), replace=options).cohort
    assert cohort.values["weight_kg"] == pytest.approx([180.5 * 0.45359237])


def test_parquet_gives_the_same_cohort_as_csv(write, load, mapping, small_schema, tmp_path):
    names, cells = HEADER.split(","), [row.split(",") for row in ROWS]
    columns = {name: [row[i] for row in cells] for i, name in enumerate(names)}
    columns["dose"] = [None if d == "NA" else float(d) for d in columns["dose"]]
    columns["weight"] = [math.nan if w == "NA" else float(w) for w in columns["weight"]]
    parquet.write_table(pa.table(columns), tmp_path / "table.parquet")
    found = load_cohort(tmp_path / "table.parquet", mapping, small_schema, site="a")
    assert found.cohort.fingerprint == load().cohort.fingerprint


def test_a_bad_value_in_parquet_is_named_with_its_row(mapping, small_schema, tmp_path):
    columns = dict(zip(HEADER.split(","), ([c] for c in P1.split(",")), strict=True))
    path = tmp_path / "table.parquet"
    parquet.write_table(pa.table({**columns, "weight": [2000.5]}), path)
    with pytest.raises(DataError, match=r"table\.parquet, row 1, column 'weight': '2000\.5' lb"):
        load_cohort(path, mapping, small_schema, site="a")


cell = st.text(alphabet=st.characters(codec="utf-8"), max_size=8)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cells=st.lists(
        st.one_of(cell, st.sampled_from(["p1", "yes", "5", "200", "60 - 69", "CC", "White", "n"])),
        min_size=12,
        max_size=12,
    )
)
def test_whatever_stands_in_a_row_it_loads_or_is_refused_in_words(load, cells):
    quoted = ",".join('"' + c.replace('"', '""') + '"' for c in cells)
    try:
        outcome = f"table.csv: {len(load(quoted).cohort)} patient"
    except DataError as error:
        outcome = str(error)
    assert outcome.startswith("table.csv")
    assert len(outcome.splitlines()) == 1
