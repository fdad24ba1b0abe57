"""Turns repeated measurements side by side (`crp_0`, `crp_24`) into one row for each time."""

from collections.abc import Collection, Container
from dataclasses import replace

import numpy as np

from fedrx_client.data.cells import Reading
from fedrx_client.data.column_sources import LongSource
from fedrx_client.data.mapping import TableOptions
from fedrx_client.data.table import Table, Texts
from fedrx_common.errors import DataError


class WideColumns(Container[str]):
    """The names to read of a wide table: some by name, others by a pattern of `[long]`.

    Args:
        long: the patterns.
        names: columns that are wanted, read or made.
    """

    def __init__(self, long: LongSource, names: Collection[str]) -> None:
        self._long, self._names = long, frozenset(names)

    def __contains__(self, column: object) -> bool:
        if column in self._names:
            return True
        made = [name for name in self._long.columns if name in self._names]
        return any(self._long.time_in(name, str(column)) is not None for name in made)


def as_long(
    table: Table, long: LongSource, options: TableOptions, wanted: Collection[str]
) -> Table:
    """Turn each row into one for each time at which something was recorded.

    A row's times come in order; a time without a value in any of the columns makes no row. Other
    columns are repeated.

    Args:
        table: the wide table.
        long: which columns belong together.
        options: how the table is written, with its codes for "not recorded".
        wanted: columns that are needed, read or made.

    Raises:
        DataError: a pattern fits no column, two columns mean one time, or a made column has the
            name of one that is there.
    """
    families = {name: _family(table, long, name) for name in long.columns if name in wanted}
    for name in (long.time, *families):
        if name in table.header:
            raise DataError(
                f"{table.source}: column '{name}' is there, but [long] of the mapping makes one of "
                "that name; give the made column another name."
            )
    times = sorted({time for family in families.values() for time in family}, key=float)
    reading, count = Reading(table, options), len(table)
    recorded = np.zeros((count, len(times)), dtype=np.bool_)
    for family in families.values():
        for time, column in family.items():
            cells = reading.distinct(column)
            recorded[:, times.index(time)] |= cells.recorded[cells.codes]
    rows, at = np.nonzero(recorded)
    if not rows.size:
        raise DataError(
            f"{table.source}: no row has a value in the columns of [long] of the mapping; look at "
            "its patterns."
        )
    used = {column for family in families.values() for column in family.values()}
    kept = replace(
        table, columns={name: c for name, c in table.columns.items() if name not in used}
    ).select(rows.tolist())
    made: dict[str, list[str]] = {long.time: [times[i] for i in at.tolist()]}
    origins: dict[str, tuple[str, ...]] = {}
    for name, family in families.items():
        sources = {times.index(time): list(table.columns[c]) for time, c in family.items()}
        pairs = list(zip(rows.tolist(), at.tolist(), strict=True))
        made[name] = [sources[i][row] if i in sources else "" for row, i in pairs]
        origins[name] = tuple(
            f"{table.unit} {table.places[row]}, at time {times[i]}" for row, i in pairs
        )
    typed = {name for name, family in families.items() if table.typed.issuperset(family.values())}
    return replace(
        kept,
        columns={**kept.columns, **{name: Texts.of(cells) for name, cells in made.items()}},
        typed=kept.typed | typed | {long.time},
        origins={**kept.origins, **origins},
    )


def _family(table: Table, long: LongSource, name: str) -> dict[str, str]:
    """Return the columns of one made column by their time, in the file's order."""
    found: dict[str, str] = {}
    numbers: dict[float, str] = {}
    for column in table.columns:
        time = long.time_in(name, column)
        if time is None:
            continue
        other = numbers.setdefault(float(time), column)
        if other != column:
            raise DataError(
                f"{table.source}: columns '{other}' and '{column}' both hold '{name}' at time "
                f"{time}; leave one out of the pattern long.columns.{name}."
            )
        found[time] = column
    if not found:
        raise DataError(
            f"{table.source}: no column fits '{long.columns[name]}' of [long] in the mapping; "
            "{time} stands for a number, or for a text that long.times names."
        )
    return found
