"""A look at a site's data before a study uses them: the report, and its lines of a dry run."""

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

from fedrx_client.checks.study import CheckLine
from fedrx_client.data.load import LoadResult, load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.privacy.pipeline import pipeline_digest
from fedrx_client.data.quality.findings import QualityReport
from fedrx_client.data.quality.reference import ConsortiumSummary
from fedrx_client.data.quality.report import look_at
from fedrx_client.data.readers.source import Source
from fedrx_common.errors import DataError, MisuseError, counted
from fedrx_protocol.study.study import Study

_SITE = "site"  # any name will do: a report names no cohort


def quality_of(
    study: Study,
    mapping: TableMapping,
    source: Source,
    *,
    today: date,
    loaded: LoadResult | None = None,
    reference: Path | None = None,
) -> QualityReport:
    """Look at a site's data for a study.

    Args:
        study: the study.
        mapping: how the source becomes its features.
        source: where the patients are.
        today: after it nothing can have happened.
        loaded: the cohort, if it was read already.
        reference: the consortium's summary, if the site has one.

    Raises:
        DataError: the source cannot be read at all, the mapping does not fit the study, or the
            summary is of another study.
    """
    schema = study.feature_schema
    mapping.check_against(schema)
    summary = None if reference is None else ConsortiumSummary.load(reference, study)
    outcome: LoadResult | DataError
    try:
        outcome = loaded or load_cohort(source, mapping, schema, site=_SITE)
    except DataError as error:
        outcome = error
    return look_at(
        source,
        mapping,
        study,
        outcome,
        pipeline=pipeline_digest(mapping, schema),
        today=today,
        summary=summary,
    )


def require_overrides(report: QualityReport, overrides: Mapping[str, str]) -> None:
    """Refuse while a red finding is neither mended nor overridden by name.

    Args:
        report: what was found.
        overrides: by finding, the reason that a person gave.

    Raises:
        MisuseError: names each red finding, and an override that overrides nothing.
    """
    names = {one.name for one in report.red}
    useless = sorted(set(overrides) - names)
    if useless:
        listed = ", ".join(sorted(names)) or "none"
        raise MisuseError(
            f"--override '{useless[0]}' is no red finding of these data; red are: {listed}."
        )
    left = [one for one in report.red if one.name not in overrides]
    if left:
        more = f" ({counted(len(left) - 1, 'more red finding')})" if len(left) > 1 else ""
        raise MisuseError(
            f"red finding '{left[0].name}': {left[0].text} {left[0].remedy} If it is right as it "
            f"is, add --override {left[0].name} --reason TEXT{more}."
        )


def quality_lines(report: QualityReport, overridden: Mapping[str, str]) -> Iterator[CheckLine]:
    """Write a line for each red finding, and one for all others.

    Args:
        report: what was found.
        overridden: by finding, the reason in the approval in force.
    """
    for one in report.red:
        reason = overridden.get(one.name)
        text = one.text if reason is None else f"{one.text} Overridden: {reason}"
        yield CheckLine(f"quality {one.name}", ok=reason is not None, text=text, remedy=one.remedy)
    amber = report.of("amber")
    if not amber:
        yield CheckLine("quality", ok=True, text="nothing else to look at.")
        return
    text = f"{counted(len(amber), 'finding')} to look at: {', '.join(one.name for one in amber)}."
    yield CheckLine("quality", ok=True, text=text, remedy="`fedrx data quality` shows them.")
