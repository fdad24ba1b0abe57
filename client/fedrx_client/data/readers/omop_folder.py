"""OMOP's tables as a folder of CSV or Parquet files, as `read_omop` reads them.

Names of files and columns count in any case. A file is read in pieces, of each the wanted columns
and then the wanted rows, so that memory does not grow with it. The vocabulary may be the download
of https://athena.ohdsi.org as it is: tabs between values, and no quotes.
"""

import csv
import gzip
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import compute, parquet
from pyarrow import csv as arrow_csv

from fedrx_client.data.table import as_text
from fedrx_common.errors import DataError
from fedrx_protocol.study.base import first_repeated

_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_BLOCK_BYTES = 1 << 20  # some 32 of them are read ahead
_ROWS_AT_ONCE = 65_536
# How databases export "nothing" into a text file.
_NOTHING = pa.array(["NULL", "null", "\\N", "NA"])


class FolderTables:
    """OMOP's tables in a folder.

    Args:
        folder: with a file for each table: `person.csv`, `MEASUREMENT.parquet`, `CONCEPT.csv.gz`.

    Raises:
        DataError: a table has two files.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._files: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            ending = next((one for one in _ENDINGS if path.name.lower().endswith(one)), None)
            if ending is None or not path.is_file():
                continue
            table = path.name.lower().removesuffix(ending)
            if table in self._files:
                raise DataError(
                    f"{folder.name}: table '{table}' is there twice, as {self._files[table].name} "
                    f"and {path.name}; keep one."
                )
            self._files[table] = path
        self._headers: dict[str, dict[str, str]] = {}

    def columns(self, name: str) -> Collection[str]:
        """Return a table's columns in small letters; none where there is no such table."""
        path = self._files.get(name)
        if path is None:
            return ()
        if name not in self._headers:
            header = _header(path)
            doubled = first_repeated([one.lower() for one in header])
            if doubled is not None:
                raise DataError(f"{self._of(path)}: column '{doubled}' appears more than once.")
            self._headers[name] = {one.lower(): one for one in header}
        return self._headers[name].keys()

    def rows(
        self,
        name: str,
        columns: Sequence[str],
        where: Mapping[str, Collection[int] | Collection[str]],
    ) -> Iterator[tuple[str, ...]]:
        """Give rows as text; with `where`, those with one of its values in any of its columns."""
        path = self._files[name]
        real = self._headers[name]
        there = list(dict.fromkeys(real[one] for one in (*columns, *where) if one in real))
        try:
            for batch in _batches(path, there):
                kept = batch.filter(_any_of(batch, real, where)) if where else batch
                cells = [
                    _texts(kept.column(real[one])) if one in real else [""] * kept.num_rows
                    for one in columns
                ]
                yield from zip(*cells, strict=True)
        except (pa.ArrowException, OSError, EOFError, zlib.error, ValueError, OverflowError) as e:
            raise DataError(f"{self._of(path)}: {_reason(e)}.") from None

    def _of(self, path: Path) -> str:
        return f"{self.name}/{path.name}"


def _header(path: Path) -> list[str]:
    try:
        if path.suffix.lower() == ".parquet":
            return list(parquet.read_schema(path).names)
        line = _first_line(path)
        return [one.strip() for one in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    except (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeError, csv.Error) as error:
        raise DataError(f"{path.parent.name}/{path.name}: {_reason(error)}.") from None


def _first_line(path: Path) -> str:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        return file.readline(_BLOCK_BYTES).decode("utf-8-sig").rstrip("\r\n")


def _delimiter(line: str) -> str:
    return max("\t;|,", key=line.count) if line else ","


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Give the file in pieces; of text, every value as text."""
    if path.suffix.lower() == ".parquet":
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns)
        return
    line = _first_line(path)
    tabs = _delimiter(line) == "\t"
    # Athena's files have tabs and no quotes: a quote in them is a part of a name.
    parse = arrow_csv.ParseOptions(
        delimiter=_delimiter(line), quote_char=False if tabs else '"', newlines_in_values=not tabs
    )
    named = [one.strip() for one in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    read = arrow_csv.ReadOptions(
        use_threads=False, block_size=_BLOCK_BYTES, column_names=named, skip_rows=1
    )
    convert = arrow_csv.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=False,
    )
    with pa.input_stream(path) as stream, arrow_csv.open_csv(stream, read, parse, convert) as file:
        yield from file


def _any_of(
    batch: pa.RecordBatch,
    real: Mapping[str, str],
    where: Mapping[str, Collection[int] | Collection[str]],
) -> pa.BooleanArray:
    """Return which rows have a wanted value, as an Arrow mask."""
    mask: pa.BooleanArray | None = None
    for one, values in where.items():
        if one not in real:
            continue
        column = batch.column(real[one])
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            texts = [str(value) for value in values]
            texts += [f"{value}.0" for value in values if isinstance(value, int)]
            found = compute.is_in(compute.utf8_trim_whitespace(column), pa.array(texts))
        else:
            numbers = compute.cast(column, pa.int64(), safe=False)
            found = compute.is_in(numbers, pa.array([*values], pa.int64()))
        mask = found if mask is None else compute.or_(mask, found)
    return pa.array([False] * batch.num_rows) if mask is None else mask


def _texts(column: pa.Array) -> list[str]:
    if not pa.types.is_string(column.type):
        return [as_text(cell) for cell in column.to_pylist()]
    trimmed = compute.utf8_trim_whitespace(column)
    nothing = compute.is_in(trimmed, _NOTHING)
    return compute.fill_null(compute.if_else(nothing, "", trimmed), "").to_pylist()  # type: ignore[no-any-return]  # pyarrow has no types


def _reason(error: Exception) -> str:
    """Say what is wrong with a file, without the line of it that the library quotes."""
    uneven = str(error).partition("Expected ")[2].partition(" columns")[0]
    if isinstance(error, pa.ArrowInvalid) and uneven.isdigit():
        row = str(error).partition("Row #")[2].partition(":")[0]
        place = f"row {row} " if row.isdigit() else "a row "
        return f"{place}has not {uneven} values, as the header has; correct it"
    if isinstance(error, UnicodeError) or "UTF8" in str(error) or "UTF-8" in str(error):
        return "is not UTF-8 text; save it in this encoding"
    return f"cannot be read ({type(error).__name__}); check that the file is whole"
