"""From a table with a row for each visit to each patient's course, checked on the way."""

from collections import Counter
from dataclasses import dataclass
from itertools import compress, pairwise

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.cells import Reading
from fedrx_client.data.columns import NumberRange, Parsed, read_flags, read_numbers
from fedrx_client.data.course_sources import VisitsSource
from fedrx_client.data.mapping import FlagSource, NumberSource, TableMapping
from fedrx_common.errors import DataError
from fedrx_models.cohort.visits import (
    EPISODE,
    FIRST_VALUE,
    TIME,
    Courses,
    visit_width,
    visits_section,
)
from fedrx_protocol.study.schema import FeatureSchema, Marker, Treatment

Floats = NDArray[np.float64]

# Neither a time nor a treatment may be missing, so that no key of the mapping says so.
_OF_TIME = "correct it"
_OF_TREATMENT = "correct it, or the unit or codes that the mapping says of this treatment"
_SHORT = "visits of patients with nothing to forecast"


@dataclass(frozen=True, eq=False)
class CourseTable:
    """Courses of all patients of a table, of one site or several.

    Attributes:
        first_rows: each patient's first row; which says the site and, it may be, the features.
        visits: `(patients, T, ...)`, as a `Cohort` holds them.
        outcomes: `(patients, T, H, M, 2)`, as a `Cohort` holds them.
        kept: number of visits kept.
        dropped: by reason, visits that were not.
        missing: by marker, visits kept without a value.
        unknown: by marker, values that were not understood and count as missing.
        notes: sentences on what may be read otherwise than it was meant.
    """

    first_rows: list[int]
    visits: Floats
    outcomes: Floats
    kept: int
    dropped: dict[str, int]
    missing: dict[str, int]
    unknown: dict[str, int]
    notes: tuple[str, ...]


def read_courses(
    reading: Reading,
    mapping: TableMapping,
    source: VisitsSource,
    schema: FeatureSchema,
    keys: list[tuple[str, str]],
) -> CourseTable:
    """Read all visits.

    Args:
        reading: the table.
        mapping: which columns they are in; checked against the study.
        source: the mapping's section of visits.
        schema: the study's visits, markers and treatments.
        keys: the site and patient of each row.

    Raises:
        DataError: naming line and column, if a time is missing, out of order or doubled, a value
            cannot be, or a patient has nothing to forecast and the mapping does not drop those.
    """
    rows, unknown, notes = _rows(reading, mapping, source, schema)
    rows[:, EPISODE] = _episodes(reading, source, keys)
    patients = _by_patient(keys)
    _check_order(reading, source, rows, patients)
    visits, early = _padded(rows, patients, visits_section(schema).most)
    outcomes = Courses(schema, visits).outcomes()
    useful = (~np.isnan(outcomes[..., 0])).sum(axis=(1, 2, 3)) > 0
    if not useful.any():
        raise DataError(
            f"{reading.table.source}: no patient has a marker at two visits that a horizon of "
            "the study joins; bring longer follow-up, or a study with other horizons."
        )
    if source.short == "error":
        _check_length(reading, mapping, patients, keys, useful)
    dropped: Counter[str] = Counter({"visits before the newest ones": early})
    there = ~np.isnan(visits[:, :, TIME])
    dropped[_SHORT] = int(there[~useful].sum())
    kept, there = visits[useful], there[useful]
    return CourseTable(
        first_rows=[own[0] for own in compress(patients, useful)],
        visits=kept,
        outcomes=outcomes[useful],
        kept=int(there.sum()),
        dropped=dict(dropped),
        missing={
            marker.name: int(np.isnan(kept[:, :, FIRST_VALUE + m])[there].sum())
            for m, marker in enumerate(schema.markers)
        },
        unknown=unknown,
        notes=notes,
    )


def _rows(
    reading: Reading, mapping: TableMapping, source: VisitsSource, schema: FeatureSchema
) -> tuple[Floats, dict[str, int], tuple[str, ...]]:
    """All rows as a `Cohort` holds a visit, `(rows, ...)`, without episodes; values not known."""
    found = np.full((len(reading.table), visit_width(schema)), np.nan)
    found[:, TIME] = _times(reading, source, schema)
    unknown, notes = {}, list[str]()
    for i, marker in enumerate(schema.markers):
        parsed = _marker(reading, mapping, marker)
        found[:, FIRST_VALUE + i], unknown[marker.name] = parsed.values, parsed.unknown
        notes += parsed.notes
    start = FIRST_VALUE + len(schema.markers)
    for i, treatment in enumerate(schema.treatments):
        found[:, start + i] = _treatment(reading, mapping, treatment)
    return found, unknown, tuple(notes)


