"""Reads delimited text (CSV, TSV) through Arrow, in blocks of whole records.

Arrow alone reads a quote inside a value its own way, and knows no line numbers. So each block is
first looked over as bytes, vectorised: where records and quotes begin and end, and how many values
a record has. Only a block in which all fits goes to Arrow. A file whose quotes are not plain is
read by the `csv` module, slower and strict, which also finds the place of a mistake. pandas, over
either of its engines, makes an object of each cell or reads "nan" as missing.
"""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute
from pyarrow import csv as arrow_csv

from fedrx_client.data.mapping import TableOptions
from fedrx_client.data.table import Table, Texts
from fedrx_common.errors import DataError
from fedrx_protocol.study.base import first_repeated

_DELIMITERS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}
_CHUNK_BYTES = 1 << 16
_BLOCK_CHARACTERS = 1 << 18
# What a block costs beside its text grows with the columns kept, so blocks grow with them.
_CHARACTERS_PER_COLUMN, _LARGEST_BLOCK = 1 << 14, 1 << 23
_LONGEST_RECORD = 1 << 26  # bytes; a quote that is never closed must not fill the memory
_ROWS_AT_ONCE = 4096
_BYTE_ORDER_MARK = "\ufeff".encode()
_BLANKS = b" \t\x0b\x0c\x1c\x1d\x1e\x1f"  # beside line ends
_QUOTE, _LINE_FEED, _RETURN = b'"'[0], b"\n"[0], b"\r"[0]


class _NotPlain(Exception):
    """The file holds something that only the `csv` module reads right, or explains."""


@dataclass
class _Columns:
    """What was read so far of the wanted columns.

    Attributes:
        header: all names; none before the header is read.
        kept: the positions of the wanted ones.
        parts: for each of those, arrays of text.
        places: the line at which each row starts.
    """

    header: tuple[str, ...]
    kept: list[int]
    parts: list[list[Any]]
    places: list[int]

    def add(self, cells: Sequence[pa.Array], places: list[int], *, strip: bool = True) -> None:
        """Add rows.

        Args:
            cells: for each wanted column, its text in these rows.
            places: the line of each row.
            strip: take away blanks around each cell.
        """
        if not places:
            return
        self.places += places
        for part, text in zip(self.parts, cells, strict=True):
            part.append(compute.utf8_trim_whitespace(text) if strip else text)

    def table(self, source: str) -> Table:
        """Return all rows as a table; what was read is given up on the way, not kept twice."""
        columns = {}
        for i, part in zip(self.kept, self.parts, strict=True):
            whole = pa.concat_arrays(part) if part else pa.array([], pa.large_string())
            columns[self.header[i]] = Texts(whole)
            part.clear()
        return Table(
            source=source,
            unit="line",
            places=tuple(self.places),
            columns=columns,
            header=self.header,
        )


def read_delimited(path: Path, options: TableOptions, wanted: Container[str] | None) -> Table:
    """Read the wanted columns of delimited text, which may be packed by gzip.

    Raises:
        DataError: naming the line, if the file is not in the encoding or with the delimiter that
            the mapping names, has an uneven row, a doubled column, or quotes that do not close.
    """
    try:
        try:
            return _by_blocks(path, options, wanted)
        except _NotPlain:
            return _by_records(path, options, wanted)
        except UnicodeError:
            raise DataError(
                f"{path.name}, line {_undecodable_line(path, options.encoding)}: is not "
                f"{options.encoding} text; say which encoding it is in `table.encoding` of the "
                "mapping, for instance 'latin-1'."
            ) from None
    except (OSError, EOFError, zlib.error) as error:  # a damaged archive is any of them
        raise DataError(f"{path}: cannot be read: {error}.") from None


def check_header(source: str, names: tuple[str, ...], delimiter: str | None = None) -> None:
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


def _by_blocks(path: Path, options: TableOptions, wanted: Container[str] | None) -> Table:
    delimiter = options.delimiter
    if not delimiter.isascii():
        raise _NotPlain  # Arrow takes one byte only
    found: _Columns | None = None
    line, blocks = 1, _Blocks(path, options.encoding)
    for block in blocks:
        record_of = _Outline.of(block, delimiter, line)
        first = 0
        if found is None:
            first = next((i for i in range(len(record_of)) if not record_of.is_blank(i)), -1)
            if first >= 0:
                found = _begin(path.name, record_of.cells(first), options, wanted)
                fitting = min(_CHARACTERS_PER_COLUMN * len(found.kept), _LARGEST_BLOCK)
                blocks.size = max(blocks.size, fitting)
            first += 1
        if found is not None and first < len(record_of):
            _add_block(path.name, record_of.after(first), found)
        line += record_of.lines
    if found is None:
        raise DataError(f"{path.name}: the file is empty.")
    return found.table(path.name)


