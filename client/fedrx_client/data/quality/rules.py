"""The rules that a site's data are held against: a pandera schema made from the study, and more.

Every rule gives findings, and changes nothing. A finding holds counts and places, never a cell's
text: what does not fit a column may be a patient's name.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from fedrx_client.data.cells import Reading
from fedrx_client.data.ids import ids_in
from fedrx_client.data.load import LoadResult
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.quality.findings import Finding, Level, first_places
from fedrx_client.data.quality.frames import Frames
from fedrx_client.data.quality.scale import OffBy, PublicReference, off_by
from fedrx_common.errors import DataError, counted
from fedrx_protocol.study.schema import (
    BinaryTarget,
    CategoryFeature,
    ContinuousTarget,
    FeatureSchema,
    FlagFeature,
    NumberFeature,
    SurvivalTarget,
)

MOST_MISSING = 0.5
"""Share without a value above which a number is red: columns or codes are then likely wrong."""

_MISSING_SHOWN = 0.2
_DROPPED_SHOWN = 0.5
_FEWEST_ALIKE = 20
_DRIFT = 1.0  # public standard deviations between two means
_EARLIEST = date(1900, 1, 2)  # 1 January 1900 is what programs write where nothing is known
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ].*)?|(\d{1,2})\.(\d{1,2})\.(\d{4})")
_CELLS_LOOKED_AT = 200  # of a column, to see whether it holds dates
_RULES = {
    "number": ("are not numbers", "correct them, or name the codes in `missing` of the mapping"),
    "range": (
        "are outside the study's range",
        'check the unit, correct them, or set unknown = "missing" for it in the mapping',
    ),
    "code": ("are codes that the mapping does not name", "name them in the mapping"),
}


def schema_of(study: FeatureSchema) -> pa.DataFrameSchema:
    """Make the pandera schema of a patient's row: numbers in their ranges, codes of the study.

    Args:
        study: features, markers, treatments and target.
    """
    columns: dict[str, pa.Column] = {}
    for feature in study.features:
        if isinstance(feature, NumberFeature):
            columns[feature.name] = _number(feature.minimum, feature.maximum)
        elif isinstance(feature, CategoryFeature):
            columns[feature.name] = _codes(*feature.values)  # noqa: PD011 - not pandas
        else:
            columns[feature.name] = _codes(True, False)  # noqa: FBT003 - the codes of a flag
    for marker in study.markers:
        columns[marker.name] = _number(marker.minimum, marker.maximum)
    for treatment in study.treatments:
        if treatment.kind == "amount":
            columns[treatment.name] = _number(0.0, treatment.maximum)
    target = study.target
    if isinstance(target, ContinuousTarget):
        columns[target.name] = _number(target.minimum, target.maximum)
    elif isinstance(target, SurvivalTarget):
        columns[target.name] = _number(0.0, np.inf)
    elif isinstance(target, BinaryTarget):
        columns[target.name] = _codes(True, False)  # noqa: FBT003 - yes and no
    return pa.DataFrameSchema(columns)


def values_that_do_not_fit(frames: Frames, study: FeatureSchema) -> Iterator[Finding]:
    """Find text that is no number, numbers out of range, and codes without a meaning."""
    schema = schema_of(study)
    for frame in frames.every:
        for (column, rule), rows in _failures(frame, schema).items():
            what, remedy = _RULES[rule]
            count, all_of = len(rows), int(frame[column].notna().sum())
            where = first_places(frames.table.unit, frames.places(rows))
            text = f"{count:,} of {all_of:,} values in {_columns(frames, column)} {what} ({where})."
            if column in frames.lenient:
                yield Finding(f"{rule}:{column}", "amber", f"{text} They count as missing.")
            else:
                yield Finding(f"{rule}:{column}", "red", text, f"{remedy[0].upper()}{remedy[1:]}.")


def missing_values(frames: Frames, study: FeatureSchema) -> Iterator[Finding]:
    """Find columns in which much is missing; of markers, those that are never measured."""
    optional = {feature.name for feature in study.features if feature.optional}
    numbers = {one.name for one in study.features if isinstance(one, NumberFeature)}
    flags = {one.name for one in study.features if isinstance(one, FlagFeature)}
    remedy = "Check column and codes in the mapping"
    for name in map(str, frames.patients.columns):
        column = frames.patients[name]
        share = float(column.isna().mean())
        cure = f"{remedy}; a site without it says measured = false" if name in optional else remedy
        text = f"{share:.0%} of {counted(len(column), 'row')} have no value."
        if share > MOST_MISSING and name in numbers:
            yield Finding(f"missing:{name}", "red", text, f"{cure}.")
        elif share > _MISSING_SHOWN and name not in flags:  # for a flag the study has a rule
            yield Finding(f"missing:{name}", "amber", text)
    if frames.visits is None:
        return
    for name in map(str, frames.visits.columns):
        if len(frames.visits) and frames.visits[name].isna().all():
            text = f"None of {counted(len(frames.visits), 'visit')} has a value."
            of = "visits" if name == frames.time else name
            yield Finding(f"missing:{of}", "red", text, f"{remedy}.")


def units_and_drift(
    frames: Frames, references: Mapping[str, PublicReference], whose: str, rule: str
) -> Iterator[Finding]:
    """Hold medians and means against a reference: a wrong unit is red, another population amber.

    Args:
        frames: the columns.
        references: by study name.
        whose: whose reference it is, in words.
        rule: first part of a drift finding's name.
    """
    for frame in frames.every:
        for name in frame.columns.intersection(list(references)):
            reference, values = references[name], finite(frame[name])
            if not len(values):
                continue
            found = off_by(values, reference)
            if found is not None:
                yield _unit_finding(str(name), values, reference, found, whose)
            else:
                yield from _drift(str(name), values, reference, whose, rule)


def duplicates(frames: Frames, mapping: TableMapping) -> Iterator[Finding]:
    """Find patients with two rows, visits at one time, and rows that differ in nothing but ids."""
    table, ids = frames.table, mapping.table.patient
    patients = pd.Series(ids_in(table, ids, mapping.table))
    if frames.visits is None:
        twice = patients.index[patients.duplicated() & (patients != "")]
        if len(twice):
            where = first_places(table.unit, frames.places(twice))
            text = f"{counted(len(twice), 'row')} of patients who have one already ({where})."
            yield Finding("duplicate:patients", "red", text, "Keep one row per patient.")
        known = frames.patients.notna().sum(axis=1) > 1
        alike = frames.patients.index[frames.patients.astype(str).duplicated() & known]
        # Rows of codes alone are alike by chance.
        if len(alike) and any(kind.kind == "f" for kind in frames.patients.dtypes):
            where = first_places(table.unit, frames.places(alike))
            text = f"{counted(len(alike), 'row')} equal another patient's in all ({where})."
            yield Finding("duplicate:rows", "amber", text)
    else:
        visits = mapping.visits
        keys = pd.DataFrame({"patient": patients, "time": frames.visits[frames.time]})
        if visits is not None and visits.episode is not None:
            keys["episode"] = list(table.columns[visits.episode])
        twice = keys.index[keys.duplicated() & keys["time"].notna()]
        if len(twice):
            where = first_places(table.unit, frames.places(twice))
            text = f"{counted(len(twice), 'visit')} at a time that the patient has ({where})."
            yield Finding("duplicate:visits", "red", text, "Keep one row per visit.")


def impossible_dates(frames: Frames, mapping: TableMapping, today: date) -> Iterator[Finding]:
    """Find dates that no calendar has, that are to come, or that stand for "not known".

    Args:
        frames: the columns.
        mapping: how they are written.
        today: after it nothing can have happened.
    """
    reading = Reading(frames.table, mapping.table)
    for column in frames.table.columns:
        cells = [(row, cell) for row, cell in enumerate(reading.cells(column)) if cell]
        matches = [(row, _DATE.fullmatch(cell)) for row, cell in cells]
        looked = [match is not None for _, match in matches[:_CELLS_LOOKED_AT]]
        if column == mapping.table.patient or not looked or sum(looked) < len(looked) / 2:
            continue
        wrong: dict[str, list[int]] = {"not a date": [], "after today": [], "before 1900": []}
        for row, match in matches:
            day = None if match is None else _day(match)
            if day is None:
                wrong["not a date"].append(row)
            elif day > today:
                wrong["after today"].append(row)
            elif day < _EARLIEST:
                wrong["before 1900"].append(row)
        for what, rows in wrong.items():
            if rows:
                level: Level = "amber" if what == "before 1900" else "red"
                where = first_places(frames.table.unit, [frames.table.places[row] for row in rows])
                text = f"{counted(len(rows), 'cell')} of column '{column}' are {what} ({where})."
                remedy = "Correct them, or name them in `missing` of the mapping."
                yield Finding(f"date:{_slug(column)}", level, text, remedy)


def loading(loaded: LoadResult | DataError) -> Iterator[Finding]:
    """Say how reading the cohort went: that it failed, or that much was dropped."""
    if isinstance(loaded, DataError):
        # The rest of the sentence may quote a cell, and with it a patient.
        place = str(loaded).partition(": ")[0]
        text = f"The cohort cannot be loaded; the first complaint is about {place}."
        remedy = "Correct the source or the mapping; `fedrx data cohort` says the whole sentence."
        yield Finding("loading", "red", text, remedy)
        return
    account = loaded.quality
    dropped = sum(account.dropped.values())
    if account.rows_read and dropped > _DROPPED_SHOWN * account.rows_read:
        text = f"{dropped:,} of {counted(account.rows_read, 'row')} are dropped."
        yield Finding("dropped", "amber", text)
    if account.strangers and any(account.strangers.values()):
        names = ", ".join(f"{name} {count:,}" for name, count in account.strangers.items() if count)
        yield Finding("strangers", "amber", f"Rows of patients who are not in the table: {names}.")


def constant_columns(frames: Frames) -> Iterator[Finding]:
    """Find columns with one value only, which teach nothing and may be a default."""
    for frame in frames.every:
        for name in frame.columns:
            known = frame[name].dropna().astype(str)
            if len(known) >= _FEWEST_ALIKE and (known == known.iloc[0]).all():
                text = f"All {len(known):,} values are the same."
                yield Finding(f"constant:{_slug(str(name))}", "amber", text)


def public_references(study: FeatureSchema) -> dict[str, PublicReference]:
    """Return what the study file says of each number, by name."""
    found = {
        one.name: PublicReference(one.unit, one.mean, one.scale)
        for one in study.features
        if isinstance(one, NumberFeature)
    }
    for marker in study.markers:
        log = marker.transform == "log"
        found[marker.name] = PublicReference(marker.unit, marker.mean, marker.scale, log)
    target = study.target
    if isinstance(target, ContinuousTarget) and target.transform != "sqrt":
        log = target.transform == "log"
        found[target.name] = PublicReference(target.unit, target.mean, target.scale, log)
    return found


def finite(column: "pd.Series[Any]") -> np.ndarray[Any, Any]:
    """Return a column's known numbers; none where it holds codes."""
    if column.dtype != float:
        return np.zeros(0)
    values: np.ndarray[Any, Any] = column.to_numpy()
    known: np.ndarray[Any, Any] = values[np.isfinite(values)]
    return known


