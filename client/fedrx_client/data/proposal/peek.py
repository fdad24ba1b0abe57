"""The head of a table: its first rows, and how it is written. Nothing after those rows is read.

Of columns that name a person (names, addresses, record numbers, remarks) only the name is kept.
"""

import codecs
import csv
import gzip
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import pyarrow as pa
from openpyxl import load_workbook
from openpyxl.utils.exceptions import InvalidFileException
from pyarrow import parquet

from fedrx_client.data.proposal.names import plain_words
from fedrx_common.errors import DataError
from fedrx_common.text import LONGEST_LINE, fault_in
from fedrx_protocol.study.base import first_repeated

ROWS = 200
_HEAD_BYTES = 1 << 20
_DELIMITERS = (",", ";", "\t", "|")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_POINT = re.compile(r"[+-]?\d+\.\d+")
_GROUPED = {
    ".": re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d+)?"),
    ",": re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?"),
}
_PERSONAL_WORDS = (
    "name firstname lastname surname vorname nachname familienname mrn ssn phone telephone "
    "email address adresse street strasse zip postcode plz city insurance versicherung comment "
    "comments note notes remark remarks kommentar bemerkung freetext text narrative diagnosis"
)
_PERSONAL = frozenset(_PERSONAL_WORDS.split())
_DAMAGED = (OSError, EOFError, zlib.error, zipfile.BadZipFile, InvalidFileException, KeyError)


@dataclass(frozen=True)
class Peek:
    """The first rows of a table.

    Attributes:
        source: the file's name.
        rows: how many rows were read.
        columns: by name, in the table's order, their stripped cells; none where only the name of
            the column was kept.
        delimiter: of a text file.
        encoding: of a text file.
        decimal: decimal separator of its numbers.
        thousands: what groups their digits, if anything does.
        sheet: of a workbook with several.
        text: whether it is a text file, and the four before mean anything.
    """

    source: str
    rows: int
    columns: dict[str, tuple[str, ...]] = field(repr=False)
    delimiter: str = ","
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."
    thousands: str | None = None
    sheet: str | None = None
    text: bool = True


def peek(path: Path, rows: int = ROWS) -> Peek:
    """Read the first rows of a CSV, TSV, Parquet or Excel file.

    Args:
        path: the table.
        rows: the most to read.

    Raises:
        DataError: it is no such file, has no header, or a column twice.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such data file.")
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    try:
        if suffix in {".csv", ".tsv", ".txt"}:
            return _text(path, rows)
        if suffix in {".parquet", ".pq"}:
            return _parquet(path, rows)
        if suffix == ".xlsx":
            return _workbook(path, rows)
    except _DAMAGED as error:
        reason = str(error).splitlines()[0][:200].rstrip(".") if str(error) else "damaged"
        raise DataError(f"{path.name}: cannot be read: {reason}.") from None
    raise DataError(f"{path}: is no table; give a .csv, .tsv, .txt, .parquet or .xlsx file.")


def is_personal(column: str) -> bool:
    """Say whether a column's name says that it names or describes a person in words."""
    return not _PERSONAL.isdisjoint(plain_words(column))


def _text(path: Path, rows: int) -> Peek:
    packed = path.suffix.lower() == ".gz"
    with gzip.open(path) if packed else path.open("rb") as file:
        data = file.read(_HEAD_BYTES)
        more = bool(file.read(1))
    text, encoding = _decoded(data, path.name)
    lines = text.splitlines(keepends=True)
    if more and len(lines) > 1:
        lines.pop()  # the bytes end in the middle of it
    delimiter = _delimiter(lines, path.name)
    try:
        records = [
            [cell.strip() for cell in record]
            for record in islice(csv.reader(lines, delimiter=delimiter), rows + 1)
            if any(cell.strip() for cell in record)
        ]
    except csv.Error as error:
        raise DataError(f"{path.name}: is not valid CSV: {error}.") from None
    columns = _columns(path.name, records)
    cells = [cell for column in columns.values() for cell in column]
    decimal, thousands = _separators(cells, delimiter)
    return Peek(
        source=path.name,
        rows=max(0, len(records) - 1),
        columns=columns,
        delimiter=delimiter,
        encoding=encoding,
        decimal=decimal,
        thousands=thousands,
    )


