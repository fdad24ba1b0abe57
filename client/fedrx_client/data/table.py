"""A table of text: the one form that every source takes before the mapping gives it a meaning.

Nothing is interpreted here. A reader fills a `Table` with what the source holds, and with the place
of every row, so that errors can name it.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar, overload

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from pyarrow import compute

from fedrx_common.errors import DataError

KeyT = TypeVar("KeyT", bound=Hashable)


class Texts(Sequence[str]):
    """A column of text, read-only: a few bytes a cell, where a Python text takes fifty or more.

    Args:
        arrow: an Arrow array of `large_string` without nulls.
    """

    __slots__ = ("arrow",)
    __hash__ = None  # type: ignore[assignment]  # equal to a tuple, which hashes otherwise

    def __init__(self, arrow: pa.Array) -> None:
        self.arrow: Final = arrow

    @classmethod
    def of(cls, cells: Iterable[str]) -> "Texts":
        """Make a column of Python texts; half a surrogate pair, which is no text, is escaped."""
        if isinstance(cells, Texts):
            return cells
        listed = list(cells)
        try:
            return cls(pa.array(listed, pa.large_string()))
        except UnicodeEncodeError:
            safe = [cell.encode(errors="backslashreplace").decode() for cell in listed]
            return cls(pa.array(safe, pa.large_string()))

    def __len__(self) -> int:
        return len(self.arrow)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        if isinstance(at, slice):
            return tuple(self.arrow.to_pylist()[at])
        cell: str = self.arrow[int(at)].as_py()
        return cell

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrow.to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __repr__(self) -> str:
        return f"Texts({tuple(self)!r})"

    def take(self, rows: ArrayLike) -> "Texts":
        """Return some cells, in the order of `rows`."""
        return Texts(self.arrow.take(pa.array(np.asarray(rows, dtype=np.int64))))

    def distinct(self) -> tuple["Texts", NDArray[np.int32]]:
        """Return the different texts as they first come, and for each cell which one it is."""
        coded = compute.dictionary_encode(self.arrow)
        return Texts(coded.dictionary), np.asarray(coded.indices)


@dataclass(frozen=True)
class Table:
    """Text cells by column.

    Attributes:
        source: the file's name, for errors.
        unit: what `places` counts: "line" in a text file (the header is line 1), else "row".
        places: where each row starts in the file.
        columns: by name, one stripped text per row; "" where the file holds nothing. Any sequence
            of texts may be given; it is kept as `Texts`.
        header: names of all columns of the file, of which `columns` may hold a part.
        typed: columns of typed numbers, whose text always has a decimal point.
        origins: of a column that was made, not read: where each row's value comes from, in words.
        notes: sentences on what a person should know of the reading: records that were not used.
    """

    source: str
    unit: str
    places: tuple[int, ...]
    columns: Mapping[str, Sequence[str]]
    header: tuple[str, ...] = ()
    typed: frozenset[str] = frozenset()
    origins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = {name: Texts.of(cells) for name, cells in self.columns.items()}
        object.__setattr__(self, "columns", columns)

    def __len__(self) -> int:
        return len(self.places)

    def texts(self, column: str) -> Texts:
        """Return a column, with what `Texts` can do."""
        return Texts.of(self.columns[column])

    def where(self, row: int, column: str) -> str:
        """Name a row and column in words, to start an error with."""
        if column in self.origins:
            return f"{self.source}, {self.origins[column][row]}, column '{column}'"
        return f"{self.source}, {self.unit} {self.places[row]}, column '{column}'"

    def select(self, rows: Sequence[int]) -> "Table":
        """Return the table with some rows only; a row may come more than once."""
        taken = pa.array(np.asarray(rows, dtype=np.int64))
        return replace(
            self,
            places=tuple(self.places[i] for i in rows),
            columns={name: Texts(self.texts(name).arrow.take(taken)) for name in self.columns},
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


def joined(table: Table, other: Table, by: str) -> Table:
    """Add the columns of another table, to each row from the row that has the same `by`.

    Raises:
        DataError: one of them lacks the column, the other names a value twice, or lacks one.
    """
    for one in (table, other):
        one.require((by,))
    places = rows_by_key(other, by, list(other.columns[by]), "value")
    rows = []
    for row, key in enumerate(table.columns[by]):
        if key not in places:
            raise DataError(
                f"{table.where(row, by)}: value {key!r} has no row in {other.source}; add one."
            )
        rows.append(places[key])
    more = other.select(rows)
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


def as_text(cell: object) -> str:
    """Write a typed cell as a CSV would hold it: 1.0 as "1", true as "1", nothing as ""."""
    if cell is None or cell != cell:  # noqa: PLR0124 - NaN is the value that differs from itself
        return ""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()