def _begin(
    source: str, record: list[str], options: TableOptions, wanted: Container[str] | None
) -> _Columns:
    header = tuple(name.strip() for name in record)
    check_header(source, header, options.delimiter)
    kept = [i for i, name in enumerate(header) if wanted is None or name in wanted]
    return _Columns(header, kept, [[] for _ in kept], [])


def _add_block(source: str, outline: "_Outline", found: _Columns) -> None:
    width = len(found.header)
    blank = np.zeros(len(outline), dtype=np.bool_)
    for i in np.flatnonzero(outline.perhaps_blank).tolist():
        blank[i] = outline.is_blank(i)
    uneven = np.flatnonzero((outline.widths != width) & ~blank)
    if uneven.size:
        raise _uneven(source, int(outline.starts[uneven[0]]), int(outline.widths[uneven[0]]), width)
    places = outline.starts[~blank].tolist()
    if not places or not found.kept:
        found.add([], places)
        return
    text = outline.without(blank)
    cells = _parse(text, outline.delimiter, width, found.kept)
    if any(len(column) != len(places) for column in cells):
        raise _NotPlain
    blanks = not text.isascii() or any(byte in text for byte in _BLANKS)
    found.add(cells, places, strip=blanks)


def _parse(text: bytes, delimiter: str, width: int, kept: list[int]) -> list[pa.Array]:
    """Parse whole records that all have `width` values; return the kept columns, each `(records,)`.

    Raises:
        _NotPlain: Arrow reads it otherwise than the outline says.
    """
    if text.startswith(_BYTE_ORDER_MARK):
        raise _NotPlain  # Arrow would take it away
    names = [str(i) for i in range(width)]
    wanted = [names[i] for i in kept]
    try:
        read = arrow_csv.read_csv(
            pa.BufferReader(text),
            arrow_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
            arrow_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False
            ),
            arrow_csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.large_string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        raise _NotPlain from None
    return [_in_one_piece(column) for column in read.columns]


def _in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    """Join the pieces of a column."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


@dataclass(frozen=True)
class _Outline:
    """Where the records of a block are.

    Attributes:
        text: the block, UTF-8, of whole records.
        delimiter: one ASCII character.
        bounds: `(records + 1,)`, where each record begins in the text, and the end.
        starts: `(records,)`, the line at which each begins.
        widths: `(records,)`, how many values each has.
        perhaps_blank: `(records,)`, whether it may be one of empty cells only.
        lines: number of lines of the block.
    """

    text: bytes
    delimiter: str
    bounds: NDArray[np.int64]
    starts: NDArray[np.int64]
    widths: NDArray[np.int64]
    perhaps_blank: NDArray[np.bool_]
    lines: int

    def __len__(self) -> int:
        return len(self.starts)

    def cells(self, record: int) -> list[str]:
        """Return one record's values."""
        text = self.text[self.bounds[record] : self.bounds[record + 1]].decode()
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter), [])

    def is_blank(self, record: int) -> bool:
        """Return whether a record has nothing but empty cells."""
        if not self.perhaps_blank[record]:
            return False
        return not any(cell.strip() for cell in self.cells(record))

    def after(self, first: int) -> "_Outline":
        """Return the outline without the records before `first`."""
        if not first:
            return self
        start = self.bounds[first]
        return _Outline(
            self.text[start:],
            self.delimiter,
            self.bounds[first:] - start,
            self.starts[first:],
            self.widths[first:],
            self.perhaps_blank[first:],
            self.lines,
        )

    def without(self, blank: NDArray[np.bool_]) -> bytes:
        """Return the text without some records."""
        if not blank.any():
            return self.text
        kept = np.flatnonzero(~blank).tolist()
        return b"".join(self.text[self.bounds[i] : self.bounds[i + 1]] for i in kept)

    @classmethod
    def of(cls, text: bytes, delimiter: str, line: int) -> "_Outline":
        """Look a block over.

        Args:
            text: whole records, the last one with its line end.
            delimiter: one ASCII character.
            line: the line at which the block begins.

        Raises:
            _NotPlain: a quote stands inside an unquoted value, or is not closed.
        """
        data = np.frombuffer(text, np.uint8)
        ends = _line_ends(data)
        delimiters = data == ord(delimiter)
        line_ends = np.flatnonzero(ends)
        record_ends = line_ends
        inside = _inside_quotes(data, delimiters)
        if inside is not None:
            delimiters &= ~inside
            record_ends = np.flatnonzero(ends & ~inside)
        bounds = np.concatenate(([0], record_ends + 1))
        starts = bounds[:-1]
        widths = np.diff(np.searchsorted(np.flatnonzero(delimiters), bounds)) + 1
        solid = np.frombuffer(text.translate(_solid_bytes(delimiter)), np.bool_)
        return cls(
            text=text,
            delimiter=delimiter,
            bounds=bounds,
            starts=line + np.searchsorted(line_ends, starts),
            widths=widths,
            perhaps_blank=~np.logical_or.reduceat(solid, starts),
            lines=len(line_ends),
        )


