"""Turns a table with a row for each visit into each patient's course, and checks it."""

from dataclasses import dataclass
from itertools import compress, pairwise

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.cells import Reading
from fedrx_client.data.columns import NumberRange, read_flags, read_numbers
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
from fedrx_protocol.study.schema import FeatureSchema, Treatment

Floats = NDArray[np.float64]

# Neither a time nor a treatment may be missing, so the mapping has no key for it.
_OF_TIME = "correct it"
_OF_TREATMENT = "correct it, or the unit or codes that the mapping says of this treatment"
_SHORT = "visits of patients with nothing to forecast"


@dataclass(frozen=True, eq=False)
class CourseTable:
    """Courses of all patients of a table, of one site or several.

    Attributes:
        first_rows: each patient's first row, which names the site and may hold the features.
        visits: `(patients, T, ...)`, as a `Cohort` holds them.
        outcomes: `(patients, T, H, M, 2)`, as a `Cohort` holds them.
        kept: number of visits kept.
        dropped: by reason, visits that were not.
        missing: by marker, visits kept without a value.
        unknown: by marker, values that were not understood and count as missing.
        notes: sentences on values whose reading may not be what was meant.
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
    *,
    labelled: bool = True,
) -> CourseTable:
    """Read all visits.

    Args:
        reading: the table.
        mapping: which columns they are in; checked against the study.
        source: the mapping's section of visits.
        schema: the study's visits, markers and treatments.
        keys: the site and patient of each row.
        labelled: whether a patient needs something that can be forecast and judged.

    Raises:
        DataError: naming line and column, if a time is missing, out of order or doubled, a value
            is impossible, or a patient has nothing to forecast and the mapping does not drop those.
    """
    rows, unknown, notes = _rows(reading, mapping, source, schema, keys)
    rows_of: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(keys):
        rows_of.setdefault(key, []).append(row)
    _check_order(reading, source, rows, list(rows_of.values()))
    most = visits_section(schema).most
    visits, early = np.full((len(rows_of), most, rows.shape[1]), np.nan), 0
    for i, own in enumerate(rows_of.values()):
        newest = own[-most:]
        early += len(own) - len(newest)
        visits[i, : len(newest)] = rows[newest]
    outcomes = Courses(schema, visits).outcomes()
    useful = (~np.isnan(outcomes[..., 0])).sum(axis=(1, 2, 3)) > 0
    useful |= not labelled
    if not useful.any():
        raise DataError(
            f"{reading.table.source}: no patient has a marker at two visits that a horizon of "
            "the study joins; bring longer follow-up, or a study with other horizons."
        )
    if source.short == "error":
        for (_, patient), own in compress(rows_of.items(), ~useful):
            has = (
                "one visit only"
                if len(own) == 1
                else f"{len(own)} visits, but no marker of the target at two that a horizon joins"
            )
            raise DataError(
                f"{reading.table.where(own[-1], mapping.table.patient)}: patient {patient!r} has "
                f"{has}, so that nothing can be forecast; bring later visits, or set visits.short "
                '= "drop" in the mapping.'
            )
    there = ~np.isnan(visits[:, :, TIME])
    dropped = {"visits before the newest ones": early, _SHORT: int(there[~useful].sum())}
    kept, there = visits[useful], there[useful]
    return CourseTable(
        first_rows=[own[0] for own in compress(rows_of.values(), useful)],
        visits=kept,
        outcomes=outcomes[useful],
        kept=int(there.sum()),
        dropped=dropped,
        missing={
            marker.name: int(np.isnan(kept[:, :, FIRST_VALUE + m])[there].sum())
            for m, marker in enumerate(schema.markers)
        },
        unknown=unknown,
        notes=notes,
    )


def _rows(
    reading: Reading,
    mapping: TableMapping,
    source: VisitsSource,
    schema: FeatureSchema,
    keys: list[tuple[str, str]],
) -> tuple[Floats, dict[str, int], tuple[str, ...]]:
    """Read all rows as a `Cohort` holds a visit, `(rows, ...)`; count unknown values by marker."""
    found = np.full((len(reading.table), visit_width(schema)), np.nan)
    times = NumberSource(kind="number", column=source.time, unit=source.unit)
    limits = NumberRange.of(source.unit, visits_section(schema).time_unit, -1e9, 1e9)
    found[:, TIME] = read_numbers(reading, times, limits, _OF_TIME).values
    for row in np.flatnonzero(np.isnan(found[:, TIME])).tolist():
        why = reading.absence(row, source.time)
        raise DataError(f"{reading.table.where(row, source.time)}: the visit has no time{why}.")

    unknown, notes = dict.fromkeys((m.name for m in schema.markers), 0), list[str]()
    for i, marker in enumerate(schema.markers):
        one = mapping.markers[marker.name]
        if one.column is None or not one.measured:
            continue
        values = NumberSource(
            kind="number",
            column=one.column,
            unit=one.unit,
            missing=one.missing,
            censored=one.censored,
            unknown=one.unknown,
        )
        limits = NumberRange.of(one.unit, marker.unit, marker.minimum, marker.maximum, one.analyte)
        parsed = read_numbers(reading, values, limits)
        found[:, FIRST_VALUE + i], unknown[marker.name] = parsed.values, parsed.unknown
        notes += parsed.notes

    start = FIRST_VALUE + len(schema.markers)
    for i, treatment in enumerate(schema.treatments):
        found[:, start + i] = _treatment(reading, mapping, treatment)

    found[:, EPISODE] = 0.0
    if source.episode is not None:
        known: dict[tuple[str, str], dict[str, int]] = {}
        for row, (key, cell) in enumerate(zip(keys, reading.cells(source.episode), strict=True)):
            if cell is None:
                why = reading.absence(row, source.episode)
                where = reading.table.where(row, source.episode)
                raise DataError(f"{where}: the visit belongs to no episode{why}.")
            # Episodes are numbered as they come in a patient's rows.
            numbers = known.setdefault(key, {})
            found[row, EPISODE] = numbers.setdefault(reading.key(cell), len(numbers))
    return found, unknown, tuple(notes)


def _treatment(reading: Reading, mapping: TableMapping, treatment: Treatment) -> Floats:
    """Read what was given, 0 where nothing is recorded."""
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
