"""Which columns hold visits, markers and treatments, in a table with a row for each visit."""

from collections.abc import Iterable, Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from fedrx_client.data.sources import (
    MISSING,
    Censored,
    Codes,
    Column,
    Section,
    Unknown,
    check_unit,
)
from fedrx_common.errors import DataError
from fedrx_protocol.study.schema import FeatureSchema


class VisitsSource(Section):
    """Columns that distinguish visits, and the place of a patient's features.

    Without `features`, each patient's first row holds them.
    """

    time: Column = Field(description="column of the visits' times")
    unit: str = Field(min_length=1, description="unit of the times; converted to the study's")
    episode: Column | None = Field(default=None, description="what tells several stays apart")
    short: Literal["error", "drop"] = Field(
        default="error", description="what to do with a patient of whom nothing can be forecast"
    )
    features: str | None = Field(
        default=None, min_length=1, description="file beside the table with a row for each patient"
    )
    patient: Column | None = Field(default=None, description="that file's patient column")

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.features is None) != (self.patient is None):
            raise ValueError("features and patient belong together: give both or neither")
        return self


class MarkerSource(Section):
    """One marker's column; a site that does not measure it writes `measured = false`."""

    column: Column | None = Field(default=None, description="column that it is read from")
    unit: str = Field(default="", description="unit of the column; converted to the study's")
    analyte: str | None = Field(
        default=None, description="what is measured, where moles become grams: 'creatinine'"
    )
    missing: Codes = Field(
        default=MISSING, description="codes for 'not recorded', beside table.missing"
    )
    measured: bool = Field(
        default=True, description="false, and nothing else, where the site does not have it"
    )
    censored: Censored = Field(default="error", description="what values such as '<5' are")
    unknown: Unknown = Field(
        default="error", description="what to do with a value that is no number or not plausible"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.measured and (self.column is None or not self.unit):
            raise ValueError("give column and unit, or measured = false")
        return self


class TreatmentSource(Section):
    """One treatment's column: an amount, or codes of yes and no; an empty cell means none."""

    column: Column = Field(description="column that it is read from")
    unit: str = Field(default="", description="unit of an amount; converted to the study's")
    yes: Codes = Field(default=("1",), description="codes of yes")
    no: Codes = Field(default=("0",), description="codes of no")
    missing: Codes = Field(
        default=MISSING, description="codes for 'not recorded', beside table.missing"
    )


Markers = Mapping[str, MarkerSource]
Treatments = Mapping[str, TreatmentSource]


def course_columns(
    visits: VisitsSource | None, markers: Markers, treatments: Treatments
) -> tuple[str, ...]:
    """Return every column of the table of visits."""
    found = [] if visits is None else [visits.time, visits.episode]
    found += [source.column for source in markers.values()]
    found += [source.column for source in treatments.values()]
    return tuple(column for column in found if column is not None)


def check_course(
    visits: VisitsSource | None,
    markers: Markers,
    treatments: Treatments,
    schema: FeatureSchema,
    source: str,
) -> None:
    """Raise `DataError` unless a mapping names all that the study's visits need, and no more."""
    _check_names(source, "markers", markers, (m.name for m in schema.markers))
    _check_names(source, "treatments", treatments, (t.name for t in schema.treatments))
    if (visits is None) != (schema.visits is None):
        raise DataError(
            f"{source}: section 'visits' is missing; give at least its time and unit."
            if visits is None
            else f"{source}: section 'visits' is not for this study, which forecasts nothing."
        )
    if visits is not None and schema.visits is not None:
        check_unit(source, "visits", visits.unit, schema.visits.time_unit)
    for marker in schema.markers:
        one = markers[marker.name]
        if one.measured:
            check_unit(source, f"markers.{marker.name}", one.unit, marker.unit, one.analyte)
    for treatment in schema.treatments:
        unit = treatments[treatment.name].unit
        check_unit(source, f"treatments.{treatment.name}", unit, treatment.unit)


def _check_names(source: str, kind: str, given: Iterable[str], wanted: Iterable[str]) -> None:
    names, known = set(given), list(wanted)
    for name in sorted(names - set(known)):
        raise DataError(
            f"{source}: '{kind}.{name}' is not in the study; its {kind} are: "
            f"{', '.join(known) or 'none'}."
        )
    for name in known:
        if name not in names:
            cure = "; a site without it says measured = false" if kind == "markers" else ""
            raise DataError(f"{source}: '{kind}.{name}' is missing{cure}.")
