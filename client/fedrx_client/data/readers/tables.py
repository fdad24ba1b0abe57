"""Reads a file that is a table: delimited text, Parquet or Excel; only the wanted columns."""

from collections.abc import Container
from pathlib import Path

import pyarrow as pa
from pyarrow import compute, parquet

from fedrx_client.data.mapping import TableOptions
from fedrx_client.data.readers.delimited import check_header, read_delimited
from fedrx_client.data.readers.workbook import read_workbook
from fedrx_client.data.table import Table, Texts, as_text
from fedrx_common.errors import DataError

_PARQUET = {".parquet", ".pq"}
_TEXT = {".csv", ".tsv", ".txt"}


def read_table(
    path: Path | str,
    options: TableOptions,
    columns: Container[str] | None = None,
    *,
    may_be_empty: bool = False,
) -> Table:
    """Read delimited text (`.csv`, `.tsv`, `.txt`, also as `.gz`), Parquet (`.parquet`) or `.xlsx`.

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
        table = read_delimited(path, options, columns)
    elif path.suffix.lower() == ".xlsx":
        table = read_workbook(path, options, columns)
    else:
        raise DataError(f"{path}: is neither CSV nor Parquet nor .xlsx; save it as one of them.")
    if not len(table) and not may_be_empty:
        raise DataError(f"{path.name}: there are no rows in the file.")
    return table


def _read_parquet(path: Path, wanted: Container[str] | None) -> Table:
    try:
        header = tuple(parquet.read_schema(path).names)
        check_header(path.name, header)
        names = [name for name in header if wanted is None or name in wanted]
        content = parquet.read_table(path, columns=names)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path.name}: cannot be read as Parquet: {reason}.") from None
    columns = {name: content.column(name) for name in names}
    for name, column in columns.items():
        if pa.types.is_nested(column.type):
            raise DataError(
                f"{path.name}: column '{name}' holds lists or records ({column.type}); a cell "
                "must be one value."
            )
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return Table(
        source=path.name,
        unit="row",
        places=tuple(range(1, content.num_rows + 1)),
        columns={name: _texts(column) for name, column in columns.items()},
        header=header,
        typed=frozenset(n for n, c in columns.items() if any(kind(c.type) for kind in numeric)),
    )


def _texts(column: pa.ChunkedArray) -> Texts:
    """Write a typed column as text, each different value once."""
    whole = column.combine_chunks()
    whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    if pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_decode()
    if pa.types.is_string(whole.type) or pa.types.is_large_string(whole.type):
        filled = compute.fill_null(whole.cast(pa.large_string()), "")
        return Texts(compute.utf8_trim_whitespace(filled))
    coded = compute.dictionary_encode(whole, null_encoding="encode")
    written = Texts.of(as_text(cell) for cell in coded.dictionary.to_pylist())
    return Texts(written.arrow.take(coded.indices))
