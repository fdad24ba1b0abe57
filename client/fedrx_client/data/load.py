"""Turns a source into cohorts: parses once at the edge, so that nothing further in has to check."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.cells import Reading
from fedrx_client.data.columns import Parsed, impute, read_categories, read_flags, read_numbers
from fedrx_client.data.courses import read_courses
from fedrx_client.data.ids import ids_in, refuse_similar, rows_beside
from fedrx_client.data.mapping import (
    CategorySource,
    FeatureSource,
    FlagSource,
    NumberSource,
    TableMapping,
)
from fedrx_client.data.omics import read_blocks
from fedrx_client.data.outcomes import limits_of, outcome_table, read_outcomes
from fedrx_client.data.quality.account import DataQuality
from fedrx_client.data.readers.read import read_source
from fedrx_client.data.readers.source import Source
from fedrx_client.data.readers.tables import read_table
from fedrx_client.data.sites import (
    SitesOf,
    column_partition,
    iid_partition,
    kept_rows,
    left_out,
    natural,
    the_one,
)
from fedrx_client.data.sources import AbsentSource, TargetSource
from fedrx_client.data.table import Table, rows_by_key
from fedrx_common.errors import DataError
from fedrx_models.cohort.cohort import MISSING_CATEGORY, Cohort, placeholder_outcomes
from fedrx_protocol.study.schema import (
    CategoryFeature,
    Feature,
    FeatureSchema,
    FlagFeature,
    NumberFeature,
    PanelTarget,
)


@dataclass(frozen=True, eq=False)
class LoadResult:
    """Cohorts by site, in order, and the account of every row."""

    cohorts: dict[str, Cohort]
    quality: DataQuality

    @property
    def cohort(self) -> Cohort:
        """The cohort, where there is one site only.

        Raises:
            DataError: if there are several.
        """
        if len(self.cohorts) != 1:
            raise DataError(f"{self.quality.source} holds {len(self.cohorts)} sites, not one.")
        return next(iter(self.cohorts.values()))


def load_cohort(
    source: Source | Path | str, mapping: TableMapping, schema: FeatureSchema, *, site: str
) -> LoadResult:
    """Read one site's patients.

    Args:
        source: a file, a folder, a database or a FHIR server; a text is parsed as one.
        mapping: how its columns become features.
        schema: the study's features and target.
        site: the site's name.

    Raises:
        DataError: naming file, line and column, if anything in it cannot be used.
    """
    return _load(source, mapping, schema, the_one(site))


def load_split(
    source: Source | Path | str, mapping: TableMapping, schema: FeatureSchema, *, split_by: str
) -> LoadResult:
    """Read a table of several sites, as a simulation does; `split_by` names the site's column.

    Sites come in natural order ("2" before "10").

    Raises:
        DataError: as `load_cohort`, and where a row has no site.
    """
    return _load(source, mapping, schema, column_partition(split_by, mapping), split_by)


def load_dealt(
    source: Source | Path | str, mapping: TableMapping, schema: FeatureSchema, *, sites: int
) -> LoadResult:
    """Read a table that names no site and deal its patients out to some, as a simulation does.

    Raises:
        DataError: as `load_cohort`, and where there are fewer patients than sites.
    """
    return _load(source, mapping, schema, iid_partition(sites, mapping))


def load_unlabelled(
    given: Source | Path | str, mapping: TableMapping, schema: FeatureSchema, *, site: str
) -> LoadResult:
    """Read patients to predict for: whatever the source says of their outcomes is not looked at.

    Of a course one visit is enough. Outcomes in the cohort are placeholders, or what follows from
    the visits.

    Raises:
        DataError: as `load_cohort`.
    """
    mapping = without_outcome(mapping)
    source = given if isinstance(given, Source) else Source.parse(given)
    whole = read_source(source, mapping, mapping.named_columns)
    return load_table(whole, mapping, schema, site=site, source=source)


def load_table(
    table: Table, mapping: TableMapping, schema: FeatureSchema, *, site: str, source: Source
) -> LoadResult:
    """Load patients to predict for, of a table that is in memory; see `load_unlabelled`.

    Args:
        table: the patients.
        mapping: how its columns become features.
        schema: the study's features.
        site: the site's name.
        source: beside which the files are that the mapping names.
    """
    mapping = without_outcome(mapping)
    mapping.check_inputs(schema)
    table.require(mapping.named_columns)
    load = _load_rows if mapping.visits is None else _load_courses
    cohorts, quality, _ = load(table, source, mapping, schema, the_one(site), labelled=False)
    return LoadResult(cohorts, replace(quality, absent=mapping.absent))


def without_outcome(mapping: TableMapping) -> TableMapping:
    """Return a mapping that names no outcome."""
    return mapping.model_copy(update={"target": TargetSource()})


def _load(
    given: Source | Path | str,
    mapping: TableMapping,
    schema: FeatureSchema,
    sites_of: SitesOf,
    split_by: str | None = None,
) -> LoadResult:
    mapping.check_against(schema)
    source = given if isinstance(given, Source) else Source.parse(given)
    # All columns that are read from the table, and no others.
    needed = [*mapping.named_columns, *([] if split_by is None else [split_by])]
    wanted = set(needed)
    if isinstance(schema.target, PanelTarget) and mapping.target.file is None:
        wanted |= set(mapping.target.panel_columns(schema.target))
    whole = read_source(source, mapping, wanted)
    whole.require(tuple(needed))
    load = _load_rows if mapping.visits is None else _load_courses
    cohorts, quality, reasons = load(whole, source, mapping, schema, sites_of)
    lost: tuple[str, ...] = ()
    if split_by is not None:
        lost = left_out(Reading(whole, mapping.table), split_by, reasons, cohorts)
    notes = (*whole.notes, *quality.notes, *lost)
    return LoadResult(cohorts, replace(quality, absent=mapping.absent, notes=notes))


_Loaded = tuple[dict[str, Cohort], DataQuality, list[str | None]]
"""Cohorts by site, the account, and row by row of the whole table why a filter dropped it."""


def _load_rows(
    whole: Table,
    source: Source,
    mapping: TableMapping,
    schema: FeatureSchema,
    sites_of: SitesOf,
    *,
    labelled: bool = True,
) -> _Loaded:
    """Load a table with a row for each patient."""
    outcomes = outcome_table(whole, mapping, schema, source) if labelled else None
    recorded = [True] * len(whole) if outcomes is None else outcomes.recorded
    kept = kept_rows(Reading(whole, mapping.table), mapping, recorded)
    table = whole.select(kept.rows)
    sites, patients = _whose(table, mapping, sites_of)
    # A patient counts once, whatever the number of rows: privacy is promised per patient.
    rows_by_key(table, mapping.table.patient, list(zip(sites, patients, strict=True)))
    if mapping.blocks or mapping.target.file is not None:
        _require_own_ids(patients, mapping)
    features = _read_features(Reading(table, mapping.table), mapping, schema)
    blocks = read_blocks(patients, whole, mapping, schema, source)
    if outcomes is None:
        target = placeholder_outcomes(schema.target, len(table))
    else:
        reading = Reading(outcomes.select(kept.rows), mapping.table)
        target = read_outcomes(reading, mapping, schema.target)
    content = _Content(values=features.values, blocks=blocks.values, target=target)
    lacking = {
        f"block {name}": int(np.isnan(values).all(axis=1).sum())
        for name, values in blocks.values.items()
        if mapping.blocks[name].measured
    }
    quality = DataQuality(
        source=whole.source,
        rows_read=len(whole),
        rows_kept=len(table),
        dropped=kept.dropped,
        missing={**features.missing, **lacking},
        imputed=features.imputed,
        unknown=features.unknown,
        strangers=blocks.strangers,
        notes=(*(outcomes.notes if outcomes else ()), *features.notes, *blocks.notes),
    )
    return _cohorts(schema, sites, patients, content), quality, kept.reasons


def _load_courses(
    whole: Table,
    source: Source,
    mapping: TableMapping,
    schema: FeatureSchema,
    sites_of: SitesOf,
    *,
    labelled: bool = True,
) -> _Loaded:
    """Load a table with a row for each visit."""
    visits = mapping.visits
    if visits is None:
        raise DataError(f"{mapping.source}: section 'visits' is missing.")
    has_outcome = [True] * len(whole)  # outcomes follow from the visits
    kept = kept_rows(Reading(whole, mapping.table), mapping, has_outcome)
    table = whole.select(kept.rows)
    keys = list(zip(*_whose(table, mapping, sites_of), strict=True))
    reading = Reading(table, mapping.table)
    courses = read_courses(reading, mapping, visits, schema, keys, labelled=labelled)
    sites = [keys[row][0] for row in courses.first_rows]
    patients = [keys[row][1] for row in courses.first_rows]
    once = table.select(courses.first_rows)
    if visits.features is not None and visits.patient is not None:
        _require_own_ids(patients, mapping)
        columns = (visits.patient, *mapping.feature_columns)
        beside = read_table(source.beside(visits.features), mapping.table, columns)
        beside.require(columns)
        rows = rows_beside(beside, visits.patient, mapping.table, once, patients)
        for row, patient in enumerate(patients):
            if patient not in rows:
                raise DataError(
                    f"{once.where(row, mapping.table.patient)}: patient {patient!r} has no row in "
                    f"{beside.source}; add one."
                )
        once = beside.select([rows[patient] for patient in patients])
    features = _read_features(Reading(once, mapping.table), mapping, schema)
    content = _Content(
        values=features.values,
        blocks={},
        target=courses.outcomes,
        visits=courses.visits,
    )
    quality = DataQuality(
        source=whole.source,
        rows_read=len(whole),
        rows_kept=courses.kept,
        dropped={**kept.dropped, **courses.dropped},
        missing=courses.missing,
        imputed=features.imputed,
        unknown={**features.unknown, **courses.unknown},
        notes=(*features.notes, *courses.notes),
    )
    return _cohorts(schema, sites, patients, content), quality, kept.reasons


def _require_own_ids(patients: list[str], mapping: TableMapping) -> None:
    """Refuse an id that patients of two sites share, as rows of another file are found by it."""
    if len(set(patients)) != len(patients):
        raise DataError(
            f"{mapping.source}: patients of two sites have the same id, so that a row of another "
            "file could belong to either; make ids unique over all sites."
        )


@dataclass(frozen=True, eq=False)
class _Features:
    """Typed columns by feature, and the counts for the account."""

    values: dict[str, NDArray[Any]]
    missing: dict[str, int]
    imputed: dict[str, int]
    unknown: dict[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Content:
    """What cohorts hold, of all sites together."""

    values: dict[str, NDArray[Any]]
    target: NDArray[np.float64]
    blocks: dict[str, NDArray[np.float64]]
    visits: NDArray[np.float64] | None = None


def _whose(table: Table, mapping: TableMapping, sites_of: SitesOf) -> tuple[list[str], list[str]]:
    """Return site and patient of each row."""
    sites, column = sites_of(table), mapping.table.patient
    reading = Reading(table, mapping.table)
    for row, patient in enumerate(reading.cells(column)):
        if patient is None:
            why = reading.absence(row, column)
            raise DataError(f"{table.where(row, column)}: the patient has no id{why}.")
    refuse_similar(table, column, mapping.table, sites)
    return sites, list(ids_in(table, column, mapping.table))


def _read_features(reading: Reading, mapping: TableMapping, schema: FeatureSchema) -> _Features:
    """Read all features of the study, fill in what a rule can, and count what happened."""
    features = {feature.name: feature for feature in schema.features}
    parsed = {
        name: _parse(reading, name, source, features.get(name))
        for name, source in mapping.features.items()
        if name in features or isinstance(source, CategorySource)
    }
    # Conditions look at what was recorded; the first rule that fits fills a value in.
    recorded = {
        name: parsed[name].values.copy()
        for name, source in mapping.features.items()
        if isinstance(source, CategorySource)
    }
    imputed = {
        f"{name} by {rule.name}": int(impute(reading, rule, parsed[name].values, recorded).sum())
        for name, rule in mapping.imputations
    }
    values, missing, unknown = {}, dict[str, int](), dict[str, int]()
    for name, feature in features.items():
        column, measured = parsed[name].values, mapping.features[name].measured
        if measured:
            none = [v is None for v in column] if column.dtype == object else np.isnan(column)
            missing[name], unknown[name] = int(np.sum(none)), parsed[name].unknown
        if isinstance(feature, CategoryFeature):
            codes = {value: code for code, value in enumerate(feature.values)}
            column = np.array([codes.get(v, MISSING_CATEGORY) for v in column], dtype=np.int16)
        elif isinstance(feature, FlagFeature) and measured:
            resolved = [feature.missing_is if value is None else value for value in column]
            column = np.array(resolved, dtype=np.bool_)
        elif isinstance(feature, FlagFeature):
            column = np.full(len(column), MISSING_CATEGORY, dtype=np.int16)
        values[name] = column
    notes = tuple(note for name in features for note in parsed[name].notes)
    return _Features(values, missing, imputed, unknown, notes)


def _parse(reading: Reading, name: str, source: FeatureSource, feature: Feature | None) -> Parsed:
    """Read one feature's column; `feature` is `None` for a category that only conditions use."""
    if isinstance(source, AbsentSource):
        number = isinstance(feature, NumberFeature)
        nothing: Any = np.nan if number else None
        return Parsed(np.full(len(reading.table), nothing, float if number else object))
    if isinstance(source, NumberSource) and isinstance(feature, NumberFeature):
        return read_numbers(reading, source, limits_of(source.unit, feature, source.analyte))
    if isinstance(source, CategorySource):
        allowed = feature.values if isinstance(feature, CategoryFeature) else None
        return read_categories(reading, source, allowed, name)
    if isinstance(source, FlagSource):
        return read_flags(reading, source)
    raise DataError(f"a {source.kind} column cannot be read without its feature.")


def _cohorts(
    schema: FeatureSchema, sites: list[str], patients: list[str], content: _Content
) -> dict[str, Cohort]:
    by_site = np.array(sites)
    cohorts = {}
    for site in sorted(set(sites), key=natural):
        rows = np.flatnonzero(by_site == site)
        cohorts[site] = Cohort(
            site=site,
            schema=schema,
            patients=tuple(patients[i] for i in rows),
            values={name: column[rows] for name, column in content.values.items()},
            target=content.target[rows],
            blocks={name: block[rows] for name, block in content.blocks.items()},
            visits=np.zeros((0, 0, 0)) if content.visits is None else content.visits[rows],
        )
    return cohorts
