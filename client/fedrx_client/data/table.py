"""A file as columns of text, with the place of every row, so that errors can name it.

Reads CSV and Parquet. Nothing is interpreted here: that is the mapping's part.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import parquet

from fedrx_client.data.mapping import TableOptions
from fedrx_protocol.errors import DataError

KeyT = TypeVar("KeyT", bound=Hashable)

_PARQUET = {".parquet", ".pq"}
_TEXT = {".csv", ".tsv", ".txt"}
_DELIMITERS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}


@dataclass(frozen=True)
class Table:
    """Text cells by column.

    Attributes:
        source: the file's name, for errors.
        unit: what `places` counts: "line" in a text file (the header is line 1), else "row".
        places: where each row starts in the file.
        columns: by name, one stripped text per row; "" where the file holds nothing.
    """

    source: str
    unit: str
    places: tuple[int, ...]
    columns: dict[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.places)

    def where(self, row: int, column: str) -> str:
        """A row and column in words, to start an error with."""
        return f"{self.source}, {self.unit} {self.places[row]}, column '{column}'"

    def select(self, rows: list[int]) -> "Table":
        """The table with some rows only."""
        return Table(
            source=self.source,
            unit=self.unit,
            places=tuple(self.places[i] for i in rows),
            columns={name: tuple(cells[i] for i in rows) for name, cells in self.columns.items()},
        )

    def require(self, names: tuple[str, ...]) -> None:
        """Raise `DataError` if a column is not there."""
        for name in names:
            if name not in self.columns:
                listed = ", ".join(f"'{column}'" for column in list(self.columns)[:8])
                more = ", ..." if len(self.columns) > 8 else ""
                raise DataError(
                    f"{self.source}: column '{name}', which the mapping names, is not there; "
                    f"the file has {listed}{more}."
                )


def read_table(path: Path | str, options: TableOptions, *, may_be_empty: bool = False) -> Table:
    """Read a CSV (`.csv`, `.tsv`, `.txt`, also `.gz` of them) or Parquet (`.parquet`, `.pq`) file.

    Args:
        path: the file.
        options: how it is written.
        may_be_empty: whether a header without rows will do.

    Raises:
        DataError: if the file is missing, of another kind, not in the encoding or with the
            delimiter that the mapping says, has an uneven row, a doubled column, or no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such data file.")
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in _PARQUET:
        table = _read_parquet(path)
    elif suffix in _TEXT:
        table = _read_csv(path, options)
    else:
        raise DataError(f"{path}: is neither CSV nor Parquet; save it as one of them.")
    if not len(table) and not may_be_empty:
        raise DataError(f"{path.name}: there are no rows in the file.")
    return table


def joined(table: Table, other: Table, by: str) -> Table:
    """The table with the columns of another one, each row from the row that has the same `by`.

    Raises:
        DataError: one of them lacks the column, the other names a value twice, or lacks one.
    """
    for one in (table, other):
        one.require((by,))
    places = rows_by_key(other, by, other.columns[by], "value")
    for row, key in enumerate(table.columns[by]):
        if key not in places:
            raise DataError(
                f"{table.where(row, by)}: value {key!r} has no row in {other.source}; add one."
            )
    rows = [places[key] for key in table.columns[by]]
    more = other.select(rows).columns
    return Table(table.source, table.unit, table.places, {**more, **table.columns})


def rows_by_patient(table: Table, column: str) -> dict[str, int]:
    """The row of each patient whom `column` names.

    Raises:
        DataError: a patient has two rows.
    """
    return rows_by_key(table, column, table.columns[column])


def rows_by_key(
    table: Table, column: str, keys: Sequence[KeyT], what: str = "patient"
) -> dict[KeyT, int]:
    """The row of each patient, where an id alone does not tell them apart.

    Args:
        table: the table.
        column: the column of ids, for errors.
        keys: what tells patients apart, row by row.
        what: what a row is of, for errors.

    Raises:
        DataError: a patient has two rows.
    """
    found: dict[KeyT, int] = {}
    for row, key in enumerate(keys):
        if key in found:
            raise DataError(
                f"{table.where(row, column)}: {what} {table.columns[column][row]!r} is already on "
                f"{table.unit} {table.places[found[key]]}; keep one row per {what}."
            )
        found[key] = row
    return found


def _read_csv(path: Path, options: TableOptions) -> Table:
    text = _decode(path, options.encoding)
    rows, places = _records(path.name, text, options.delimiter)
    if not rows:
        raise DataError(f"{path.name}: the file is empty.")
    header = _header(path.name, rows[0], options.delimiter)
    for row, place in zip(rows[1:], places[1:], strict=True):
        if len(row) != len(header):
            raise DataError(
                f"{path.name}, line {place}: there are {len(row)} values, but the header names "
                f"{len(header)} columns; a value that holds the delimiter must be quoted."
            )
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else ((),) * len(header)
    return Table(
        source=path.name,
        unit="line",
        places=tuple(places[1:]),
        columns=dict(zip(header, columns, strict=True)),
    )


def _decode(path: Path, encoding: str) -> str:
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:  # a damaged archive is any of them
        raise DataError(f"{path}: cannot be read: {error}.") from None
    try:  # a byte order mark is no part of the first column's name
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path.name}, line {line}: is not {encoding} text; say which encoding it is in "
            "`table.encoding` of the mapping, for instance 'latin-1'."
        ) from None


def _records(source: str, text: str, delimiter: str) -> tuple[list[tuple[str, ...]], list[int]]:
    """Non-empty records and the line on which each starts (a quoted value may span lines)."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[str, ...]] = []
    places: list[int] = []
    start = 1
    try:
        for record in reader:
            if any(cell.strip() for cell in record):
                rows.append(tuple(cell.strip() for cell in record))
                places.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{source}, line {reader.line_num}: is not valid CSV: {error}.") from None
    return rows, places


def _header(source: str, names: tuple[str, ...], delimiter: str) -> tuple[str, ...]:
    if len(names) == 1:
        other = next((d for d in _DELIMITERS if d != delimiter and d in names[0]), None)
        if other:
            raise DataError(
                f"{source}, line 1: there is one column only; the delimiter seems to be "
                f"{_DELIMITERS[other]}, say so in `table.delimiter` of the mapping."
            )
    _check_distinct(source, names)
    return names


def _check_distinct(source: str, names: tuple[str, ...]) -> None:
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise DataError(f"{source}, line 1: column '{doubled[0]}' appears more than once.")


def _read_parquet(path: Path) -> Table:
    try:
        content = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path.name}: cannot be read as Parquet: {reason}.") from None
    names = tuple(str(name) for name in content.column_names)
    _check_distinct(path.name, names)
    columns = (content.column(i).to_pylist() for i in range(len(names)))
    return Table(
        source=path.name,
        unit="row",
        places=tuple(range(1, content.num_rows + 1)),
        columns={
            name: tuple(_as_text(cell) for cell in cells)
            for name, cells in zip(names, columns, strict=True)
        },
    )


def _as_text(cell: object) -> str:
    """A typed cell as a CSV would hold it: 1.0 as "1", true as "1", nothing as ""."""
    if cell is None or cell != cell:  # noqa: PLR0124 - NaN is the value that differs from itself
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()
