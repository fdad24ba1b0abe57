"""Reads `patient.json`: patients in the study's own names, as a program or a person writes them.

    {"patient": "p1",
     "features": {"age_decade": 6, "height_cm": {"value": 66, "unit": "in"}, "cyp2c9": "*1/*3",
                  "weight_kg": null},
     "blocks": {"expression": {"TP53": 1.2}},
     "visits": [{"time": 0, "inr": 1.1, "warfarin": 5}]}

Every feature of the study is named; `null` says that it is not known. A list of such objects holds
several patients.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedrx_client.data.columns import REPAIR
from fedrx_client.data.course_sources import MarkerSource, TreatmentSource, VisitsSource
from fedrx_client.data.harmonise.units import conversion, convertible_to
from fedrx_client.data.load import LoadResult, load_table
from fedrx_client.data.mapping import (
    CategorySource,
    FeatureSource,
    FlagSource,
    NumberSource,
    TableMapping,
    TableOptions,
)
from fedrx_client.data.readers.source import Source
from fedrx_client.data.table import Table
from fedrx_common.documents import DocumentInvalid, read_json
from fedrx_common.errors import DataError
from fedrx_common.text import quoted
from fedrx_models.cohort.cohort import MISSING_CATEGORY, Cohort
from fedrx_models.cohort.visits import EPISODE, FIRST_VALUE, TIME
from fedrx_protocol.study.schema import (
    Block,
    CategoryFeature,
    Feature,
    FeatureSchema,
    NumberFeature,
)

# Keys of a visit; as columns they have a blank, which no name of a study has.
_TIME, _EPISODE = "time", "episode"
_PATIENT, _TIME_COLUMN, _EPISODE_COLUMN = "patient id", "visit time", "visit episode"
_YES, _NO = "yes", "no"
MOST_PATIENTS = 10_000
EXAMPLE_PATIENT = "patient.json"
"""Name of the file that a simulation with synthetic patients writes for one of them."""


class Quantity(BaseModel):
    """A number with its unit; without one it is in the study's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    value: float
    unit: str


Value = Quantity | bool | float | str | None


class PatientDocument(BaseModel):
    """One patient of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    patient: str = Field(min_length=1, max_length=200)
    features: dict[str, Value] = Field(default={})
    blocks: dict[str, dict[str, float | None]] = Field(default={})
    visits: tuple[dict[str, Value], ...] = Field(default=(), strict=False)


def read_patient_file(path: Path | str, schema: FeatureSchema, *, site: str = "here") -> LoadResult:
    """Read patients in the study's own names.

    Args:
        path: the file.
        schema: the study's.
        site: name of the cohort.

    Raises:
        DataError: naming patient and field, if anything in it cannot be used.
    """
    path = Path(path)
    try:
        document = read_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such patient file.") from None
    except (OSError, UnicodeDecodeError, DocumentInvalid) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}.") from None
    return read_patients(document, schema, source=path.name, site=site)


def read_patients(
    document: object, schema: FeatureSchema, *, source: str, site: str = "here"
) -> LoadResult:
    """Read patients of a JSON value: one object or a list of them; see `read_patient_file`."""
    listed = document if isinstance(document, list) else [document]
    if not 1 <= len(listed) <= MOST_PATIENTS:
        raise DataError(f"{source}: holds {len(listed)} patients: give 1 to {MOST_PATIENTS:,}.")
    patients = []
    for number, one in enumerate(listed, 1):
        try:
            patients.append(PatientDocument.model_validate(one))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"][:3]) or "the object"
            raise DataError(
                f"{source}, patient {number}: {quoted(place)} cannot be used: {first['msg']}; give "
                '{"patient": ID, "features": {...}}, and "visits" for a course.'
            ) from None
    table = _table(patients, schema, source)
    plain = schema.model_copy(update={"blocks": ()})
    try:
        loaded = load_table(
            table,
            study_mapping(plain, source),
            plain,
            site=site,
            source=Source("table", source),
        )
    except DataError as error:  # there is no mapping that a person could change
        raise DataError(str(error).replace(REPAIR, "correct it, or give null")) from None
    cohort = loaded.cohort
    if schema.blocks:
        blocks = {one.name: _block(patients, one, source) for one in schema.blocks}
        cohort = Cohort(
            site=site,
            schema=schema,
            patients=cohort.patients,
            values=cohort.values,
            target=cohort.target,
            blocks=blocks,
        )
    return LoadResult({site: cohort}, replace(loaded.quality, source=source))


def write_patient(cohort: Cohort, i: int) -> dict[str, Any]:
    """Describe one patient of a cohort as `read_patients` reads it.

    Of a course only the visits are written; what is to be forecast follows them.
    """
    schema = cohort.schema
    features = {one.name: _plain(one, cohort.values[one.name][i]) for one in schema.features}
    found: dict[str, Any] = {"patient": cohort.patients[i], "features": features}
    if schema.blocks:
        found["blocks"] = {
            block.name: {
                gene: float(value)
                for gene, value in zip(block.genes, cohort.blocks[block.name][i], strict=True)
                if not np.isnan(value)
            }
            for block in schema.blocks
        }
    if schema.visits is not None:
        kinds = {one.name: one.kind for one in schema.treatments}
        names = [*(m.name for m in schema.markers), *kinds]
        rows = cohort.visits[i][~np.isnan(cohort.visits[i, :, TIME])]
        found["visits"] = [
            {_TIME: float(row[TIME]), _EPISODE: str(int(row[EPISODE]) + 1)}
            | {
                name: bool(value) if kinds.get(name) == "flag" else float(value)
                for name, value in zip(names, row[FIRST_VALUE:], strict=True)
                if not np.isnan(value)
            }
            for row in rows
        ]
    return found


def _plain(feature: Feature, value: Any) -> str | float | bool | None:  # noqa: ANN401 - a cell
    if isinstance(feature, NumberFeature):
        return None if np.isnan(value) else float(value)
    if value == MISSING_CATEGORY:
        return None
    return feature.values[value] if isinstance(feature, CategoryFeature) else bool(value)


def study_mapping(schema: FeatureSchema, source: str = "mapping") -> TableMapping:
    """Make the mapping of a table that has the study's own names, units and values."""
    features: dict[str, FeatureSource] = {}
    for one in schema.features:
        if isinstance(one, NumberFeature):
            features[one.name] = NumberSource(kind="number", column=one.name, unit=one.unit)
        elif isinstance(one, CategoryFeature):
            features[one.name] = CategorySource(kind="category", column=one.name)
        else:
            features[one.name] = FlagSource(kind="flag", any_of=(one.name,), yes=(_YES,), no=(_NO,))
    markers = {m.name: MarkerSource(column=m.name, unit=m.unit) for m in schema.markers}
    treatments = {
        t.name: TreatmentSource(column=t.name, unit=t.unit, yes=(_YES,), no=(_NO,))
        for t in schema.treatments
    }
    visits = None
    if schema.visits is not None:
        visits = VisitsSource(
            time=_TIME_COLUMN,
            unit=schema.visits.time_unit,
            episode=_EPISODE_COLUMN,
            short="drop",
        )
    return TableMapping(
        source=source,
        table=TableOptions(patient=_PATIENT, missing=(), similar_ids="different"),
        features=features,
        markers=markers,
        treatments=treatments,
        visits=visits,
    )


