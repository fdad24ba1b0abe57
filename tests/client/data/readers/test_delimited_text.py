"""pandas reads what the strict `csv` module reads, with the same places, or the latter reads it."""

import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedrx_client.data.mapping import TableOptions
from fedrx_client.data.readers import delimited
from fedrx_client.data.readers.tables import read_table
from fedrx_common.errors import DataError

OPTIONS = TableOptions(patient="id")
PIECES = ["a", "1", ",", "\n", "\r\n", "\r", " ", "\t", "é", "\u3000", "\ufeff", "nan", "NA", "\\"]
QUOTED = ['"', '""', '"x"', '"y,z"', '"u\nv"', ',""', '"a""b"']


def _outcome(read, path):
    try:
        table = read(path, OPTIONS, None)
    except DataError as error:
        return str(error)
    return table.header, table.places, {name: tuple(one) for name, one in table.columns.items()}


@pytest.mark.parametrize("block", [7, 1 << 18])
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pieces=st.one_of(
        st.lists(st.sampled_from(PIECES), max_size=30),
        st.lists(st.sampled_from(PIECES + QUOTED), max_size=30),
    ),
    head=st.sampled_from(["", "id,b\n", "id,b,c\r\n1,2,3\r\n"]),
)
def test_both_ways_of_reading_agree(tmp_path, monkeypatch, block, pieces, head):
    monkeypatch.setattr(delimited, "_BLOCK_CHARACTERS", block)
    path = tmp_path / "t.csv"
    path.write_bytes((head + "".join(pieces)).encode())
    try:
        by_pandas = _outcome(delimited._by_blocks, path)
    except delimited._NotPlain:
        return
    assert by_pandas == _outcome(delimited._by_records, path)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.one_of(st.binary(max_size=80), st.text(max_size=60).map(str.encode)))
def test_any_bytes_are_a_table_or_one_sentence(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(b"id,b\n" + content)
    try:
        outcome = f"t.csv: {len(read_table(path, OPTIONS))} rows"
    except DataError as error:
        outcome = str(error)
    assert outcome.startswith("t.csv")
    assert len(outcome.splitlines()) == 1


def test_text_that_looks_like_missing_stays_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,b\nNA,nan\nnull,\n007,1e5\n")
    table = read_table(path, OPTIONS)
    assert table.columns == {"id": ("NA", "null", "007"), "b": ("nan", "", "1e5")}


def test_rows_of_empty_cells_are_left_out_wherever_the_wanted_column_is(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('id,b,c\n1,,\n , ,\n,"",\n,,9\n\n2,x,\n')
    table = read_table(path, OPTIONS, {"id", "b"})
    assert table.places == (2, 5, 7)
    assert table.columns == {"id": ("1", "", "2"), "b": ("", "", "x")}


def test_a_quote_inside_a_value_is_part_of_it(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('id,b\n1,5" pipe\n2,"a ""b"""\n')
    assert read_table(path, OPTIONS).columns["b"] == ('5" pipe', 'a "b"')


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('id,b\n1,"x"y\n', "line 2: is not valid CSV"),
        ('id,b\n1,x\n2,"y\n3,z\n', "line 3: is not valid CSV"),
        ('id,b\n1,"x\ny"\n2\n', "line 4: there are 1 values"),
        ("id,b\n1,x\n\n\n2,y,z\n", "line 5: there are 3 values"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, content, sentence):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=f"t.csv, {sentence}"):
        read_table(path, OPTIONS)


def test_a_mistake_in_a_late_block_is_named_with_its_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,b\n" + "1,x\n" * 200_000 + "2\n")
    with pytest.raises(DataError, match=r"line 200002: there are 1 values"):
        read_table(path, OPTIONS)


def test_a_damaged_archive_is_one_sentence(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"id,b\n1,x\n")[:-6])
    with pytest.raises(DataError, match=r"t\.csv\.gz: cannot be read"):
        read_table(path, OPTIONS)


def test_a_damaged_archive_of_text_in_another_encoding_is_one_sentence(tmp_path):
    path = tmp_path / "t.csv.gz"
    packed = bytearray(gzip.compress(b"id,b\n1,\xff\n"))
    packed[-8] ^= 1  # of the checksum
    path.write_bytes(packed)
    with pytest.raises(DataError, match=r"t\.csv\.gz: cannot be read"):
        read_table(path, OPTIONS)


@pytest.mark.parametrize("delimiter", ['"', "\\n", "\\r"])
def test_what_cannot_separate_values_is_refused(delimiter):
    with pytest.raises(ValueError, match="cannot separate values"):
        TableOptions(patient="id", delimiter=delimiter.encode().decode("unicode_escape"))
