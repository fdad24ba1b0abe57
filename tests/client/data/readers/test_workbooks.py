"""One sheet of a workbook gives the table that its CSV would; what a CSV cannot hold is refused."""

from datetime import datetime

import openpyxl
import pytest

from fedrx_client.data.mapping import TableOptions
from fedrx_client.data.readers.tables import read_table
from fedrx_common.errors import DataError

OPTIONS = TableOptions(patient="id")
ROWS = (
    ("id", "crp", "when", "smoker", "extra"),
    ("p1", 12.5, datetime.fromisoformat("2024-01-31"), True, "a"),
    (None, None, None, None, None),
    (2.0, 7, datetime.fromisoformat("2024-01-31T08:30"), False, None),
)


@pytest.fixture
def book(tmp_path):
    """`book(*rows, change=function of the sheet)` writes a workbook of one sheet."""

    def write(*rows, change=lambda _: None, sheets=1):
        workbook = openpyxl.Workbook()
        for row in rows:
            workbook.active.append(row)
        for _ in range(sheets - 1):
            workbook.create_sheet()
        change(workbook.active)
        workbook.save(tmp_path / "t.xlsx")
        return tmp_path / "t.xlsx"

    return write


def test_typed_cells_become_the_text_of_a_csv(book):
    table = read_table(book(*ROWS), OPTIONS)
    assert table.columns == {
        "id": ("p1", "2"),
        "crp": ("12.5", "7"),
        "when": ("2024-01-31", "2024-01-31 08:30:00"),
        "smoker": ("1", "0"),
        "extra": ("a", ""),
    }
    assert table.where(1, "crp") == "t.xlsx, row 4, column 'crp'"


def test_numbers_have_the_decimal_separator_of_texts(book):
    options = TableOptions(patient="id", delimiter=";", decimal=",")
    assert read_table(book(*ROWS), options, {"crp"}).columns == {"crp": ("12,5", "7")}


def test_one_of_several_sheets_is_named(book):
    path = book(*ROWS, sheets=2)
    with pytest.raises(DataError, match=r"there are 2 sheets \('Sheet', 'Sheet1'\); name one"):
        read_table(path, OPTIONS)
    assert len(read_table(path, TableOptions(patient="id", sheet="Sheet"))) == 2
    with pytest.raises(DataError, match=r"there is no sheet 'Lab', .* has 'Sheet', 'Sheet1'"):
        read_table(path, TableOptions(patient="id", sheet="Lab"))
    with pytest.raises(DataError, match=r"t\.xlsx: the sheet is empty"):
        read_table(path, TableOptions(patient="id", sheet="Sheet1"))


def _formula_error(sheet):
    sheet["B2"].value, sheet["B2"].data_type = "#DIV/0!", "e"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda sheet: sheet.merge_cells("A2:B2"), r"sheet 'Sheet': cells A2:B2 are merged"),
        (_formula_error, r"row 2, column 'crp': the formula gives #DIV/0!"),
        (lambda s: s.__setitem__("B2", "=1+1"), "row 2, column 'crp': the formula was never comp"),
        (lambda s: s.__setitem__("G2", "x"), "row 2: there are 7 values, .* names 5 columns"),
        (lambda s: s.__setitem__("B1", "id"), "row 1: column 'id' appears more than once"),
    ],
)
def test_what_no_table_holds_is_refused_with_its_place(book, change, sentence):
    with pytest.raises(DataError, match=f"t.xlsx, {sentence}"):
        read_table(book(*ROWS, change=change), OPTIONS)


def test_a_formula_in_a_column_that_is_not_wanted_does_no_harm(book):
    path = book(*ROWS, change=_formula_error)
    assert read_table(path, OPTIONS, {"id"}).columns == {"id": ("p1", "2")}


def test_a_workbook_cut_short_is_one_sentence(book):
    path = book(*ROWS)
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cannot be read as an Excel workbook") as error:
            read_table(path, OPTIONS)
        assert len(str(error.value).splitlines()) == 1