def _number(minimum: float, maximum: float) -> pa.Column:
    is_number = pa.Check(lambda column: ~np.isinf(column), name="number")
    within = pa.Check(
        lambda column: np.isinf(column) | column.between(minimum, maximum), name="range"
    )
    return pa.Column(float, [is_number, within], nullable=True, required=False)


def _codes(*allowed: str | bool) -> pa.Column:
    return pa.Column(None, pa.Check.isin(list(allowed), name="code"), nullable=True, required=False)


def _failures(
    frame: pd.DataFrame, schema: pa.DataFrameSchema
) -> "dict[tuple[str, str], pd.Index[Any]]":
    """Validate a frame, and return the rows that fail by column and rule."""
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        cases = error.failure_cases
        return {
            (str(column), _rule(str(check))): pd.Index(part["index"].astype(int))
            for (column, check), part in cases.groupby(["column", "check"], sort=False)
        }
    return {}


def _rule(check: str) -> str:
    """Give a pandera check the name of our rule; its own name holds the arguments of some."""
    return next((rule for rule in _RULES if check.startswith(rule)), "code")


def _columns(frames: Frames, name: str) -> str:
    listed = frames.columns.get(name)
    return f"'{name}'" if not listed else " and ".join(f"column '{one}'" for one in listed)


