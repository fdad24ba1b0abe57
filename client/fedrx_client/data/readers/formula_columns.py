"""Makes the columns that formulas of the mapping compute, in the order of what needs what."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.cells import Distinct, Reading
from fedrx_client.data.column_sources import FormulaColumn
from fedrx_client.data.columns import read_limits
from fedrx_client.data.harmonise.dates import ISO, read_date
from fedrx_client.data.harmonise.formulas import Floats, FormulaHasNoValue
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.table import Table, as_text
from fedrx_common.errors import DataError

_HINT = 'correct it, or set unknown = "missing" for the formula in the mapping'


def formula_inputs(mapping: TableMapping, wanted: Collection[str]) -> frozenset[str]:
    """Return the columns that the formulas of the wanted columns need, made ones left out."""
    return frozenset(
        column
        for name in _needed(mapping, wanted)
        for column in mapping.formulas[name].parsed.columns
        if column not in mapping.formulas
    )


def with_formulas(table: Table, mapping: TableMapping, wanted: Collection[str]) -> Table:
    """Add the wanted columns that formulas make, and those that these need.

    Raises:
        DataError: naming the place, if an input is no number or date, or the result no number; or
            if a column of the name is there already.
    """
    for name in _needed(mapping, wanted):
        if name in table.columns or name in table.header:
            raise DataError(
                f"{table.source}: column '{name}' is there, but [columns.{name}] of the mapping "
                "makes one of that name; give the made column another name."
            )
        one = _Inputs(Reading(table, mapping.table), name, mapping.formulas[name])
        table.require(tuple(one.column.parsed.columns))
        cells = [as_text(value) for value in one.result().tolist()]
        table = replace(table, columns={**table.columns, name: cells}, typed=table.typed | {name})
    return table


def _needed(mapping: TableMapping, wanted: Collection[str]) -> list[str]:
    """List the wanted formula columns and those that they need, each after what it needs."""
    formulas, graph = mapping.formulas, dict[str, set[str]]()
    open_ones = [name for name in formulas if name in wanted]
    while open_ones:
        name = open_ones.pop()
        graph[name] = {one for one in formulas[name].parsed.columns if one in formulas}
        open_ones += [one for one in graph[name] if one not in graph]
    return list(TopologicalSorter(graph).static_order())


@dataclass(frozen=True)
class _Inputs:
    """The columns that one formula reads, and what is wrong with their cells."""

    reading: Reading
    name: str
    column: FormulaColumn

    def result(self) -> Floats:
        """Compute the column, `(rows,)`, NaN where missing."""
        try:
            return self.column.parsed.values(
                len(self.reading.table),
                self._numbers,
                self._dates,
                self._recorded,
                strict=self.column.unknown == "error",
            )
        except FormulaHasNoValue as error:
            raise DataError(
                f"{self.reading.table.where(error.row, self.name)}: the formula has no value, as "
                f"{error.why} is no number; {_HINT}."
            ) from None

    def _numbers(self, name: str) -> NDArray[Any]:
        cells = self.reading.distinct(name, self.column.missing)
        written = self.reading.written(name)
        values = written.read_all(cells.texts, cells.recorded)
        limited = read_limits(written, self.column.censored, cells, values)
        unread = cells.recorded & np.isnan(values) & ~limited
        self._refuse(name, cells, unread, "number")
        return values[cells.codes]

    def _dates(self, name: str) -> NDArray[Any]:
        cells = self.reading.distinct(name, self.column.missing)
        written = self.column.date_format or self.reading.options.date_format
        found = [
            read_date(text, written) if recorded else None
            for text, recorded in zip(cells.texts, cells.recorded, strict=True)
        ]
        unread = cells.recorded & np.array([one is None for one in found], dtype=np.bool_)
        shown = "2024-01-31 (or set date_format)" if written == ISO else f"'{written}'"
        self._refuse(name, cells, unread, f"date such as {shown}")
        return np.array(found, dtype="datetime64[us]")[cells.codes]

    def _recorded(self, name: str) -> NDArray[Any]:
        cells = self.reading.distinct(name, self.column.missing)
        recorded: NDArray[np.bool_] = cells.recorded[cells.codes]
        return recorded

    def _refuse(self, name: str, cells: Distinct, unread: NDArray[np.bool_], what: str) -> None:
        """Refuse the first cell that cannot be read, unless such cells count as missing."""
        if not unread.any() or self.column.unknown == "missing":
            return
        row = int(np.flatnonzero(unread[cells.codes])[0])
        cell = cells.texts[cells.codes[row]]
        raise DataError(
            f"{self.reading.table.where(row, name)}: {cell!r} is no {what}, which "
            f"[columns.{self.name}] needs; {_HINT}."
        )
