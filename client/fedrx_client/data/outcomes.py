"""Turns columns into outcomes: numbers, yes or no, survival, or the drugs of a panel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.cells import Reading
from fedrx_client.data.columns import NumberRange, plausible_codes, read_flags, read_numbers
from fedrx_client.data.ids import ids_in, rows_beside
from fedrx_client.data.mapping import FlagSource, NumberSource, TableMapping
from fedrx_client.data.readers.source import Source
from fedrx_client.data.readers.tables import read_table
from fedrx_client.data.table import Table
from fedrx_common.errors import MisuseError
from fedrx_protocol.study.schema import (
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
_OF_CODES = (
    "say in the mapping which codes mean what (target.yes, target.no, target.missing), or drop the "
    "row by a filter"
)


@dataclass(frozen=True)
class OutcomeTable:
    """The table that holds the outcomes: the main one, or a panel's own.

    Attributes:
        table: the table.
        rows: for each row of the main table, its row here; -1 where there is none.
        recorded: for each row of the main table, whether it has an outcome.
        notes: sentences on values whose reading may not be what was meant.
    """

    table: Table
    rows: tuple[int, ...]
    recorded: tuple[bool, ...]
    notes: tuple[str, ...]

    def select(self, kept: Sequence[int]) -> Table:
        """Return the outcomes of some rows of the main table, all of which have one."""
        return self.table.select([self.rows[row] for row in kept])


def outcome_table(
    main: Table, mapping: TableMapping, schema: FeatureSchema, place: Source
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
            table = read_table(place.beside(source.file), mapping.table, {source.patient, *columns})
            table.require((source.patient,))
            patients = ids_in(main, mapping.table.patient, mapping.table)
            places = rows_beside(table, source.patient, mapping.table, main, patients)
            rows = tuple(places.get(patient, -1) for patient in patients)
    table.require(columns)
    reading = Reading(table, mapping.table)
    filled = zip(*(reading.cells(column, source.missing) for column in columns), strict=True)
    # All of an outcome's columns must be filled; of a panel's drugs, one is enough.
    enough = any if isinstance(target, PanelTarget) else all
    here = [enough(cell is not None for cell in cells) for cells in filled]
    notes = list[str]()
    if source.unit is not None and not isinstance(target, BinaryTarget | ForecastTarget):
        limits = limits_of(source.unit, target)
        for column in columns if isinstance(target, PanelTarget) else columns[:1]:
            notes += plausible_codes(reading, column, limits, source.missing)
    recorded = tuple(row >= 0 and here[row] for row in rows)
    return OutcomeTable(table, rows, recorded, tuple(notes))


def read_outcomes(reading: Reading, mapping: TableMapping, target: Target) -> NDArray[np.float64]:
    """Read outcomes as a `Cohort` holds them.

    Args:
        reading: the table of outcomes, one row for each patient kept.
        mapping: which columns they are.
        target: what the study wants.

    Raises:
        DataError: naming line and column, if a value cannot be used.
    """
    source = mapping.target
    # `TargetSource.check_against` has checked that what this kind of outcome needs is there.
    column, unit = source.column or "", source.unit or ""
    if isinstance(target, BinaryTarget):
        return _yes_or_no(reading, mapping, column)
    if isinstance(target, ForecastTarget):
        raise MisuseError("a forecast's outcomes follow from its visits, and have no column.")
    limits = limits_of(unit, target)
    if isinstance(target, PanelTarget):
        columns = source.panel_columns(target)
        drugs = [_numbers(reading, mapping, drug, limits) for drug in columns]
        return np.stack(drugs, axis=1)
    numbers = _numbers(reading, mapping, column, limits)
    if isinstance(target, SurvivalTarget):
        happened = _yes_or_no(reading, mapping, source.event or "")
        return np.stack([numbers, happened], axis=1)
    return numbers


def limits_of(
    unit: str,
    feature: NumberFeature | ContinuousTarget | PanelTarget | SurvivalTarget,
    analyte: str | None = None,
) -> NumberRange:
    """Return unit and range of a number, or of an analyte's amount.

    Raises:
        DataError: the units do not fit.
    """
    if isinstance(feature, SurvivalTarget):
        return NumberRange.of(unit, feature.unit, 0.0, float("inf"))
    return NumberRange.of(unit, feature.unit, feature.minimum, feature.maximum, analyte)


def _numbers(
    reading: Reading, mapping: TableMapping, column: str, limits: NumberRange
) -> NDArray[np.float64]:
    target = mapping.target
    source = NumberSource(
        kind="number", column=column, unit=target.unit or "", missing=target.missing
    )
    return read_numbers(reading, source, limits, _HINT).values


def _yes_or_no(reading: Reading, mapping: TableMapping, column: str) -> NDArray[np.float64]:
    target = mapping.target
    source = FlagSource(
        kind="flag", any_of=(column,), yes=target.yes, no=target.no, missing=target.missing
    )
    return read_flags(reading, source, _OF_CODES).values.astype(np.float64)
