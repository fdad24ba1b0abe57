"""From a file to cohorts: parse once at the edge, so that nothing further in has to check."""

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
from fedrx_client.data.quality import DataQuality
from fedrx_client.data.sites import (
    SitesOf,
    column_partition,
    iid_partition,
    kept_rows,
    left_out,
    natural,
    the_one,
)
from fedrx_client.data.sources import AbsentSource
from fedrx_client.data.table import Table, joined, read_table, rows_by_key
from fedrx_common.errors import DataError
from fedrx_models.cohort.cohort import MISSING_CATEGORY, Cohort
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
    path: Path | str, mapping: TableMapping, schema: FeatureSchema, *, site: str
) -> LoadResult:
    """Read one site's table.

    Args:
        path: a CSV or Parquet file.
        mapping: how its columns become features.
        schema: the study's features and target.
        site: the site's name.

    Raises:
        DataError: naming file, line and column, if anything in it cannot be used.
    """
    return _load(path, mapping, schema, the_one(site))


def load_split(
    path: Path | str, mapping: TableMapping, schema: FeatureSchema, *, split_by: str
) -> LoadResult:
    """Read a table of several sites, as a simulation does; `split_by` names the site's column.

    Sites come in natural order ("2" before "10").

    Raises:
        DataError: as `load_cohort`, and where a row has no site.
    """
    return _load(path, mapping, schema, column_partition(split_by, mapping), split_by)


def load_dealt(
    path: Path | str, mapping: TableMapping, schema: FeatureSchema, *, sites: int
) -> LoadResult:
    """Read a table that names no site and deal its patients out to some, as a simulation does.

    Raises:
        DataError: as `load_cohort`, and where there are fewer patients than sites.
    """
    return _load(path, mapping, schema, iid_partition(sites, mapping))


def _load(
    path: Path | str,
    mapping: TableMapping,
    schema: FeatureSchema,
    sites_of: SitesOf,
    split_by: str | None = None,
) -> LoadResult:
    mapping.check_against(schema)
    whole, folder = _main_table(Path(path), mapping, schema, split_by), Path(path).parent
    load = _load_rows if mapping.visits is None else _load_courses
    cohorts, quality, reasons = load(whole, folder, mapping, schema, sites_of)
    lost: tuple[str, ...] = ()
    if split_by is not None:
        lost = left_out(Reading(whole, mapping.table), split_by, reasons, cohorts)
    notes = (*quality.notes, *lost)
    return LoadResult(cohorts, replace(quality, absent=mapping.absent, notes=notes))


def _main_table(
    path: Path, mapping: TableMapping, schema: FeatureSchema, split_by: str | None
) -> Table:
    """The table with all columns that are read from it, and no others."""
    needed = [*mapping.columns, *([] if split_by is None else [split_by])]
    wanted = set(needed)
    if isinstance(schema.target, PanelTarget) and mapping.target.file is None:
        wanted |= set(mapping.target.panel_columns(schema.target))
    if mapping.join is None:
        whole = read_table(path, mapping.table, wanted)
    else:
        file, by = path.parent / mapping.join.file, mapping.join.by
        one, other = (read_table(p, mapping.table, wanted | {by}) for p in (path, file))
        whole = joined(one, other, by)
    whole.require(tuple(needed))
    return whole


_Loaded = tuple[dict[str, Cohort], DataQuality, list[str | None]]
"""Cohorts by site, the account, and row by row of the whole table why a filter dropped it."""


def _load_rows(
    whole: Table,
    folder: Path,
    mapping: TableMapping,
    schema: FeatureSchema,
    sites_of: SitesOf,
) -> _Loaded:
    """A table with a row for each patient."""
    outcomes = outcome_table(whole, mapping, schema, folder)
    kept = kept_rows(Reading(whole, mapping.table), mapping, outcomes.recorded)
    table = whole.select(kept.rows)
    sites, patients = _whose(table, mapping, sites_of)
    # A patient counts once, whatever the number of rows: privacy is promised per patient.
    rows_by_key(table, mapping.table.patient, list(zip(sites, patients, strict=True)))
    if mapping.blocks or mapping.target.file is not None:
        _require_own_ids(patients, mapping)
    features = _read_features(Reading(table, mapping.table), mapping, schema)
    blocks = read_blocks(patients, whole, mapping, schema, folder)
    recorded = Reading(outcomes.select(kept.rows), mapping.table)
    content = _Content(
        values=features.values,
        blocks=blocks.values,
        target=read_outcomes(recorded, mapping, schema.target),
    )
    quality = DataQuality(
        source=whole.source,
        rows_read=len(whole),
        rows_kept=len(table),
        dropped=kept.dropped,
        missing={**features.missing, **_without(content.blocks, mapping)},
        imputed=features.imputed,
        unknown=features.unknown,
        strangers=blocks.strangers,
        notes=(*outcomes.notes, *features.notes, *blocks.notes),
    )
    return _cohorts(schema, sites, patients, content), quality, kept.reasons


