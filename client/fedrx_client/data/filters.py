"""Which rows of a table take part: those that pass the filters of the mapping, with an outcome."""

from collections import Counter
from collections.abc import Callable

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.table import Table
from fedrx_protocol.errors import DataError


def kept_rows(
    table: Table, mapping: TableMapping, has_outcome: Callable[[int], bool]
) -> tuple[list[int], dict[str, int]]:
    """The rows to keep, and how many were dropped for which reason.

    Args:
        table: the whole table.
        mapping: its filters.
        has_outcome: whether a row has one; without, nothing can be learned from it.

    Raises:
        DataError: no row is left.
    """
    missing = mapping.table.not_recorded
    reasons = [f.reason for f in mapping.filters] + ["no target recorded"]
    dropped: Counter[str] = Counter(dict.fromkeys(reasons, 0))
    kept = []
    for row in range(len(table)):
        reason = _reason(table, mapping, row, missing)
        if reason is None and not has_outcome(row):
            reason = reasons[-1]
        if reason is None:
            kept.append(row)
        else:
            dropped[reason] += 1
    if not kept:
        counts = ", ".join(f"{reason} {count}" for reason, count in dropped.items() if count)
        raise DataError(f"{table.source}: no row is left; dropped: {counts}.")
    return kept, dict(dropped)


def _reason(table: Table, mapping: TableMapping, row: int, missing: frozenset[str]) -> str | None:
    """Which filter drops a row, `None` if none does."""
    for condition in mapping.filters:
        cell = table.columns[condition.column][row]
        if (cell in missing) if condition.present else (cell not in condition.keep):
            return condition.reason
    return None
