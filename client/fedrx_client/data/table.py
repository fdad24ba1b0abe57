"""Reads a file as columns of text, with the place of every row, so that errors can name it.

Of CSV and Parquet it keeps only the columns that are wanted: an omics table may have thousands.
Nothing is interpreted here: the mapping does that.
"""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import pyarrow as pa
from pyarrow import parquet

from fedrx_client.data.mapping import TableOptions
from fedrx_common.errors import DataError
from fedrx_protocol.study.base import first_repeated

KeyT = TypeVar("KeyT", bound=Hashable)

_PARQUET = {".parquet", ".pq"}
_TEXT = {".csv", ".tsv", ".txt"}
_DELIMITERS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Table:
    """Text cells by column.

    Attributes:
        source: the file's name, for errors.
        unit: what `places` counts: "line" in a text file (the header is line 1), else "row".
        places: where each row starts in the file.
        columns: by name, one stripped text per row; "" where the file holds nothing.
        header: names of all columns of the file, of which `columns` may hold a part.
        typed: columns of typed numbers, whose text always has a decimal point.
        origins: of a column that was made, not read: where each row's value comes from, in words.
        notes: sentences on what a person should know of the reading: records that were not used.
    """

    source: str
    unit: str
    places: tuple[int, ...]
    columns: dict[str, tuple[str, ...]]
    header: tuple[str, ...] = ()
    typed: frozenset[str] = frozenset()
    origins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    def where(self, row: int, column: str) -> str:
        """Name a row and column in words, to start an error with."""
        if column in self.origins:
            return f"{self.source}, {self.origins[column][row]}, column '{column}'"
        return f"{self.source}, {self.unit} {self.places[row]}, column '{column}'"

    def select(self, rows: list[int]) -> "Table":
        """Return the table with some rows only."""
        return replace(
            self,
            places=tuple(self.places[i] for i in rows),
            columns={name: tuple(cells[i] for i in rows) for name, cells in self.columns.items()},
            origins={name: tuple(one[i] for i in rows) for name, one in self.origins.items()},
        )

    def require(self, names: tuple[str, ...]) -> None:
        """Raise `DataError` if a column is not there."""
        for name in names:
            if name not in self.columns:
                there = self.header or tuple(self.columns)
                listed = ", ".join(f"'{column}'" for column in there[:8])
                more = ", ..." if len(there) > 8 else ""
                raise DataError(
                    f"{self.source}: column '{name}', which the mapping names, is not there; "
                    f"the file has {listed}{more}."
                )


def read_table(
    path: Path | str,
    options: TableOptions,
    columns: Collection[str] | None = None,
    *,
    may_be_empty: bool = False,
) -> Table:
    """Read a CSV (`.csv`, `.tsv`, `.txt`, also `.gz` of them) or Parquet (`.parquet`, `.pq`) file.

    Args:
        path: the file.
        options: how it is written.
        columns: which columns to keep, of those that are there; all for `None`.
        may_be_empty: whether a header without rows is enough.

    Raises:
        DataError: if the file is missing, of another kind, not in the encoding or with the
            delimiter that the mapping names, has an uneven row, a doubled column, or no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such data file.")
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in _PARQUET:
        table = _read_parquet(path, columns)
    elif suffix in _TEXT:
        table = _read_csv(path, options, columns)
    else:
        raise DataError(f"{path}: is neither CSV nor Parquet; save it as one of them.")
    if not len(table) and not may_be_empty:
        raise DataError(f"{path.name}: there are no rows in the file.")
    return table


def joined(table: Table, other: Table, by: str) -> Table:
    """Add the columns of another table, to each row from the row that has the same `by`.

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
    more = other.select([places[key] for key in table.columns[by]])
    return replace(
        table,
        columns={**more.columns, **table.columns},
        header=tuple(dict.fromkeys((*table.header, *other.header))),
        typed=table.typed | (other.typed - table.columns.keys()),
        origins={**more.origins, **table.origins},
    )


