"""Files that are not what they seem: each is one sentence with the place and a way out."""

import pytest

from fedrx_client.data.mapping import TableOptions
from fedrx_client.data.readers.tables import read_table
from fedrx_common.errors import DataError

OPTIONS = TableOptions(patient="id")


@pytest.fixture
def put(tmp_path):
    def put_file(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put_file


def test_cells_are_stripped_and_lines_counted_from_the_header(put):
    table = read_table(put("id, b\n 1 ,x\n\n2,y\n"), OPTIONS)
    assert table.columns == {"id": ("1", "2"), "b": ("x", "y")}
    assert table.places == (2, 4)
    assert table.where(1, "b") == "table.csv, line 4, column 'b'"


def test_a_quoted_cell_may_span_lines(put):
    table = read_table(put('id,b\n1,"two\nlines, one cell"\n2,y\n'), OPTIONS)
    assert table.columns["b"] == ("two\nlines, one cell", "y")
    assert table.places == (2, 4)


def test_a_byte_order_mark_is_no_part_of_a_name(put):
    assert list(read_table(put("\ufeffid,b\n1,x\n"), OPTIONS).columns) == ["id", "b"]


def test_windows_line_ends(put):
    table = read_table(put("id,b\r\n1,x\r\n2,y\r\n"), OPTIONS)
    assert table.columns["b"] == ("x", "y")
    assert table.places == (2, 3)


def test_other_encodings_are_read_when_named(put):
    path = put("id,b\n1,Müller\n".encode("latin-1"))
    options = TableOptions(patient="id", encoding="latin-1")
    assert read_table(path, options).columns["b"] == ("Müller",)
    with pytest.raises(DataError, match=r"line 2: is not utf-8 text; .*'latin-1'"):
        read_table(path, OPTIONS)


@pytest.mark.parametrize(("delimiter", "shown"), [(";", "';'"), ("\t", "a tab"), ("|", r"'\|'")])
def test_a_wrong_delimiter_is_guessed(put, delimiter, shown):
    path = put(f"id{delimiter}b\n1{delimiter}x\n")
    with pytest.raises(DataError, match=f"line 1: there is one column only; .* {shown}, say so"):
        read_table(path, OPTIONS)


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        ("", "a.csv", "a.csv: the file is empty"),
        ("\n\n", "a.csv", "the file is empty"),
        ("id,b\n", "a.csv", "there are no rows"),
        ("id,b\n1,x\n2\n", "a.csv", "a.csv, line 3: there are 1 values, .* names 2 columns"),
        ("id,b\n1,x,y\n", "a.csv", "line 2: there are 3 values"),
        ("id,b,b\n1,x,y\n", "a.csv", "line 1: column 'b' appears more than once"),
        ('id,b\n1,"x\n', "a.csv", "line 2: is not valid CSV"),
        ("id,b\n1,x\n", "a.ods", "neither CSV nor Parquet nor .xlsx"),
        ("id,b\n1,x\n", "a.xlsx", "a.xlsx: cannot be read as an Excel workbook"),
        ("id,b\n1,x\n", "a.parquet", "a.parquet: cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(put, content, name, sentence):
    with pytest.raises(DataError, match=sentence) as error:
        read_table(put(content, name), OPTIONS)
    assert len(str(error.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="no such data file"):
        read_table(tmp_path / "table.csv", OPTIONS)
    with pytest.raises(DataError, match="no such data file"):
        read_table(tmp_path, OPTIONS)


def test_a_missing_column_is_named_beside_those_that_are_there(put):
    table = read_table(put("id,b\n1,x\n"), OPTIONS)
    table.require(("id", "b"))
    with pytest.raises(DataError, match=r"column 'c', .* is not there; the file has 'id', 'b'"):
        table.require(("id", "c"))
