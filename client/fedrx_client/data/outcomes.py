"""From columns to outcomes: numbers, yes or no, survival, or the drugs of a panel."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.columns import Limits, Reading, read_flags, read_numbers
from fedrx_client.data.mapping import FlagSource, NumberSource, TableMapping
from fedrx_client.data.table import Table, read_table, rows_by_patient
from fedrx_protocol.errors import MisuseError
from fedrx_protocol.schema import (
    BinaryTarget,
    ContinuousTarget,
    FeatureSchema,
    ForecastTarget,
    NumberFeature,
    PanelTarget,
    SurvivalTarget,
    Target,
)

_HINT = "correct it, or drop the row by a filter of the mapping"


@dataclass(frozen=True)
class OutcomeTable:
    """The table that holds the outcomes: the main one, or a panel's own.

    Attributes:
        table: the table.
        rows: for each row of the main table, its row here; -1 where there is none.
        columns: all columns that outcomes are read from.
        whole: whether a row counts only if all of them are filled; else one is enough.
        missing: codes for "not recorded".
    """

    table: Table
    rows: tuple[int, ...]
    columns: tuple[str, ...]
    whole: bool
    missing: frozenset[str]

    def is_recorded(self, row: int) -> bool:
        """Whether a row of the main table has an outcome."""
        here = self.rows[row]
        if here < 0:
            return False
        filled = (self.table.columns[c][here] not in self.missing for c in self.columns)
        return all(filled) if self.whole else any(filled)

    def select(self, kept: Sequence[int]) -> Table:
        """The outcomes of some rows of the main table, all of which have one."""
        return self.table.select([self.rows[row] for row in kept])


def outcome_table(
    main: Table, mapping: TableMapping, schema: FeatureSchema, folder: Path
) -> OutcomeTable:
    """Find the outcomes of a main table.

    Raises:
        DataError: a file, column or patient id is missing or doubled.
    """
    source, target, table = mapping.target, schema.target, main
    rows = tuple(range(len(main)))
    columns = source.main_columns
    if isinstance(target, PanelTarget):
        columns = source.panel_columns(target)
        if source.file is not None and source.patient is not None:
            table = read_table(folder / source.file, mapping.table)
            table.require((source.patient,))
            places = rows_by_patient(table, source.patient)
            rows = tuple(places.get(p, -1) for p in main.columns[mapping.table.patient])
    table.require(columns)
    whole = not isinstance(target, PanelTarget)
    return OutcomeTable(table, rows, columns, whole, mapping.table.not_recorded)


def read_outcomes(reading: Reading, mapping: TableMapping, target: Target) -> NDArray[np.float64]:
    """Outcomes as a `Cohort` holds them.

    Args:
        reading: the table of outcomes, one row for each patient kept.
        mapping: which columns they are.
        target: what the study wants.

    Raises:
        DataError: naming line and column, if a value cannot be used.
    """
    source = mapping.target
    # What this kind of outcome needs is there: `TargetSource.check_against` has seen to it.
    column, unit = source.column or "", source.unit or ""
    if isinstance(target, BinaryTarget):
        return _yes_or_no(reading, mapping, column)
    if isinstance(target, ForecastTarget):
        raise MisuseError("a forecast's outcomes follow from its visits, and have no column.")
    limits = limits_of(unit, target)
    if isinstance(target, PanelTarget):
        columns = source.panel_columns(target)
        return np.stack([_numbers(reading, drug, unit, limits) for drug in columns], axis=1)
    numbers = _numbers(reading, column, unit, limits)
    if isinstance(target, SurvivalTarget):
        happened = _yes_or_no(reading, mapping, source.event or "")
        return np.stack([numbers, happened], axis=1)
    return numbers


def limits_of(
    unit: str, feature: NumberFeature | ContinuousTarget | PanelTarget | SurvivalTarget
) -> Limits:
    """Unit and range of a number.

    Raises:
        DataError: the units do not fit.
    """
    if isinstance(feature, SurvivalTarget):
        return Limits.of(unit, feature.unit, 0.0, float("inf"))
    return Limits.of(unit, feature.unit, feature.minimum, feature.maximum)


def _numbers(reading: Reading, column: str, unit: str, limits: Limits) -> NDArray[np.float64]:
    source = NumberSource(kind="number", column=column, unit=unit)
    return read_numbers(reading, source, limits, _HINT).values


def _yes_or_no(reading: Reading, mapping: TableMapping, column: str) -> NDArray[np.float64]:
    source = FlagSource(kind="flag", any_of=(column,), yes=mapping.target.yes, no=mapping.target.no)
    return read_flags(reading, source).values.astype(np.float64)
