"""What hospitals write differently is read alike, or refused; never changed in silence."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from fedrx_client.data.cells import NumberFormat
from fedrx_client.data.ids import normal_id
from fedrx_client.data.load import load_cohort, load_split
from fedrx_client.data.mapping import TableMapping, TableOptions
from fedrx_client.data.readers.tables import read_table
from fedrx_common.errors import DataError
from fedrx_models.cohort.encoding import column_names, encode
from fedrx_protocol.study.schema import FeatureSchema

DOSE = {"name": "dose", "unit": "mg/week", "minimum": 0, "maximum": 400, "mean": 35, "scale": 15}
CRP = {"name": "crp", "kind": "number", "unit": "mg/L", "minimum": 0, "maximum": 5000}
FEATURES = (
    {**CRP, "mean": 100, "scale": 300, "optional": True},
    {"name": "cyp2c9", "kind": "category", "values": ["*1/*1", "*1/*2", "*2/*3"]},
    {"name": "smoker", "kind": "flag", "optional": True},
)
SCHEMA = FeatureSchema.model_validate({"features": FEATURES, "target": DOSE})
TABLE = '[table]\npatient = "id"\ndelimiter = ";"\n'
TARGET = '[target]\ncolumn = "dose"\nunit = "mg/week"\n'
CRP_SOURCE = '[features.crp]\nkind = "number"\ncolumn = "crp"\nunit = "mg/L"\n'
CYP_SOURCE = '[features.cyp2c9]\nkind = "category"\ncolumn = "cyp"\n'
SMOKER_SOURCE = '[features.smoker]\nkind = "flag"\nany_of = ["smoker"]\n'
ALL = (TABLE, TARGET, CRP_SOURCE, CYP_SOURCE, SMOKER_SOURCE)
HEADER = "id;crp;cyp;smoker;dose;site"


@pytest.fixture
def load(tmp_path):
    """`load(*rows, add={section: lines})` reads a table of one site, or of several."""

    def read(*rows, add=(), parts=ALL, split=False, schema=SCHEMA):
        text = "".join(part + dict(add).get(part, "") for part in parts)
        path = tmp_path / "t.csv"
        path.write_text("\n".join((HEADER, *rows)) + "\n", encoding="utf-8")
        mapping = TableMapping.parse(text)
        if split:
            return load_split(path, mapping, schema, split_by="site")
        return load_cohort(path, mapping, schema, site="here")

    return read


COMMA = {TABLE: 'decimal = ","\n'}
GROUPED = {TABLE: 'decimal = ","\nthousands = "."\n'}


class TestNumbers:
    @pytest.mark.parametrize("cell", ["1.234", "2.000", "12.500", "1.234,5", "1.5"])
    def test_a_point_in_a_file_of_decimal_commas_is_no_decimal_point(self, load, cell):
        with pytest.raises(DataError, match=r"t\.csv, line 2, column 'crp': .* is not a number"):
            load(f"p1;{cell};*1/*1;0;35,5;A", add=COMMA)
        with pytest.raises(DataError, match=r"t\.csv, line 2, column 'dose': .* is not a number"):
            load(f"p1;5;*1/*1;0;{cell};A", add=COMMA)

    def test_it_groups_thousands_where_the_mapping_says_so(self, load):
        rows = ("p1;1.234;*1/*1;0;35,5;A", "p2;1.234,5;*1/*1;0;28;A", "p3;12,5;*1/*1;0;21,25;A")
        cohort = load(*rows, add=GROUPED).cohort
        assert cohort.values["crp"].tolist() == [1234, 1234.5, 12.5]
        assert cohort.target.tolist() == [35.5, 28, 21.25]
        with pytest.raises(DataError, match=r"'12.34' is not a number"):
            load("p1;12.34;*1/*1;0;35,5;A", add=GROUPED)

    def test_the_way_out_is_named(self, load):
        with pytest.raises(DataError, match=r"but one with table.thousands = '\.'"):
            load("p1;1.234;*1/*1;0;35,5;A", add=COMMA)
        with pytest.raises(DataError, match=r"or one with table.decimal = ','"):
            load("p1;1,234;*1/*1;0;35;A")

    def test_typed_numbers_stay_what_they_are(self, tmp_path):
        columns = {
            "id": ["p1", "p2"],
            "crp": [12.5, 1234.0],
            "cyp": ["*1/*1"] * 2,
            "smoker": [1.0, 0.0],
            "dose": ["35,5", "28"],
        }
        parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
        mapping = TableMapping.parse("".join((TABLE, COMMA[TABLE], *ALL[1:])))
        cohort = load_cohort(tmp_path / "t.parquet", mapping, SCHEMA, site="here").cohort
        assert cohort.values["crp"].tolist() == [12.5, 1234]
        assert cohort.target.tolist() == [35.5, 28]
        assert cohort.values["smoker"].tolist() == [1, 0]

    @given(
        number=st.decimals(-(10**9), 10**9, places=3),
        decimal=st.sampled_from(".,"),
        thousands=st.sampled_from((None, ".", ",", " ", "'")),
    )
    def test_what_is_written_is_what_is_read(self, number, decimal, thousands):
        if thousands == decimal:
            return
        plain = f"{number:f}" if thousands is None else f"{number:,f}"
        written = plain.translate(str.maketrans({".": decimal, ",": thousands}))
        assert NumberFormat(decimal, thousands).read(written) == float(number)

    @given(text=st.text("0123456789.,' -+e", max_size=12), decimal=st.sampled_from(".,"))
    def test_no_grouping_is_guessed(self, text, decimal):
        """Without a thousands separator a number holds no sign but its decimal one."""
        if NumberFormat(decimal).read(text) is not None:
            assert not set(text) & (set(".,' ") - {decimal})


class TestMissingCodes:
    ROWS = ("p1;99;*1/*1;9;35;A", "9;5;*1/*1;0;99;A", "p3;5;*1/*1;0;12;A")

    def test_a_code_of_one_column_is_a_value_in_all_others(self, load):
        cohort = load(*self.ROWS, add={SMOKER_SOURCE: 'missing = ["9", "99"]\n'}).cohort
        assert cohort.patients == ("p1", "9", "p3")
        assert cohort.values["crp"].tolist() == [99, 5, 5]
        assert cohort.target.tolist() == [35, 99, 12]

    def test_a_code_of_the_table_that_may_be_a_value_is_pointed_out(self, load):
        loaded = load(self.ROWS[0], self.ROWS[2], add={TABLE: 'missing = ["99", "9"]\n'})
        assert "column 'crp': 1 value '99' counted as not recorded" in loaded.quality.text()
        dropped = load("p2;5;*1/*1;0;99;A", self.ROWS[2], add={TABLE: 'missing = ["99"]\n'})
        assert "column 'dose': 1 value '99' counted as not" in dropped.quality.text()

    def test_an_id_that_is_a_code_of_the_table_is_explained(self, load):
        with pytest.raises(DataError, match=r"no id \('9' is in table.missing, .* `missing` of"):
            load(*self.ROWS, add={TABLE: 'missing = ["9"]\n'})

    @pytest.mark.parametrize("part", ALL[1:])
    def test_every_column_may_have_its_own(self, load, part):
        assert load("p1;5;*1/*1;0;35;A", add={part: 'missing = ["?"]\n'}).quality.rows_kept == 1


class TestCodes:
    def test_alleles_have_no_order(self, load):
        rows = ("p1;5;*2/*1;0;35;A", "p2;5;*3/*2;0;20;A", "p3;5;CYP2C9*1 / *2;0;34;A")
        assert load(*rows).cohort.values["cyp2c9"].tolist() == [1, 2, 1]

    def test_another_genes_diplotype_is_not_this_ones(self, load):
        with pytest.raises(DataError, match=r"'CYP2C19\*1/\*2' is not known"):
            load("p1;5;CYP2C19*1/*2;0;35;A")

    def test_one_with_a_decimal_is_one(self, load):
        rows = ("p1;5;*1/*1;1.0;35;A", "p2;5;*1/*1;0.0;20;A")
        assert load(*rows).cohort.values["smoker"].tolist() == [1, 0]
        mapped = {CYP_SOURCE: 'values = { "1" = "*1/*1", "2.0" = "*1/*2" }\n'}
        cohort = load("p1;5;1.0;1;35;A", "p2;5;2;1;35;A", add=mapped).cohort
        assert cohort.values["cyp2c9"].tolist() == [0, 1]

    def test_one_code_has_one_value(self):
        text = "".join(ALL).replace(
            CYP_SOURCE, CYP_SOURCE + 'values = { "1" = "*1/*1", "1.0" = "*1/*2" }\n'
        )
        with pytest.raises(DataError, match=r"'1' and '1.0' are one code with two values"):
            TableMapping.parse(text)

    def test_what_a_target_cannot_be_given_is_not_advised(self, load):
        target = {"kind": "binary", "name": "tox", "rate": 0.4}
        schema = FeatureSchema.model_validate({"features": FEATURES, "target": target})
        parts = (TABLE, '[target]\ncolumn = "dose"\n', *ALL[2:])
        with pytest.raises(DataError, match=r"neither yes nor no.*target\.yes, target\.no") as told:
            load("p1;5;*1/*1;0;2;A", parts=parts, schema=schema)
        assert "unknown" not in str(told.value)


class TestIds:
    ROWS = ("p1;5;*1/*1;0;35;A", "p2;5;*1/*1;0;20;A")

    @pytest.mark.parametrize(
        ("one", "other"),
        [("p1", "P1"), ("7", "007"), ("7", "7.0"), ("Ä1", "A\u03081"), ("ＡＢ1", "AB1")],
    )
    def test_near_equal_ids_are_refused_until_the_mapping_decides(self, load, one, other):
        rows = (f"{one};5;*1/*1;0;35;A", f"{other};5;*1/*1;0;20;A")
        with pytest.raises(DataError, match=r"line 3, column 'id': .* of line 2, .*similar_ids"):
            load(*rows)
        assert len(load(*rows, add={TABLE: 'similar_ids = "different"\n'}).cohort) == 2
        with pytest.raises(DataError, match="is already on line 2"):
            load(*rows, add={TABLE: 'similar_ids = "same"\n'})

    def test_near_equal_sites_too(self, load):
        rows = ("p1;5;*1/*1;0;35;Mitte", "p2;5;*1/*1;0;35;MITTE")
        with pytest.raises(DataError, match="site 'MITTE' may be 'Mitte' of line 2"):
            load(*rows, split=True)
        same = load(*rows, split=True, add={TABLE: 'similar_ids = "same"\n'})
        assert {site: len(one) for site, one in same.cohorts.items()} == {"MITTE": 2}

    def test_the_same_id_at_two_sites_is_still_two_patients(self, load):
        rows = ("p1;5;*1/*1;0;35;A", "P1;5;*1/*1;0;35;B")
        assert len(load(*rows, split=True).cohorts) == 2

    @given(text=st.text(max_size=8))
    def test_the_normal_form_is_its_own(self, text):
        once = normal_id(text)
        assert normal_id(once) == once


class TestAbsentFeatures:
    PARTS = (
        *(TABLE, TARGET, CYP_SOURCE),
        *(
            "[features.crp]\nmeasured = false\n",
            '[features.smoker]\nmeasured = false\nkind = "flag"\n',
        ),
    )

    def test_a_site_without_a_feature_says_so_and_trains_with_it_missing(self, load):
        loaded = load("p1;5;*1/*1;1;35;A", parts=self.PARTS)
        assert np.isnan(loaded.cohort.values["crp"]).all()
        assert loaded.cohort.values["smoker"].tolist() == [-1]
        batch = encode(loaded.cohort, SCHEMA)
        seen = dict(zip(column_names(SCHEMA), batch.x[0].tolist(), strict=True))
        assert (seen["crp"], seen["crp=missing"]) == (0, 1)
        assert (seen["smoker"], seen["smoker=missing"]) == (0, 1)
        assert "Not at this site, as the mapping says: crp, smoker." in loaded.quality.text()
        assert "crp" not in loaded.quality.missing

    def test_a_site_that_has_it_is_seen_to_have_it(self, load):
        batch = encode(load("p1;5;*1/*1;1;35;A", "p2;5;*1/*1;;35;A").cohort, SCHEMA)
        column = column_names(SCHEMA).index("smoker")
        assert batch.x[:, column : column + 2].tolist() == [[1, 0], [0, 0]]

    def test_the_study_must_allow_it(self, load):
        parts = (*self.PARTS[:2], "[features.cyp2c9]\nmeasured = false\n", *self.PARTS[3:])
        with pytest.raises(DataError, match=r"'features.cyp2c9.measured' is false, but the study"):
            load("p1;5;*1/*1;1;35;A", parts=parts)

    def test_what_is_not_there_has_no_column(self):
        text = "".join(self.PARTS).replace(
            "measured = false\n", 'measured = false\ncolumn = "x"\n', 1
        )
        with pytest.raises(DataError, match=r"unknown key 'features.crp.column'"):
            TableMapping.parse(text)


def test_a_hospital_of_whom_nobody_is_kept_is_named(load):
    rows = [f"p{i};5;*1/*1;0;{'' if i > 2 else 35};{'AAADD'[i]}" for i in range(5)]
    loaded = load(*rows, split=True)
    assert list(loaded.cohorts) == ["A"]
    told = "Site 'D' is left out: none of its 2 rows is kept (no target recorded 2)."
    assert told in loaded.quality.text()


@pytest.mark.parametrize("name", ["base64", "rot13", "undefined", "punycode", "unicode_escape"])
def test_a_codec_that_is_none_of_text_is_refused(name):
    with pytest.raises(DataError, match=rf"map.toml: 'table.encoding': encoding '{name}' is not"):
        TableMapping.parse(f'[table]\npatient = "id"\nencoding = "{name}"\n', source="map.toml")


@pytest.mark.parametrize("name", ["utf-8", "latin-1", "utf-16", "cp037", "utf-8-sig"])
def test_codecs_of_text_are_read_line_by_line(tmp_path, name):
    path = tmp_path / "t.csv"
    path.write_bytes("id,b\r\n1,x\r\n2,é\r\n".encode(name))
    assert read_table(path, TableOptions(patient="id", encoding=name)).columns["b"] == ("x", "é")


def test_the_line_that_is_not_in_the_encoding_is_named_far_into_a_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"id,b\n" + b"1,x\n" * 50_000 + b"2,\xff\n")
    with pytest.raises(DataError, match=r"t.csv, line 50002: is not utf-8 text"):
        read_table(path, TableOptions(patient="id"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_that_the_mapping_does_not_name_take_no_memory(tmp_path, kind):
    """Of 4,000 columns five are used: what is kept is far below the size of all cells."""
    extra, rows = [f"x{i}" for i in range(4000)], 300
    cells = {"id": [f"p{i}" for i in range(rows)], "crp": ["5"] * rows, "cyp": ["*1/*1"] * rows}
    cells |= {"smoker": ["0"] * rows, "dose": ["35"] * rows}
    cells |= {name: ["0.123"] * rows for name in extra}
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.table(cells), path)
    else:
        lines = [";".join(cells), *(";".join(row) for row in zip(*cells.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
    mapping = TableMapping.parse("".join(ALL))
    tracemalloc.start()
    try:
        loaded = load_cohort(path, mapping, SCHEMA, site="here")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(loaded.cohort) == rows
    assert peak < 8e6  # all cells as text would take 65 MB