def _line_ends(data: NDArray[np.uint8]) -> NDArray[np.bool_]:
    r"""Return where lines end: at \n, at \r\n once, and at \r alone."""
    ends: NDArray[np.bool_] = data == _LINE_FEED
    returns = data == _RETURN
    if returns.any():
        returns[:-1] &= ~ends[1:]
        ends |= returns
    return ends


def _inside_quotes(
    data: NDArray[np.uint8], delimiters: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Return which bytes are inside quotes; None where there is no quote.

    Raises:
        _NotPlain: an opening quote does not begin a value, or a closing one does not end it.
    """
    quotes = data == _QUOTE
    if not quotes.any():
        return None
    inside = np.logical_xor.accumulate(quotes)
    if inside[-1]:
        raise _NotPlain
    bound = delimiters | (data == _LINE_FEED) | (data == _RETURN)
    closing = quotes & ~inside
    before = np.concatenate(([True], (bound | closing)[:-1]))
    after = np.concatenate(((bound | quotes)[1:], [True]))
    if not (before[quotes & inside].all() and after[closing].all()):
        raise _NotPlain
    return np.asarray(inside, dtype=np.bool_)


def _solid_bytes(delimiter: str) -> bytes:
    """Return 1 for each byte that no blank record has, else 0; beyond ASCII may be blanks too."""
    blanks = {*_BLANKS, *b'"\r\n', ord(delimiter)}
    return bytes(int(byte < 128 and byte not in blanks) for byte in range(256))


class _Blocks:
    """A file's text as UTF-8, cut after records; the last block ends with a line end.

    Attributes:
        size: how many characters to read at once; may be changed on the way.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        self.size = _BLOCK_CHARACTERS
        self._path, self._encoding = path, encoding

    def __iter__(self) -> Iterator[bytes]:
        with _opened(self._path) as file:
            text = io.TextIOWrapper(file, self._encoding, newline="")
            rest = b""
            piece = text.read(self.size).removeprefix("\ufeff")
            while piece:
                if "\0" in piece:
                    raise _NotPlain  # text has none, and the `csv` module says so
                rest += piece.encode()
                end = _last_record_end(rest)
                if end:
                    yield rest[:end]
                    rest = rest[end:]
                if len(rest) > _LONGEST_RECORD:
                    raise _NotPlain
                # A long record is not searched again for each small piece of it.
                piece = text.read(max(self.size, len(rest)))
            if rest:
                yield rest if rest.endswith((b"\n", b"\r")) else rest + b"\n"


def _last_record_end(text: bytes) -> int:
    """Return where the last whole record of a text ends, 0 if there is none."""
    if b'"' not in text:
        end = text.rfind(b"\n") + 1
        if end:
            return end
    data = np.frombuffer(text, np.uint8)
    ends = _line_ends(data)
    ends[-1] &= data[-1] != _RETURN  # the line feed that belongs to it may come next
    ends &= ~np.logical_xor.accumulate(data == _QUOTE)
    found = np.flatnonzero(ends)
    return int(found[-1]) + 1 if found.size else 0


def _by_records(path: Path, options: TableOptions, wanted: Container[str] | None) -> Table:
    """Read a file record by record, strictly, with the place of whatever is wrong."""
    found: _Columns | None = None
    line = 0
    rows: list[list[str]] = []
    places: list[int] = []
    with _opened(path) as file:
        text = io.TextIOWrapper(file, options.encoding, newline="")
        # A byte order mark is not part of the first column's name.
        lines = chain([next(text, "").removeprefix("\ufeff")], text)
        reader = csv.reader(lines, delimiter=options.delimiter, strict=True)
        try:
            for record in reader:
                place, line = line + 1, reader.line_num  # a quoted value may span lines
                if not any(cell.strip() for cell in record):
                    continue
                if found is None:
                    found = _begin(path.name, record, options, wanted)
                    continue
                if len(record) != len(found.header):
                    raise _uneven(path.name, place, len(record), len(found.header))
                rows.append([record[i] for i in found.kept])
                places.append(place)
                if len(rows) == _ROWS_AT_ONCE:
                    found.add(_cells(rows, len(found.kept)), places)
                    rows, places = [], []
        except csv.Error as error:
            raise DataError(f"{path.name}, line {line + 1}: is not valid CSV: {error}.") from None
    if found is None:
        raise DataError(f"{path.name}: the file is empty.")
    found.add(_cells(rows, len(found.kept)), places)
    return found.table(path.name)


def _cells(rows: list[list[str]], width: int) -> list[pa.Array]:
    """Turn rows of text into columns."""
    return [pa.array([row[i] for row in rows], pa.large_string()) for i in range(width)]


def _uneven(source: str, place: int, values: int, width: int) -> DataError:
    return DataError(
        f"{source}, line {place}: there are {values} values, but the header names {width} columns; "
        "a value that holds the delimiter must be quoted."
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