def _decoded(data: bytes, source: str) -> tuple[str, str]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ["utf-16"]
    else:
        encodings = ["utf-8", "cp1252", "latin-1"]
    for encoding in encodings:
        try:
            # A character may be cut off at the end of the head.
            text = codecs.getincrementaldecoder(encoding)().decode(data, final=False)
        except UnicodeError:
            continue
        return text.removeprefix("\ufeff"), encoding
    raise DataError(f"{source}: is not text in any encoding that is known here.")


def _delimiter(lines: list[str], source: str) -> str:
    """Find the delimiter that gives each of the first lines the same number of cells, above one."""
    best, most = ",", 0
    head = lines[:20]
    for delimiter in _DELIMITERS:
        try:
            widths = {len(record) for record in csv.reader(head, delimiter=delimiter) if record}
        except csv.Error:
            continue
        if len(widths) == 1 and max(widths) > most:
            best, most = delimiter, max(widths)
    if not most:
        counts = {one: lines[0].count(one) if lines else 0 for one in _DELIMITERS}
        best = max(counts, key=lambda one: counts[one])
    if not lines:
        raise DataError(f"{source}: the file is empty.")
    return best


def _separators(cells: Iterable[str], delimiter: str) -> tuple[Literal[".", ","], str | None]:
    commas = points = 0
    grouped = {".": 0, ",": 0}
    for cell in cells:
        commas += bool(_COMMA.fullmatch(cell))
        points += bool(_POINT.fullmatch(cell))
        for sign, pattern in _GROUPED.items():
            grouped[sign] += (
                bool(pattern.fullmatch(cell))
                and cell.count(sign) + cell.count("," if sign == "." else ".") > 1
            )
    decimal: Literal[".", ","] = "," if commas > points and delimiter != "," else "."
    thousands = "." if decimal == "," else ","
    return decimal, thousands if grouped[thousands] and thousands != delimiter else None


def _parquet(path: Path, rows: int) -> Peek:
    try:
        file = parquet.ParquetFile(path)
        names = [str(name) for name in file.schema_arrow.names]
        wanted = [name for name in names if not is_personal(name)]
        batch = next(file.iter_batches(batch_size=rows, columns=wanted), None)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path.name}: cannot be read as Parquet: {reason}.") from None
    cells = {} if batch is None else {n: batch.column(n).to_pylist() for n in wanted}
    count = 0 if batch is None else batch.num_rows
    records = [
        names,
        *([_cell(cells[n][i]) if n in cells else "" for n in names] for i in range(count)),
    ]
    return Peek(path.name, count, _columns(path.name, records), text=False)


def _workbook(path: Path, rows: int) -> Peek:
    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except (ValueError, TypeError, AttributeError, IndexError, SyntaxError) as error:
        raise DataError(f"{path.name}: cannot be read as a workbook: {error}.") from None
    try:
        sheet = book.worksheets[0]
        found = ([_cell(cell) for cell in row] for row in sheet.iter_rows(values_only=True))
        records = list(islice((row for row in found if any(row)), rows + 1))
        several = sheet.title if len(book.worksheets) > 1 else None
    finally:
        book.close()
    return Peek(
        path.name,
        max(0, len(records) - 1),
        _columns(path.name, records),
        sheet=several,
        text=False,
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _columns(source: str, records: list[list[str]]) -> dict[str, tuple[str, ...]]:
    """Return the cells by column; of personal columns, and of names that no mapping may hold, none.

    Raises:
        DataError: there is no header, or it names a column twice.
    """
    if not records:
        raise DataError(f"{source}: the file is empty.")
    header = records[0]
    named = [name for name in header if name]
    doubled = first_repeated(named)
    if doubled is not None:
        raise DataError(f"{source}, line 1: column '{doubled}' appears more than once.")
    return dict(_kept(header, records[1:]))


def _kept(header: list[str], rows: list[list[str]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for i, name in enumerate(header):
        if not name or fault_in(name, least=1, most=LONGEST_LINE, as_in_table=True) is not None:
            continue
        cells = tuple(row[i] if i < len(row) else "" for row in rows)
        yield name, () if is_personal(name) else cells