def _times(reading: Reading, source: VisitsSource, schema: FeatureSchema) -> Floats:
    unit = visits_section(schema).time_unit
    column = NumberSource(kind="number", column=source.time, unit=source.unit)
    limits = NumberRange.of(source.unit, unit, -1e9, 1e9)
    values = read_numbers(reading, column, limits, _OF_TIME).values
    for row in np.flatnonzero(np.isnan(values)).tolist():
        why = reading.absence(row, source.time)
        raise DataError(f"{reading.table.where(row, source.time)}: the visit has no time{why}.")
    return values


def _marker(reading: Reading, mapping: TableMapping, marker: Marker) -> Parsed:
    """A marker's values, NaN where not measured."""
    source = mapping.markers[marker.name]
    if source.column is None or not source.measured:
        return Parsed(np.full(len(reading.table), np.nan))
    column = NumberSource(
        kind="number",
        column=source.column,
        unit=source.unit,
        missing=source.missing,
        unknown=source.unknown,
    )
    limits = NumberRange.of(source.unit, marker.unit, marker.minimum, marker.maximum)
    return read_numbers(reading, column, limits)


def _treatment(reading: Reading, mapping: TableMapping, treatment: Treatment) -> Floats:
    """What was given, 0 where nothing is recorded."""
    source = mapping.treatments[treatment.name]
    if treatment.kind == "flag":
        column = FlagSource(
            kind="flag",
            any_of=(source.column,),
            yes=source.yes,
            no=source.no,
            missing=source.missing,
        )
        given = read_flags(reading, column, _OF_TREATMENT).values
        return np.array([float(bool(value)) for value in given])
    amount = NumberSource(
        kind="number", column=source.column, unit=source.unit, missing=source.missing
    )
    limits = NumberRange.of(source.unit, treatment.unit, 0.0, treatment.maximum)
    values: Floats = read_numbers(reading, amount, limits, _OF_TREATMENT).values
    return np.where(np.isnan(values), 0.0, values)


def _episodes(
    reading: Reading, source: VisitsSource, keys: list[tuple[str, str]]
) -> NDArray[np.float64]:
    """Each row's episode, numbered from 0 as they come in a patient's rows."""
    if source.episode is None:
        return np.zeros(len(keys))
    known: dict[tuple[str, str], dict[str, int]] = {}
    found = np.zeros(len(keys))
    for row, (key, cell) in enumerate(zip(keys, reading.cells(source.episode), strict=True)):
        if cell is None:
            raise DataError(
                f"{reading.table.where(row, source.episode)}: the visit belongs to no episode"
                f"{reading.absence(row, source.episode)}."
            )
        numbers = known.setdefault(key, {})
        found[row] = numbers.setdefault(reading.key(cell), len(numbers))
    return found


def _by_patient(keys: list[tuple[str, str]]) -> list[list[int]]:
    """The rows of each patient, patients as they come."""
    found: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(keys):
        found.setdefault(key, []).append(row)
    return list(found.values())


def _check_order(
    reading: Reading, source: VisitsSource, rows: Floats, patients: list[list[int]]
) -> None:
    table, shown = reading.table, reading.table.columns[source.time]
    for own in patients:
        for before, row in pairwise(own):
            step = rows[row] - rows[before]
            if step[EPISODE] < 0:
                raise DataError(
                    f"{table.where(row, source.episode or source.time)}: the episode goes on after "
                    "another has begun; keep the visits of an episode together."
                )
            if step[EPISODE] > 0 or step[TIME] > 0:
                continue
            if step[TIME] == 0:
                raise DataError(
                    f"{table.where(row, source.time)}: the patient's visit at {shown[row]} is "
                    f"already on {table.unit} {table.places[before]}; keep one row per visit."
                )
            raise DataError(
                f"{table.where(row, source.time)}: a visit at {shown[row]} stands after one at "
                f"{shown[before]}; sort each patient's visits by time."
            )


def _padded(rows: Floats, patients: list[list[int]], most: int) -> tuple[Floats, int]:
    """Visits patient by patient, the newest ones, and how many were older."""
    found = np.full((len(patients), most, rows.shape[1]), np.nan)
    early = 0
    for i, own in enumerate(patients):
        newest = own[-most:]
        early += len(own) - len(newest)
        found[i, : len(newest)] = rows[newest]
    return found, early


def _check_length(
    reading: Reading,
    mapping: TableMapping,
    patients: list[list[int]],
    keys: list[tuple[str, str]],
    useful: NDArray[np.bool_],
) -> None:
    """Refuse a patient of whom nothing can be forecast; says what to do."""
    for i in np.flatnonzero(~useful).tolist():
        own = patients[i]
        has = (
            "one visit only"
            if len(own) == 1
            else f"{len(own)} visits, but no marker of the target at two that a horizon joins"
        )
        raise DataError(
            f"{reading.table.where(own[-1], mapping.table.patient)}: patient {keys[own[0]][1]!r} "
            f"has {has}, so that nothing can be forecast; bring later visits, or set visits.short "
            '= "drop" in the mapping.'
        )