def rows_by_key(
    table: Table, column: str, keys: Sequence[KeyT], what: str = "patient"
) -> dict[KeyT, int]:
    """Find the row of each patient, where an id alone does not distinguish them.

    Args:
        table: the table.
        column: the column of ids, for errors.
        keys: row by row, what distinguishes patients.
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


def _read_csv(path: Path, options: TableOptions, wanted: Collection[str] | None) -> Table:
    header: tuple[str, ...] = ()
    kept: list[int] = []
    columns: list[list[str]] = []
    places: list[int] = []
    line = 0
    try:
        with _opened(path) as file:
            text = io.TextIOWrapper(file, options.encoding, newline="")
            # A byte order mark is not part of the first column's name.
            lines = chain([next(text, "").removeprefix("\ufeff")], text)
            reader = csv.reader(lines, delimiter=options.delimiter, strict=True)
            for record in reader:
                place, line = line + 1, reader.line_num  # a quoted value may span lines
                if not any(cell.strip() for cell in record):
                    continue
                if not header:
                    header = tuple(name.strip() for name in record)
                    _check_header(path.name, header, options.delimiter)
                    kept = [i for i, name in enumerate(header) if wanted is None or name in wanted]
                    columns = [[] for _ in kept]
                    continue
                if len(record) != len(header):
                    raise DataError(
                        f"{path.name}, line {place}: there are {len(record)} values, but the "
                        f"header names {len(header)} columns; a value that holds the delimiter "
                        "must be quoted."
                    )
                places.append(place)
                for column, i in zip(columns, kept, strict=True):
                    column.append(record[i].strip())
    except (OSError, EOFError, zlib.error) as error:  # a damaged archive is any of them
        raise DataError(f"{path}: cannot be read: {error}.") from None
    except UnicodeError:
        raise DataError(
            f"{path.name}, line {_undecodable_line(path, options.encoding)}: is not "
            f"{options.encoding} text; say which encoding it is in `table.encoding` of the "
            "mapping, for instance 'latin-1'."
        ) from None
    except csv.Error as error:
        raise DataError(f"{path.name}, line {line + 1}: is not valid CSV: {error}.") from None
    if not header:
        raise DataError(f"{path.name}: the file is empty.")
    return Table(
        source=path.name,
        unit="line",
        places=tuple(places),
        columns={header[i]: tuple(cells) for i, cells in zip(kept, columns, strict=True)},
        header=header,
    )


def _opened(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))


def _undecodable_line(path: Path, encoding: str) -> int:
    """Find the first line that is not in the encoding; text is decoded well ahead of its line."""
    decoder, lines = codecs.getincrementaldecoder(encoding)(), 1
    with _opened(path) as file:
        try:
            while chunk := file.read(_CHUNK_BYTES):
                lines += decoder.decode(chunk).count("\n")
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            return lines + error.object[: error.start].count(b"\n")
        except UnicodeError:
            pass
    return lines


def _check_header(source: str, names: tuple[str, ...], delimiter: str | None = None) -> None:
    """Refuse a column that appears twice, and a text file that seems to have another delimiter."""
    if delimiter is not None and len(names) == 1:
        other = next((d for d in _DELIMITERS if d != delimiter and d in names[0]), None)
        if other:
            raise DataError(
                f"{source}, line 1: there is one column only; the delimiter seems to be "
                f"{_DELIMITERS[other]}, say so in `table.delimiter` of the mapping."
            )
    doubled = first_repeated(names)
    if doubled is not None:
        raise DataError(f"{source}, line 1: column '{doubled}' appears more than once.")


def _read_parquet(path: Path, wanted: Collection[str] | None) -> Table:
    try:
        header = tuple(parquet.read_schema(path).names)
        _check_header(path.name, header)
        names = [name for name in header if wanted is None or name in wanted]
        content = parquet.read_table(path, columns=names)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path.name}: cannot be read as Parquet: {reason}.") from None
    columns = {name: content.column(name) for name in names}
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return Table(
        source=path.name,
        unit="row",
        places=tuple(range(1, content.num_rows + 1)),
        columns={
            name: tuple(_as_text(cell) for cell in column.to_pylist())
            for name, column in columns.items()
        },
        header=header,
        typed=frozenset(n for n, c in columns.items() if any(kind(c.type) for kind in numeric)),
    )


def _as_text(cell: object) -> str:
    """Write a typed cell as a CSV would hold it: 1.0 as "1", true as "1", nothing as ""."""
    if cell is None or cell != cell:  # noqa: PLR0124 - NaN is the value that differs from itself
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()