def _unit_finding(
    name: str,
    values: np.ndarray[Any, Any],
    reference: PublicReference,
    found: OffBy,
    whose: str,
) -> Finding:
    expected = f"{reference.centre:.3g} {reference.unit}"
    if found.share < 1:
        text = (
            f"{found.share:.0%} of the values are about {found.factor:.3g} times the others, as "
            f"if they were in {found.unit}."
        )
        return Finding(f"units:{name}", "amber", text)
    text = (
        f"The median is {np.median(values):.3g}, where {whose} is {expected}: a factor of "
        f"{np.median(values) / reference.centre:.3g}, as if it were in {found.unit}."
    )
    return Finding(f"units:{name}", "red", text, "Correct the unit or the column in the mapping.")


def _drift(
    name: str,
    values: np.ndarray[Any, Any],
    reference: PublicReference,
    whose: str,
    rule: str,
) -> Iterator[Finding]:
    shown = np.log(values[values > 0]) if reference.log else values
    if not len(shown):
        return
    distance = (float(shown.mean()) - reference.mean) / reference.scale
    if abs(distance) > _DRIFT:
        of = "The logarithm's mean" if reference.log else "The mean"
        text = (
            f"{of} is {shown.mean():.3g}, where {whose} is {reference.mean:.3g}: "
            f"{abs(distance):.1f} standard deviations {'above' if distance > 0 else 'below'}."
        )
        yield Finding(f"{rule}:{name}", "amber", text)


def _day(match: "re.Match[str]") -> date | None:
    parts = match.groups()
    year, month, day = parts[:3] if parts[0] else parts[:2:-1]
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None


def _slug(text: str) -> str:
    """Write a column's name as part of a finding's name."""
    plain = re.sub(r"[^a-z0-9_]+", "_", text.lower()).strip("_")
    return plain if plain[:1].isalpha() else f"column_{plain}".rstrip("_")
