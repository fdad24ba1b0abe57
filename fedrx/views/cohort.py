"""What a cohort read from a hospital's own source is made of, for a person and as JSON values."""

from typing import Any

import numpy as np

from fedrx_client.data.load import LoadResult
from fedrx_models.cohort.cohort import MISSING_CATEGORY, Cohort
from fedrx_models.cohort.visits import FIRST_VALUE, TIME


def cohort_document(loaded: LoadResult) -> dict[str, Any]:
    """Return the account of every row, the cohort's fingerprint, and its columns.

    A column has its name, its kind as in the study, its unit if it has one, and how many patients
    (of a marker: visits) have a value in it.
    """
    cohort = loaded.cohort
    return {
        **loaded.quality.to_dict(),
        "patients": len(cohort),
        "fingerprint": cohort.fingerprint,
        "columns": _columns(cohort),
    }


def cohort_page(loaded: LoadResult) -> str:
    """Write the same for a person."""
    cohort = loaded.cohort
    lines = [loaded.quality.text(), f"{len(cohort):,} patients; of these have a value:"]
    for column in _columns(cohort):
        unit = f" ({column['unit']})" if column["unit"] else ""
        lines.append(f"  {column['name']}{unit}, {column['kind']}: {column['recorded']:,}")
    return "\n".join((*lines, f"Fingerprint: {cohort.fingerprint}"))


def _columns(cohort: Cohort) -> list[dict[str, Any]]:
    schema = cohort.schema
    columns = []
    for feature in schema.features:
        values = cohort.values[feature.name]
        missing = np.isnan(values) if values.dtype.kind == "f" else values == MISSING_CATEGORY
        unit = getattr(feature, "unit", None)
        columns.append(_column(feature.name, feature.kind, unit, int((~missing).sum())))
    for block in schema.blocks:
        found = int((~np.isnan(cohort.blocks[block.name]).all(axis=1)).sum())
        columns.append(_column(block.name, "block", block.unit, found))
    visits = cohort.visits
    there = ~np.isnan(visits[:, :, TIME]) if visits.size else np.zeros((0, 0), dtype=np.bool_)
    for i, marker in enumerate(schema.markers):
        found = int((~np.isnan(visits[:, :, FIRST_VALUE + i])).sum())
        columns.append(_column(marker.name, "marker", marker.unit, found))
    start = FIRST_VALUE + len(schema.markers)
    for i, treatment in enumerate(schema.treatments):
        given = int((visits[:, :, start + i][there] != 0).sum())
        columns.append(_column(treatment.name, "treatment", treatment.unit, given))
    target = schema.target
    columns.append(_column(target.name, f"target, {target.kind}", target.unit, len(cohort)))
    return columns


def _column(name: str, kind: str, unit: str | None, recorded: int) -> dict[str, Any]:
    return {"name": name, "kind": kind, "unit": unit or None, "recorded": recorded}
