"""Synthetic patients as the files that a hospital would have: one table a site, and one mapping.

For a rehearsal with the very commands that a live study uses. The columns are named after the
study's features and hold its own units and values.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fedrx_models.cohort import Cohort
from fedrx_protocol.errors import MisuseError
from fedrx_protocol.schema import CategoryFeature, Feature, FeatureSchema, NumberFeature

MAPPING = "mapping.toml"
PATIENT = "patient_id"


def write_tables(cohorts: Mapping[str, Cohort], folder: Path) -> tuple[Path, ...]:
    """Write `SITE.csv` for each site and `mapping.toml` into a new folder.

    Args:
        cohorts: one cohort a site, all of one schema.
        folder: must not exist, or be empty.

    Returns:
        The tables, in the order of the sites.

    Raises:
        MisuseError: there is no cohort, or the folder cannot be used.
    """
    if not cohorts:
        raise MisuseError("no patients were given: name at least one site.")
    schema = next(iter(cohorts.values())).schema
    files = {f"{site}.csv": _table(cohort) for site, cohort in sorted(cohorts.items())}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise MisuseError(f"{folder}: is not empty; name a new folder.")
        for name, text in {MAPPING: mapping_text(schema), **files}.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise MisuseError(f"{folder}: cannot be written ({error.strerror}).") from None
    return tuple(folder / name for name in files)


def mapping_text(schema: FeatureSchema) -> str:
    """The mapping file (TOML) of tables as `write_tables` makes them."""
    target = schema.target
    blocks = [
        f"[table]\npatient = {_quoted(PATIENT)}",
        f"[target]\ncolumn = {_quoted(target.name)}\nunit = {_quoted(target.unit)}",
        *(f"[features.{feature.name}]\n" + _source(feature) for feature in schema.features),
    ]
    return (
        "# How these synthetic tables become the study's features.\n\n" + "\n\n".join(blocks) + "\n"
    )


def _source(feature: Feature) -> str:
    name = _quoted(feature.name)
    if isinstance(feature, NumberFeature):
        return f'kind = "number"\ncolumn = {name}\nunit = {_quoted(feature.unit)}'
    if isinstance(feature, CategoryFeature):
        return f'kind = "category"\ncolumn = {name}'
    return f'kind = "flag"\nany_of = [{name}]'


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are a part of TOML's."""
    return json.dumps(text, ensure_ascii=False)


def _table(cohort: Cohort) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    features = cohort.schema.features
    writer.writerow([PATIENT, *(feature.name for feature in features), cohort.schema.target.name])
    columns = [
        cohort.patients,
        *(_texts(cohort, one) for one in features),
        map(repr, _target(cohort)),
    ]
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _target(cohort: Cohort) -> list[float]:
    values: list[float] = cohort.target.tolist()
    return values


def _texts(cohort: Cohort, feature: Feature) -> Iterator[str]:
    for value in cohort.values[feature.name].tolist():
        if isinstance(feature, NumberFeature):
            yield "" if np.isnan(value) else repr(value)
        elif isinstance(feature, CategoryFeature):
            yield "" if value < 0 else feature.values[value]
        else:
            yield str(int(value))
