"""A patient's course: visits on a time axis, what is measured at them, and what is given.

Reference values (means, scales, plausible ranges) are public knowledge, never computed from the
sites' patients, so that normalising costs no privacy.
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from fedrx_protocol.study.base import (
    LONGEST_UNIT,
    Name,
    Paragraph,
    StrictModel,
    Unit,
    require_mean_within,
)

TimeUnit = Literal["hour", "day", "month", "year"]

MOST_VISITS = 2000
MOST_MARKERS = 200


class VisitsSection(StrictModel):
    """The time axis of a patient's visits.

    A patient is one sequence of visits: several stays, one after the other, are episodes of it.
    Whatever their number, they count once in the privacy account.
    """

    time_unit: TimeUnit = Field(description="of visit times, horizons and windows")
    most: int = Field(
        default=168, ge=2, le=MOST_VISITS, description="visits kept of a patient: the newest"
    )


class Marker(StrictModel):
    """Something measured at visits; the model sees (transform(value) - mean) / scale."""

    name: Name = Field(description="name of the marker in mappings")
    unit: Unit = Field(description="unit of the values, e.g. 'mg/dL'")
    minimum: float = Field(description="no plausible value is smaller")
    maximum: float = Field(description="no plausible value is larger")
    transform: Literal["none", "log"] = Field(
        default="none", description="log: the model sees the logarithm"
    )
    mean: float = Field(description="public reference mean of the transformed value")
    scale: float = Field(gt=0, description="public reference standard deviation of the same")
    description: Paragraph = Field(
        default="", description="for people; the program does not read it"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minimum >= self.maximum:
            raise ValueError(f"minimum {self.minimum:g} must be below maximum {self.maximum:g}")
        if self.transform == "log" and self.minimum <= 0:
            raise ValueError("transform 'log' needs a minimum above 0")
        require_mean_within(self.mean, self.minimum, self.maximum, self.transform)
        return self

    @property
    def unit_scale(self) -> float:
        """The public scale in the marker's own unit; for a logarithm, that at the mean."""
        return self.scale * (math.exp(self.mean) if self.transform == "log" else 1.0)


class Treatment(StrictModel):
    """What was given from one visit to the next: an amount, or yes or no."""

    name: Name = Field(description="name of the treatment in mappings")
    kind: Literal["amount", "flag"] = Field(description="amount: a number; flag: yes or no")
    unit: str = Field(
        default="", max_length=LONGEST_UNIT, description="unit of an amount, e.g. 'mg/day'"
    )
    maximum: float = Field(default=1.0, gt=0, description="no plausible amount is larger")
    scale: float = Field(default=1.0, gt=0, description="the model sees the amount divided by this")
    description: Paragraph = Field(
        default="", description="for people; the program does not read it"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "amount" and not self.unit:
            raise ValueError("an amount needs a unit")
        if self.kind == "flag" and (self.unit, self.maximum, self.scale) != ("", 1.0, 1.0):
            raise ValueError("a flag has no unit, maximum or scale")
        return self


class Horizon(StrictModel):
    """How far ahead to forecast: the outcome is the first observation in the window."""

    at: float = Field(gt=0, description="time ahead, in the study's time unit; names the horizon")
    window: tuple[float, float] = Field(
        strict=False, description="earliest and latest time ahead, both inclusive"
    )
    change: float = Field(
        default=1.0, gt=0, description="public typical change until then, in the markers' scales"
    )

    @model_validator(mode="after")
    def _around(self) -> Self:
        first, last = self.window
        if not 0 < first <= self.at <= last:
            raise ValueError(
                f"window [{first:g}, {last:g}] must begin above 0 and hold the horizon, {self.at:g}"
            )
        return self