def _load_courses(
    whole: Table,
    folder: Path,
    mapping: TableMapping,
    schema: FeatureSchema,
    sites_of: SitesOf,
) -> _Loaded:
    """A table with a row for each visit."""
    if mapping.visits is None:
        raise DataError(f"{mapping.source}: section 'visits' is missing.")
    has_outcome = [True] * len(whole)  # outcomes follow from the visits
    kept = kept_rows(Reading(whole, mapping.table), mapping, has_outcome)
    table = whole.select(kept.rows)
    keys = list(zip(*_whose(table, mapping, sites_of), strict=True))
    reading = Reading(table, mapping.table)
    courses = read_courses(reading, mapping, mapping.visits, schema, keys)
    sites, patients = zip(*(keys[row] for row in courses.first_rows), strict=True)
    once = _once_a_patient(table.select(courses.first_rows), list(patients), mapping, folder)
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
    return _cohorts(schema, list(sites), list(patients), content), quality, kept.reasons


def _once_a_patient(
    first: Table, patients: list[str], mapping: TableMapping, folder: Path
) -> Table:
    """The table of features: a file of its own, or the first rows of the visits."""
    visits = mapping.visits
    if visits is None or visits.features is None or visits.patient is None:
        return first
    _require_own_ids(patients, mapping)
    columns = (visits.patient, *mapping.feature_columns)
    table = read_table(folder / visits.features, mapping.table, columns)
    table.require(columns)
    rows = rows_beside(table, visits.patient, mapping.table, first, patients)
    for row, patient in enumerate(patients):
        if patient not in rows:
            raise DataError(
                f"{first.where(row, mapping.table.patient)}: patient {patient!r} has no row in "
                f"{table.source}; add one."
            )
    return table.select([rows[patient] for patient in patients])


def _require_own_ids(patients: list[str], mapping: TableMapping) -> None:
    """Refuse an id of two sites' patients, where rows of another file are found by it."""
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


def _without(blocks: dict[str, NDArray[np.float64]], mapping: TableMapping) -> dict[str, int]:
    """By block that the site has, how many patients lack it."""
    return {
        f"block {name}": int((np.isnan(values).sum(axis=1) == values.shape[1]).sum())
        for name, values in blocks.items()
        if mapping.blocks[name].measured
    }


def _whose(table: Table, mapping: TableMapping, sites_of: SitesOf) -> tuple[list[str], list[str]]:
    """Site and patient of each row."""
    sites, column = sites_of(table), mapping.table.patient
    reading = Reading(table, mapping.table)
    for row, patient in enumerate(reading.cells(column)):
        if patient is None:
            why = reading.absence(row, column)
            raise DataError(f"{table.where(row, column)}: the patient has no id{why}.")
    refuse_similar(table, column, mapping.table, sites)
    return sites, list(ids_in(table, column, mapping.table))


def _read_features(reading: Reading, mapping: TableMapping, schema: FeatureSchema) -> _Features:
    features = {feature.name: feature for feature in schema.features}
    parsed = {
        name: _parse(reading, name, source, features.get(name))
        for name, source in mapping.features.items()
        if name in features or isinstance(source, CategorySource)
    }
    imputed = _impute(reading, mapping, parsed)
    here = [name for name in features if mapping.features[name].measured]
    values = {
        name: _typed(feature, parsed[name].values, measured=name in here)
        for name, feature in features.items()
    }
    return _Features(
        values=values,
        missing={name: int(_is_missing(parsed[name].values).sum()) for name in here},
        imputed=imputed,
        unknown={name: parsed[name].unknown for name in here},
        notes=tuple(note for name in features for note in parsed[name].notes),
    )


def _parse(reading: Reading, name: str, source: FeatureSource, feature: Feature | None) -> Parsed:
    """One feature's column; `feature` is `None` for a category that only conditions use."""
    if isinstance(source, AbsentSource):
        number = isinstance(feature, NumberFeature)
        nothing: Any = np.nan if number else None
        return Parsed(np.full(len(reading.table), nothing, float if number else object))
    if isinstance(source, NumberSource) and isinstance(feature, NumberFeature):
        return read_numbers(reading, source, limits_of(source.unit, feature))
    if isinstance(source, CategorySource):
        allowed = feature.values if isinstance(feature, CategoryFeature) else None
        return read_categories(reading, source, allowed, name)
    if isinstance(source, FlagSource):
        return read_flags(reading, source)
    raise DataError(f"a {source.kind} column cannot be read without its feature.")


def _impute(reading: Reading, mapping: TableMapping, parsed: dict[str, Parsed]) -> dict[str, int]:
    """Apply all rules in the mapping's order, the first that fits wins; counts by rule."""
    before = {
        name: parsed[name].values.copy()
        for name, source in mapping.features.items()
        if isinstance(source, CategorySource)
    }
    return {
        f"{name} by {rule.name}": int(impute(reading, rule, parsed[name].values, before).sum())
        for name, rule in mapping.imputations
    }


def _is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype == object:
        return np.array([value is None for value in values], dtype=np.bool_)
    missing: NDArray[np.bool_] = np.isnan(values)
    return missing


def _typed(feature: Feature, values: NDArray[Any], *, measured: bool) -> NDArray[Any]:
    """The column as a `Cohort` holds it."""
    if isinstance(feature, CategoryFeature):
        codes = {value: code for code, value in enumerate(feature.values)}
        return np.array([codes.get(v, MISSING_CATEGORY) for v in values], dtype=np.int16)
    if isinstance(feature, FlagFeature) and not measured:
        return np.full(len(values), MISSING_CATEGORY, dtype=np.int16)
    if isinstance(feature, FlagFeature):
        resolved = [feature.missing_is if value is None else value for value in values]
        return np.array(resolved, dtype=np.bool_)
    return values


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
