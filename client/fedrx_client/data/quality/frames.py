"""A source's columns as DataFrames in the study's units and codes, before any value is refused.

Loading stops at the first value that cannot be used. These frames hold all of them, so that a
person sees everything that is wrong at once. They hold patients: they never leave the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fedrx_client.data.cells import Reading
from fedrx_client.data.columns import NumberRange, read_categories, read_flags, read_numbers
from fedrx_client.data.mapping import (
    CategorySource,
    FeatureSource,
    FlagSource,
    NumberSource,
    TableMapping,
)
from fedrx_client.data.readers.read import read_source
from fedrx_client.data.readers.source import Source
from fedrx_client.data.sites import kept_rows
from fedrx_client.data.sources import AbsentSource
from fedrx_client.data.table import Table
from fedrx_protocol.study.schema import (
    BinaryTarget,
    CategoryFeature,
    ContinuousTarget,
    FeatureSchema,
    NumberFeature,
    SurvivalTarget,
)

NOT_UNDERSTOOD = "not understood"
"""Stands for a code that the mapping does not name; infinity stands for text that is no number.

The text itself may be anything, a name too, and is not kept.
"""


@dataclass(frozen=True, eq=False)
class Frames:
    """What a source holds of a study, row by row.

    Attributes:
        table: the rows that the mapping's filters keep.
        rows_read: rows before the filters.
        patients: frame of features and outcome; a row for each patient, or for each of the table's
            rows where a patient has one. Its index is the row in `table`.
        visits: frame of markers and amounts of treatments, a row for each visit; None without.
        time: name of the column of times in `visits`.
        lenient: study names whose mapping takes what it does not understand as missing.
        columns: by study name, the source's columns.
    """

    table: Table
    rows_read: int
    patients: pd.DataFrame
    visits: pd.DataFrame | None
    time: str = ""
    lenient: frozenset[str] = frozenset()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def every(self) -> tuple[pd.DataFrame, ...]:
        """Both frames, or the one that there is."""
        return (self.patients,) if self.visits is None else (self.patients, self.visits)

    def places(self, rows: "pd.Index[Any]") -> tuple[int, ...]:
        """Return where some rows are in the source, in order."""
        return tuple(sorted(self.table.places[int(row)] for row in set(rows)))


def read_frames(source: Source, mapping: TableMapping, schema: FeatureSchema) -> Frames:
    """Read a source's columns; values that cannot be used are kept as such.

    Args:
        source: where the patients are.
        mapping: checked against the study.
        schema: the study's features and target.

    Raises:
        DataError: the source cannot be read, lacks a column, or no row is left.
    """
    whole = read_source(source, mapping, set(mapping.named_columns))
    whole.require(mapping.named_columns)
    reading = Reading(whole, mapping.table)
    kept = kept_rows(reading, mapping, _has_outcome(reading, mapping))
    table = whole.select(kept.rows)
    reading = Reading(table, mapping.table)
    columns: dict[str, Any] = {}
    features = {feature.name: feature for feature in schema.features}
    once = mapping.visits is not None and mapping.visits.features is not None
    for name, feature in features.items():
        one = mapping.features[name]
        if not isinstance(one, AbsentSource) and not once:
            columns[name] = _column(reading, name, one, feature)
    columns |= _outcome(reading, mapping, schema)
    frame = pd.DataFrame(columns, index=range(len(table)))
    visits, time = None, ""
    if mapping.visits is not None:
        visits, time = _visits(reading, mapping, schema), mapping.visits.time
        frame = frame[~pd.Series(reading.cells(mapping.table.patient)).duplicated()]
    parts = {**mapping.features, **mapping.markers}
    lenient = {name for name, one in parts.items() if getattr(one, "unknown", "") == "missing"}
    return Frames(
        table=table,
        rows_read=len(whole),
        patients=frame,
        visits=visits,
        time=time,
        lenient=frozenset(lenient),
        columns=_named(mapping),
    )


def _has_outcome(reading: Reading, mapping: TableMapping) -> list[bool]:
    """Say of each row whether its outcome is recorded; without one it is dropped."""
    target = mapping.target
    named = [column for column in target.main_columns if column in reading.table.columns]
    if not named or target.file is not None:
        return [True] * len(reading.table)
    cells = zip(*(reading.cells(column, target.missing) for column in named), strict=True)
    return [all(cell is not None for cell in row) for row in cells]


def _column(
    reading: Reading,
    name: str,
    source: FeatureSource,
    feature: Any,  # noqa: ANN401 - any feature
) -> Any:  # noqa: ANN401 - a NumPy column of floats or objects
    if isinstance(source, NumberSource) and isinstance(feature, NumberFeature):
        return numbers(reading, source, feature.unit)
    if isinstance(source, CategorySource) and isinstance(feature, CategoryFeature):
        lenient = source.model_copy(update={"unknown": "missing"})
        codes = read_categories(reading, lenient, feature.values, name).values  # noqa: PD011 - ours
        absent = reading.keys(source.missing, name)
        for row, cell in enumerate(reading.cells(source.column, source.missing)):
            if cell is not None and codes[row] is None and reading.key(cell, name) not in absent:
                codes[row] = NOT_UNDERSTOOD
        return codes
    if isinstance(source, FlagSource):
        return flags(reading, source)
    return np.full(len(reading.table), None, dtype=object)


def numbers(reading: Reading, source: NumberSource, unit: str) -> np.ndarray[Any, Any]:
    """Read numbers in the study's unit, whatever their size; infinite where text is no number.

    Args:
        reading: the table.
        source: column and unit.
        unit: the study's.
    """
    limits = NumberRange.of(source.unit, unit, -np.inf, np.inf)
    lenient = source.model_copy(update={"unknown": "missing"})
    values = np.array(read_numbers(reading, lenient, limits).values)
    cells = reading.cells(source.column, source.missing)
    there = np.array([cell is not None for cell in cells], dtype=np.bool_)
    if getattr(source, "censored", "error") != "missing":
        values[there & np.isnan(values)] = np.inf
    return values


def flags(reading: Reading, source: FlagSource) -> np.ndarray[Any, Any]:
    """Read yes, no, `None`, or `NOT_UNDERSTOOD`.

    Args:
        reading: the table.
        source: columns and codes.
    """
    lenient = source.model_copy(update={"unknown": "missing"})
    values = read_flags(reading, lenient).values  # noqa: PD011 - not a pandas object
    known = reading.keys((*source.yes, *source.no))
    for column in source.any_of:
        for row, cell in enumerate(reading.cells(column, source.missing)):
            if cell is not None and reading.key(cell) not in known:
                values[row] = NOT_UNDERSTOOD
    return values


def _outcome(reading: Reading, mapping: TableMapping, schema: FeatureSchema) -> dict[str, Any]:
    """Read an outcome in the main table; a panel's and a forecast's are judged when loaded."""
    target, source = schema.target, mapping.target
    if source.column is None or source.file is not None:
        return {}
    if isinstance(target, ContinuousTarget | SurvivalTarget):
        number = NumberSource(
            kind="number", column=source.column, unit=source.unit or "", missing=source.missing
        )
        return {target.name: numbers(reading, number, target.unit)}
    if isinstance(target, BinaryTarget):
        flag = FlagSource(
            kind="flag",
            any_of=(source.column,),
            yes=source.yes,
            no=source.no,
            missing=source.missing,
        )
        return {target.name: flags(reading, flag)}
    return {}


def _visits(reading: Reading, mapping: TableMapping, schema: FeatureSchema) -> pd.DataFrame:
    """Read times, markers and amounts of every visit."""
    visits = mapping.visits
    if visits is None or schema.visits is None:
        return pd.DataFrame()
    times = NumberSource(kind="number", column=visits.time, unit=visits.unit)
    columns = {visits.time: numbers(reading, times, schema.visits.time_unit)}
    for marker in schema.markers:
        one = mapping.markers[marker.name]
        if one.column is not None and one.measured:
            number = NumberSource(
                kind="number", column=one.column, unit=one.unit, missing=one.missing
            )
            columns[marker.name] = numbers(reading, number, marker.unit)
    for treatment in schema.treatments:
        if treatment.kind == "amount":
            given = mapping.treatments[treatment.name]
            number = NumberSource(
                kind="number", column=given.column, unit=given.unit, missing=given.missing
            )
            columns[treatment.name] = numbers(reading, number, treatment.unit)
    return pd.DataFrame(columns, index=range(len(reading.table)))


def _named(mapping: TableMapping) -> dict[str, tuple[str, ...]]:
    """Name the source's columns of each thing of the study."""
    named: dict[str, tuple[str, ...]] = {}
    for name, feature in mapping.features.items():
        if isinstance(feature, FlagSource):
            named[name] = feature.any_of
        elif not isinstance(feature, AbsentSource):
            named[name] = (feature.column,)
    for name, marker in mapping.markers.items():
        if marker.column is not None:
            named[name] = (marker.column,)
    for name, treatment in mapping.treatments.items():
        named[name] = (treatment.column,)
    return named
