"""Looks at a site's data for one study by every rule, and sums up each column."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from fedrx_client.data.load import LoadResult
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.quality import rules
from fedrx_client.data.quality.findings import ColumnSummary, Finding, QualityReport
from fedrx_client.data.quality.frames import NOT_UNDERSTOOD, Frames, read_frames
from fedrx_client.data.quality.reference import ConsortiumSummary
from fedrx_client.data.quality.scale import PublicReference
from fedrx_client.data.readers.source import Source
from fedrx_common.errors import DataError
from fedrx_protocol.study.schema import FeatureSchema, NumberFeature
from fedrx_protocol.study.study import Study

_BARS = 24
_ORDER = {"red": 0, "amber": 1, "green": 2}
_FEWEST_TO_COMPARE = 20
_SHARES_APART = 0.2


def look_at(
    source: Source,
    mapping: TableMapping,
    study: Study,
    loaded: LoadResult | DataError,
    *,
    pipeline: str,
    today: date,
    summary: ConsortiumSummary | None = None,
) -> QualityReport:
    """Hold a site's data against the study and what is known elsewhere.

    Args:
        source: where the patients are.
        mapping: how the source becomes the study's features.
        study: the study.
        loaded: the cohort, or why it could not be loaded.
        pipeline: digest of the mapping, see `pipeline_digest`.
        today: after it nothing can have happened.
        summary: what the consortium measured, if the site has it.

    Raises:
        DataError: the source cannot be read at all, or the mapping does not fit the study.
    """
    schema = study.feature_schema
    mapping.check_against(schema)
    frames = read_frames(source, mapping, schema)
    public = rules.public_references(schema)
    findings = [
        *rules.loading(loaded),
        *rules.values_that_do_not_fit(frames, schema),
        *rules.units_and_drift(frames, public, "the public reference", "drift"),
        *rules.missing_values(frames, schema),
        *rules.duplicates(frames, mapping),
        *rules.impossible_dates(frames, mapping, today),
        *rules.constant_columns(frames),
    ]
    if summary is not None:
        findings += _against(summary, frames, public, {one.name for one in findings})
    account = loaded.quality if isinstance(loaded, LoadResult) else None
    return QualityReport(
        study=study.name,
        digest=study.digest,
        source=source.name,
        pipeline=pipeline,
        rows_read=frames.rows_read,
        rows_kept=len(frames.table) if account is None else account.rows_kept,
        dropped={} if account is None else dict(account.dropped),
        patients=None if isinstance(loaded, DataError) else sum(map(len, loaded.cohorts.values())),
        findings=sorted(findings, key=lambda one: _ORDER[one.level]),
        columns=tuple(_summaries(frames, schema)),
    )


def _against(
    summary: ConsortiumSummary,
    frames: Frames,
    public: dict[str, PublicReference],
    known: set[str],
) -> Iterator[Finding]:
    """Hold columns against the consortium's summary; a unit that is red already is not repeated."""
    references = {
        name: PublicReference(public[name].unit, one.mean, one.scale, public[name].log)
        for name, one in summary.columns.items()
        if name in public and one.mean is not None and one.scale is not None
    }
    whose = "the consortium's"
    for finding in rules.units_and_drift(frames, references, whose, "consortium"):
        if finding.name not in known:
            yield finding
    for name, one in summary.columns.items():
        if name not in frames.patients or not one.shares:
            continue
        column = frames.patients[name].dropna()
        if len(column) < _FEWEST_TO_COMPARE:
            continue
        own = _shares(column)
        apart = {value: own.get(value, 0.0) - share for value, share in one.shares.items()}
        value = max(apart, key=lambda value: abs(apart[value]), default=None)
        if value is not None and abs(apart[value]) > _SHARES_APART:
            text = (
                f"'{value}' is {own.get(value, 0.0):.0%} of the values here, and "
                f"{one.shares[value]:.0%} in the consortium."
            )
            yield Finding(f"consortium:{name}", "amber", text)


def _summaries(frames: Frames, schema: FeatureSchema) -> Iterator[ColumnSummary]:
    references = rules.public_references(schema)
    units = {part.name: part.unit for part in schema.markers}
    units |= {part.name: part.unit for part in schema.treatments}
    units |= {one.name: one.unit for one in schema.features if isinstance(one, NumberFeature)}
    units[schema.target.name] = getattr(schema.target, "unit", "")
    for frame in frames.every:
        for name in frame.columns.difference([frames.time], sort=False):
            column = frame[name]
            if column.dtype == float:
                yield _number(str(name), column, units.get(name, ""), references.get(name))
            else:
                known = column.dropna()
                yield ColumnSummary(
                    name=str(name),
                    kind="flag" if known.isin([True, False, NOT_UNDERSTOOD]).all() else "category",
                    unit="",
                    rows=len(column),
                    recorded=len(known),
                    shares=_shares(known),
                )


def _shares(column: "pd.Series[Any]") -> dict[str, float]:
    said = column.map({True: "yes", False: "no"}.get).fillna(column.astype(str))
    return {str(value): float(share) for value, share in said.value_counts(normalize=True).items()}


def _number(
    name: str, column: "pd.Series[Any]", unit: str, reference: PublicReference | None
) -> ColumnSummary:
    values = rules.finite(column)
    if not len(values):
        return ColumnSummary(name, "number", unit, len(column), 0)
    low, median, high = (float(one) for one in np.percentile(values, [1, 50, 99]))
    counts = np.histogram(values, bins=_BARS, range=(low, high if high > low else low + 1))[0]
    plain = reference is not None and not reference.log
    return ColumnSummary(
        name=name,
        kind="number",
        unit=unit,
        rows=len(column),
        recorded=int(column.notna().sum()),
        median=median,
        low=low,
        high=high,
        mean=float(values.mean()),
        scale=float(values.std()),
        reference=(reference.mean, reference.scale) if plain and reference is not None else None,
        bars=tuple((counts / max(1, counts.max())).round(3).tolist()),
    )
