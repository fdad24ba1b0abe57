"""A mapping's mistakes are found before any data is read, and named by their key."""

import pytest

from fedrx_client.data.harmonise.units import conversion, convertible_to
from fedrx_client.data.mapping import TableMapping
from fedrx_common.errors import DataError

from .conftest import MAPPING


def _parse(old, new):
    assert old in MAPPING
    return TableMapping.parse(MAPPING.replace(old, new), source="hospital/map.toml")


def test_a_mapping_names_the_columns_it_reads(mapping):
    assert mapping.named_columns == (
        *("id", "stable", "dose", "weight", "age", "snp", "race", "cigarettes", "cigars"),
        *("neighbour", "lab"),
    )


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('patient = "id"', "", "key 'table.patient' is missing"),
        ('patient = "id"', 'patient = "id"\nseparator = ";"', "unknown key 'table.separator'"),
        ('patient = "id"', 'patient = "id"\nencoding = "ebcdic9"', "encoding 'ebcdic9' is not k"),
        ('patient = "id"', 'patient = "id"\ndelimiter = ";;"', "'table.delimiter' is ';;'"),
        ('patient = "id"', 'patient = "id"\ndelimiter = "."', "delimiter and decimal must differ"),
        ('keep = ["yes"]', "", "either keep = .* or present = true"),
        ('keep = ["yes"]', 'keep = ["yes"]\npresent = true', "either keep"),
        ('reason = "not stable"', "", "key 'filters.0.reason' is missing"),
        ('kind = "flag"', "", "key 'features.smoker.kind' is missing; allowed: number, category"),
        ('kind = "flag"', 'kind = "switch"', "'features.smoker' is .*switch.*expected tags"),
        ('yes = ["y"]', 'yes = ["y", "n"]', "'features.smoker': 'n' cannot mean both"),
        ('parse = "decade_bin"\nunit = "decade"', 'parse = "decade_bin"\nunit = "year"', "decade"),
        ('parse = "decade_bin"', 'parse = "roman"', "'features.age_decade.parse' is 'roman'"),
        (
            'race = ["White"]',
            'ward = ["White"]',
            "'neighbour' of 'vkorc1' depends on 'ward'",
        ),
        ('race = ["White"]', 'smoker = ["White"]', "depends on 'smoker', which is no category"),
        ("[table]", "[table", "not valid TOML"),
        ("[table]", "[tables]", r"has no section \[table\], so it is no mapping file"),
    ],
)
def test_a_mapping_that_cannot_be_used_is_refused(old, new, sentence):
    with pytest.raises(DataError, match=f"hospital/map.toml: .*{sentence}"):
        _parse(old, new)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[features.weight_kg]", "[features.mass]", "'features.weight_kg' is missing"),
        ('unit = "lb"', 'unit = "stone"', "'features.weight_kg.unit' is 'stone', .*kg, lb, g"),
        ('unit = "mg/day"', 'unit = "mg"', "'target.unit' is 'mg', .*mg/week, mg/day"),
        ('CC = "G/G"', 'CC = "G|G"', "'features.vkorc1' maps 'CC' to 'G|G'.* G/G, A/G, A/A"),
        ('"2" = "A/G"', '"2" = "AG"', "'features.vkorc1' maps '2' to 'AG'"),
        (
            'kind = "category"\ncolumn = "race"',
            'kind = "flag"\nany_of = ["race"]',
            "depends on 'race'",
        ),
        (
            'kind = "number"\ncolumn = "weight"\nunit = "lb"',
            'kind = "flag"\nany_of = ["weight"]',
            "'features.weight_kg.kind' is 'flag', but in the study it is 'number'",
        ),
    ],
)
def test_a_mapping_that_does_not_fit_the_study_is_refused(small_schema, old, new, sentence):
    sentence = sentence.replace("|", r"\|")
    with pytest.raises(DataError, match=f"map.toml: .*{sentence}"):
        _parse(old, new).check_against(small_schema)


def test_a_mapping_that_fits_passes(mapping, small_schema):
    mapping.check_against(small_schema)


def test_a_mapping_is_read_from_a_file(tmp_path, mapping):
    path = tmp_path / "map.toml"
    path.write_text(MAPPING)
    assert TableMapping.load(path).features == mapping.features


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match="there is no such mapping file"):
        TableMapping.load(tmp_path / "nothing.toml")
    (tmp_path / "map.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        TableMapping.load(tmp_path / "map.toml")


@pytest.mark.parametrize(
    ("source", "to", "value", "expected"),
    [
        ("kg", "kg", 70, 70),
        ("lb", "kg", 100, 45.359237),
        ("g", "kg", 70_000, 70),
        ("in", "cm", 10, 25.4),
        ("ft", "cm", 6, 182.88),
        ("m", "cm", 1.7, 170),
        ("mm", "cm", 1700, 170),
        ("mg/day", "mg/week", 5, 35),
        ("year", "decade", 69.9, 6),
        ("year", "decade", 70, 7),
    ],
)
def test_units_are_converted(source, to, value, expected):
    assert conversion(source, to)(value) == pytest.approx(expected)


def test_units_that_do_not_measure_the_same_are_not_converted():
    assert conversion("kg", "cm") is None
    assert "lb" in convertible_to("kg")
    assert "lb" not in convertible_to("cm")


def test_the_name_of_the_file_is_no_key_of_it():
    with pytest.raises(
        DataError, match=r"m\.toml: unknown key 'source'.*; allowed: table, "
    ) as one:
        TableMapping.parse('source = "x"\n[table]\npatient = "id"\n', source="m.toml")
    assert "source," not in str(one.value).partition("allowed")[2]
