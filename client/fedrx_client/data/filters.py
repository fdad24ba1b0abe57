"""Which rows of a table take part: those that pass the filters of the mapping, with an outcome."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fedrx_client.data.cells import Reading
from fedrx_client.data.mapping import RowFilter, TableMapping
from fedrx_common.errors import DataError

NO_TARGET = "no target recorded"


@dataclass(frozen=True)
class Kept:
    """Which rows of a table take part.

    Attributes:
        rows: those that do.
        reasons: why a row does not, row by row; `None` for one that does.
        dropped: by reason, rows that do not.
    """

    rows: list[int]
    reasons: list[str | None]
    dropped: dict[str, int]


def kept_rows(reading: Reading, mapping: TableMapping, has_outcome: Sequence[bool]) -> Kept:
    """The rows to keep, and why the others are dropped.

    Args:
        reading: the whole table.
        mapping: its filters.
        has_outcome: whether a row has one; without, nothing can be learned from it.

    Raises:
        DataError: no row is left.
    """
    passes = [_passing(reading, one) for one in mapping.filters]
    passes.append(list(has_outcome))
    names = [*(one.reason for one in mapping.filters), NO_TARGET]
    reasons = [
        next((name for name, rows in zip(names, passes, strict=True) if not rows[row]), None)
        for row in range(len(reading.table))
    ]
    counts = Counter(reasons)
    dropped = {name: counts[name] for name in names}
    kept = [row for row, reason in enumerate(reasons) if reason is None]
    if not kept:
        told = ", ".join(f"{reason} {count}" for reason, count in dropped.items() if count)
        raise DataError(f"{reading.table.source}: no row is left; dropped: {told}.")
    return Kept(kept, reasons, dropped)


def _passing(reading: Reading, condition: RowFilter) -> list[bool]:
    """Which rows a filter lets pass."""
    if condition.present:
        return [c is not None for c in reading.cells(condition.column, condition.missing)]
    keep = reading.keys(condition.keep)
    return [reading.key(cell) in keep for cell in reading.table.columns[condition.column]]
