"""Reads one sheet of an Excel workbook (`.xlsx`), row by row; cells become the text of a CSV.

What a CSV cannot hold is refused with its place: merged cells, a formula that gives an error, and
a formula whose value was never computed, which would otherwise look like an empty cell.
"""

import re
import warnings
import zipfile
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, time
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from openpyxl import load_workbook
from openpyxl.reader.excel import ExcelReader
from openpyxl.utils.exceptions import InvalidFileException
from openpyxl.worksheet.worksheet import Worksheet

from fedrx_client.data.mapping import TableOptions
from fedrx_client.data.table import Table, as_text
from fedrx_common.errors import DataError
from fedrx_protocol.study.base import first_repeated

_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="([^"]{1,40})"')
_FORMULA = re.compile(rb"<(?:\w+:)?f[\s>/]")
_CHUNK_BYTES, _OVERLAP_BYTES = 1 << 20, 200
_DAMAGED = (
    zipfile.BadZipFile,
    InvalidFileException,
    OSError,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    SyntaxError,  # of XML
    NotImplementedError,  # of a ZIP method
    RuntimeError,  # an encrypted entry
)


def read_workbook(path: Path, options: TableOptions, wanted: Container[str] | None) -> Table:
    """Read the wanted columns of a sheet whose first row that is not empty names the columns.

    Args:
        path: the workbook.
        options: which sheet, and the decimal separator that numbers are written with as text.
        wanted: which columns to keep, of those that are there; all for `None`.

    Raises:
        DataError: it is no workbook; the sheet is not there, not named though there are several, or
            holds merged cells, a failed formula, a doubled column or a value beside the header.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl warns of styles that it does not know
            reader = ExcelReader(path, read_only=True, data_only=True)
            reader.read()
            sheet = _sheet(path.name, reader.wb.sheetnames, options.sheet)
            part = next(rel.target for one, rel in reader.parser.find_sheets() if one.name == sheet)
            with reader.archive.open(part) as xml:
                formulas = _look_over(path.name, sheet, xml)
            rows = _rows(reader.wb[sheet])
            written = load_workbook(path, read_only=True) if formulas else None
            rows_of_formulas = iter(()) if written is None else _rows(written[sheet])
            return _table(path.name, _filled(rows, rows_of_formulas), options, wanted)
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"{path.name}: cannot be read as an Excel workbook (.xlsx): {reason[:200]}."
        ) from None


def _sheet(source: str, names: list[str], asked: str | None) -> str:
    listed = ", ".join(f"'{name}'" for name in names)
    if asked is not None:
        if asked not in names:
            raise DataError(
                f"{source}: there is no sheet '{asked}', which table.sheet of the mapping names; "
                f"the workbook has {listed}."
            )
        return asked
    if len(names) != 1:
        raise DataError(
            f"{source}: there are {len(names)} sheets ({listed}); name one in table.sheet of the "
            "mapping."
        )
    return names[0]


def _look_over(source: str, sheet: str, xml: IO[bytes]) -> bool:
    """Refuse merged cells, and return whether the sheet has formulas; reads it as bytes only."""
    formulas, before = False, b""
    while chunk := xml.read(_CHUNK_BYTES):
        text = before + chunk
        merged = _MERGED.search(text)
        if merged:
            raise DataError(
                f"{source}, sheet '{sheet}': cells {merged[1].decode(errors='replace')} are "
                "merged; separate them, since each row and column needs a cell of its own."
            )
        formulas = formulas or _FORMULA.search(text) is not None
        before = text[-_OVERLAP_BYTES:]
    return formulas


def _rows(sheet: Worksheet) -> Iterator[tuple[Any, ...]]:
    sheet.reset_dimensions()  # a file may state a size that is not its own
    rows: Iterator[tuple[Any, ...]] = sheet.iter_rows()
    return rows


@dataclass(frozen=True)
class _SheetRow:
    """One row that is not empty.

    Attributes:
        place: its number in the sheet, the first being 1.
        cells: what openpyxl read.
        formulas: the same cells with formulas in place of values; none if the sheet has none.
        width: number of cells up to the last that is not empty.
    """

    place: int
    cells: tuple[Any, ...]
    formulas: tuple[Any, ...]
    width: int

    def value(self, at: int) -> object:
        """Return a cell's value.

        Raises:
            _BadCell: a formula gave an error, or was never computed.
        """
        cell = self.cells[at] if at < len(self.cells) else None
        if cell is not None and cell.data_type == "e":
            raise _BadCell(f"the formula gives {cell.value}; correct or empty the cell")
        value: object = None if cell is None else cell.value
        if value is None and at < len(self.formulas) and self.formulas[at].data_type == "f":
            raise _BadCell(
                "the formula was never computed; open the workbook in a spreadsheet program and "
                "save it"
            )
        return value


class _BadCell(Exception):
    """A cell without a value that could be read; the text says why."""


def _filled(
    rows: Iterable[tuple[Any, ...]], rows_of_formulas: Iterable[tuple[Any, ...]]
) -> Iterator[_SheetRow]:
    """Yield the rows that are not empty."""
    for place, (cells, formulas) in enumerate(zip_longest(rows, rows_of_formulas), start=1):
        written = [*(cells or ()), *(formulas or ())]
        if any(cell.value is not None and str(cell.value).strip() for cell in written):
            filled = [i for i, cell in enumerate(cells or ()) if str(cell.value or "").strip()]
            yield _SheetRow(place, cells or (), formulas or (), max(filled, default=-1) + 1)


def _table(
    source: str, rows: Iterator[_SheetRow], options: TableOptions, wanted: Container[str] | None
) -> Table:
    try:
        first = next(rows, None)
        if first is None:
            raise DataError(f"{source}: the sheet is empty.")
        header = tuple(_text(first.value(i), options.decimal) for i in range(first.width))
    except _BadCell as error:
        raise DataError(f"{source}, row {first.place if first else 1}: {error}.") from None
    doubled = first_repeated(header)
    if doubled is not None:
        raise DataError(f"{source}, row {first.place}: column '{doubled}' appears more than once.")
    kept = [i for i, name in enumerate(header) if wanted is None or name in wanted]
    columns: list[list[str]] = [[] for _ in kept]
    places: list[int] = []
    known: dict[str, str] = {}  # a text is kept once, however often it comes
    for row in rows:
        if row.width > len(header):
            raise DataError(
                f"{source}, row {row.place}: there are {row.width} values, but the header names "
                f"{len(header)} columns; name the column, or empty the cell."
            )
        places.append(row.place)
        for column, i in zip(columns, kept, strict=True):
            try:
                text = _text(row.value(i), options.decimal)
            except _BadCell as error:
                raise DataError(
                    f"{source}, row {row.place}, column '{header[i]}': {error}."
                ) from None
            column.append(known.setdefault(text, text))
    return Table(
        source=source,
        unit="row",
        places=tuple(places),
        columns={header[i]: cells for i, cells in zip(kept, columns, strict=True)},
        header=header,
    )


def _text(value: object, decimal: str) -> str:
    """Write a cell as the file's own CSV would: dates as ISO, numbers with its separator."""
    if isinstance(value, datetime):
        return str(value if value.time() != time() else value.date())
    text = as_text(value)
    return text.replace(".", decimal) if isinstance(value, float) else text
