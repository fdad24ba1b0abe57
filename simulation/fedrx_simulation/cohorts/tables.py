"""Synthetic patients as the files that a hospital would have, and the one mapping for all sites.

For a rehearsal with the same commands that a live study uses. The columns are named after the
study's features, genes and drugs, and hold its own units and values. A study of columns alone has
one table a site; one with omics blocks or a panel of drugs has a folder a site, with a file for
each block and one for the panel beside the table. A forecast has a table with a row for each visit,
and one of features beside it.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import (
    BinaryTarget,
    Block,
    CategoryFeature,
    FeatureSchema,
    ForecastTarget,
    NumberFeature,
    PanelTarget,
    SurvivalTarget,
)

MAPPING = "mapping.toml"
PATIENT = "patient_id"
PATIENTS = "patients.csv"
FEATURES = "features.csv"
TIME, EPISODE = "Time", "Episode"
EVENT = "Event"  # not the name of a feature: those have no capitals


def write_tables(cohorts: Mapping[str, Cohort], folder: Path) -> tuple[Path, ...]:
    """Write the patients of each site and `mapping.toml` into a new folder.

    Args:
        cohorts: one cohort a site, all of one schema.
        folder: must not exist, or be empty.

    Returns:
        The main tables, in the order of the sites: `SITE.csv`, or `SITE/patients.csv`.

    Raises:
        MisuseError: there is no cohort, or the folder cannot be used.
    """
    if not cohorts:
        raise MisuseError("no patients were given: name at least one site.")
    ordered = dict(sorted(cohorts.items()))
    schema = next(iter(ordered.values())).schema
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise MisuseError(f"{folder}: is not empty; name a new folder.")
        (folder / MAPPING).write_text(mapping_text(schema), encoding="utf-8")
        return tuple(_write_site(folder, cohort) for cohort in ordered.values())
    except OSError as error:
        raise MisuseError(f"{folder}: cannot be written ({error.strerror}).") from None


def mapping_text(schema: FeatureSchema) -> str:
    """Write the mapping (TOML) of tables that `write_tables` makes."""
    sections = [f"[table]\npatient = {_quoted(PATIENT)}"]
    if not _is_course(schema):
        sections.append(f"[target]\n{_target_source(schema)}")
    for feature in schema.features:
        name = _quoted(feature.name)
        source = f'kind = "flag"\nany_of = [{name}]'
        if isinstance(feature, NumberFeature):
            source = f'kind = "number"\ncolumn = {name}\nunit = {_quoted(feature.unit)}'
        elif isinstance(feature, CategoryFeature):
            source = f'kind = "category"\ncolumn = {name}'
        sections.append(f"[features.{feature.name}]\n{source}")
    for block in schema.blocks:
        file, unit = _quoted(_block_file(block)), _quoted(block.unit)
        where = f"file = {file}\npatient = {_quoted(PATIENT)}\nunit = {unit}"
        sections.append(f"[blocks.{block.name}]\n{where}")
    if schema.visits is not None:
        where = f"time = {_quoted(TIME)}\nepisode = {_quoted(EPISODE)}"
        once = f"features = {_quoted(FEATURES)}\npatient = {_quoted(PATIENT)}"
        unit = f"unit = {_quoted(schema.visits.time_unit)}"
        sections.append(f'[visits]\n{where}\n{unit}\n{once}\nshort = "drop"')
        parts = [("markers", one.name, one.unit) for one in schema.markers]
        parts += [("treatments", one.name, one.unit) for one in schema.treatments]
        for kind, name, unit in parts:
            source = f"column = {_quoted(name)}\nunit = {_quoted(unit)}"
            sections.append(f"[{kind}.{name}]\n{source}")
    title = "# How these synthetic tables become the study's features."
    return "\n\n".join([title, *sections]) + "\n"


def _write_site(folder: Path, cohort: Cohort) -> Path:
    """Write a site's files, and name its main table."""
    schema = cohort.schema
    if _is_course(schema):
        (folder / cohort.site).mkdir()
        table = folder / cohort.site / PATIENTS
        _write(table.parent / FEATURES, *_main(cohort))
        names = [*(one.name for one in schema.markers), *(one.name for one in schema.treatments)]
        visited = []
        for patient, visits in zip(cohort.patients, cohort.visits, strict=True):
            for visit in visits[~np.isnan(visits[:, 0])]:
                time, episode, *values = visit.tolist()
                visited.append([patient, *map(_number, (episode, time, *values))])
        _write(table, [EPISODE, TIME, *names], visited)
        return table
    if not schema.blocks and not isinstance(schema.target, PanelTarget):
        table = folder / f"{cohort.site}.csv"
    else:
        (folder / cohort.site).mkdir()
        table = folder / cohort.site / PATIENTS
    _write(table, *_main(cohort))
    for block in schema.blocks:
        rows = _rows(cohort.patients, cohort.blocks[block.name])
        _write(table.parent / _block_file(block), block.genes, rows)
    if isinstance(schema.target, PanelTarget):
        drugs = [drug.name for drug in schema.target.drugs]
        _write(table.parent / _panel_file(schema), drugs, _rows(cohort.patients, cohort.target))
    return table


def _write(path: Path, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([PATIENT, *columns])
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def _main(cohort: Cohort) -> tuple[list[str], Iterator[tuple[str, ...]]]:
    """Give columns and rows of the table of features, and of an outcome that is not a panel."""
    schema, names = cohort.schema, []
    columns: list[Sequence[str]] = [cohort.patients]
    for feature in schema.features:
        values = cohort.values[feature.name].tolist()
        names.append(feature.name)
        if isinstance(feature, NumberFeature):
            columns.append([_number(value) for value in values])
        else:
            told = feature.values if isinstance(feature, CategoryFeature) else ("0", "1")
            columns.append(["" if value < 0 else told[int(value)] for value in values])
    if not isinstance(schema.target, PanelTarget | ForecastTarget):
        outcomes = [schema.target.name]
        outcomes += [EVENT] if isinstance(schema.target, SurvivalTarget) else []
        numbers = cohort.target.reshape(len(cohort), len(outcomes))
        columns += [[_number(value) for value in column] for column in numbers.T]
        names += outcomes
    return names, zip(*columns, strict=True)


def _is_course(schema: FeatureSchema) -> bool:
    return isinstance(schema.target, ForecastTarget)


def _rows(patients: tuple[str, ...], values: NDArray[np.float64]) -> Iterator[list[str]]:
    """A row for each patient of whom anything is known."""
    for patient, row in zip(patients, values, strict=True):
        if not np.isnan(row).all():
            yield [patient, *(_number(value) for value in row)]


def _number(value: float) -> str:
    """Exactly the number; whole ones without a point, as codes of yes and no are written."""
    if np.isnan(value):
        return ""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _target_source(schema: FeatureSchema) -> str:
    target = schema.target
    column, unit = f"column = {_quoted(target.name)}", f"unit = {_quoted(target.unit)}"
    if isinstance(target, BinaryTarget):
        return column
    if isinstance(target, SurvivalTarget):
        return f"{column}\n{unit}\nevent = {_quoted(EVENT)}"
    if isinstance(target, PanelTarget):
        file = _quoted(_panel_file(schema))
        return f"{unit}\nfile = {file}\npatient = {_quoted(PATIENT)}"
    return f"{column}\n{unit}"


def _block_file(block: Block) -> str:
    return f"block-{block.name}.csv"


def _panel_file(schema: FeatureSchema) -> str:
    return f"outcome-{schema.target.name}.csv"


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are a part of TOML's."""
    return json.dumps(text, ensure_ascii=False)