def _table(patients: Sequence[PatientDocument], schema: FeatureSchema, source: str) -> Table:
    """Write the patients as a row each, or a row for each visit."""
    rows: list[dict[str, str]] = []
    origins: list[str] = []
    units = {one.name: one.unit for one in schema.markers}
    units |= {one.name: one.unit for one in schema.treatments}
    for number, one in enumerate(patients, 1):
        where = f"{source}, patient {number}"
        row = {_PATIENT: one.patient, **_features(one, schema.features, where)}
        if schema.visits is None:
            if one.visits:
                raise DataError(f"{where}: has visits, but the study knows of none; remove them.")
            rows.append(row)
            origins.append(f"patient {number}")
            continue
        if not one.visits:
            raise DataError(f"{where}: has no visits; give at least one, with its time.")
        for place, visit in enumerate(one.visits, 1):
            known = {_TIME: schema.visits.time_unit, _EPISODE: "", **units}
            _refuse_unknown(visit, known, f"{where}, visit {place}")
            cells = {
                name: _cell(visit.get(name), known[name], f"{where}, visit {place}, '{name}'")
                for name in known
            }
            time, episode = cells.pop(_TIME), cells.pop(_EPISODE) or "1"
            rows.append({**row, _TIME_COLUMN: time, _EPISODE_COLUMN: episode, **cells})
            origins.append(f"patient {number}, visit {place}")
    columns = {name: tuple(row[name] for row in rows) for name in rows[0]}
    return Table(
        source=source,
        unit="patient",
        places=tuple(range(1, len(rows) + 1)),
        columns=columns,
        origins=dict.fromkeys(columns, tuple(origins)),
    )


def _features(one: PatientDocument, features: Sequence[Feature], where: str) -> dict[str, str]:
    """Write each feature as the text of a cell in the study's unit."""
    _refuse_unknown(one.features, [feature.name for feature in features], where)
    cells = {}
    for feature in features:
        if feature.name not in one.features:
            raise DataError(
                f"{where}: feature '{feature.name}' is missing; give its value, or null if it is "
                "not known."
            )
        unit = feature.unit if isinstance(feature, NumberFeature) else ""
        place = f"{where}, feature '{feature.name}'"
        cells[feature.name] = _cell(one.features[feature.name], unit, place)
    return cells


def _refuse_unknown(given: Mapping[str, object], known: Collection[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise DataError(
                f"{where}: {quoted(name)} is not in the study; it knows: {', '.join(known)}."
            )


def _cell(value: Value, unit: str, where: str) -> str:
    """Write a value as the text of a cell in the study's unit."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return _YES if value else _NO
    if isinstance(value, Quantity):
        convert = conversion(value.unit, unit) if unit else None
        if convert is None:
            allowed = ", ".join(f"'{one}'" for one in convertible_to(unit)) if unit else "no unit"
            raise DataError(
                f"{where}: unit {quoted(value.unit)} cannot be converted; give {allowed}."
            )
        return repr(convert(value.value))
    return value if isinstance(value, str) else repr(value)


def _block(patients: Sequence[PatientDocument], block: Block, source: str) -> NDArray[np.float64]:
    """Read a block, `(n, genes)`; NaN where a gene is not given."""
    found = np.full((len(patients), len(block.genes)), np.nan)
    places = {gene: i for i, gene in enumerate(block.genes)}
    for number, one in enumerate(patients):
        values = one.blocks.get(block.name, {})
        _refuse_unknown(values, places, f"{source}, patient {number + 1}, block '{block.name}'")
        for gene, value in values.items():
            found[number, places[gene]] = np.nan if value is None else value
    return found
