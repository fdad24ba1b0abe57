"""The outcome that a study predicts: a number, yes or no, time to an event, drugs, markers.

Reference values (means, scales, rates) are public knowledge, never computed from the sites'
patients, so that normalising costs no privacy.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from fedrx_protocol.study.base import (
    Line,
    Name,
    Paragraph,
    StrictModel,
    Unit,
    first_repeated,
    require_mean_within,
)
from fedrx_protocol.study.visits import MOST_MARKERS, Horizon

MOST_BINS = 200
MOST_DRUGS = 2000
MOST_HORIZONS = 20


class ContinuousTarget(StrictModel):
    """A number, normalised after an optional transform."""

    kind: Literal["continuous"] = Field(
        default="continuous",
        exclude_if=lambda kind: kind == "continuous",  # older than the key: see `is_empty`
        description="a number; the kind may be left out",
    )
    name: Name = Field(description="name of the outcome in mappings")
    unit: Unit = Field(description="unit of the outcome, e.g. 'mg/week'")
    minimum: float = Field(description="no plausible value is smaller")
    maximum: float = Field(description="no plausible value is larger")
    transform: Literal["identity", "sqrt", "log"] = Field(
        default="identity",
        description="what the model predicts: the value, its root or its logarithm",
    )
    mean: float = Field(description="public reference mean of the transformed value")
    scale: float = Field(gt=0, description="public reference standard deviation of the same")

    @model_validator(mode="after")
    def _transformable(self) -> Self:
        if self.minimum >= self.maximum:
            raise ValueError(f"minimum {self.minimum:g} must be below maximum {self.maximum:g}")
        if self.transform == "log" and self.minimum <= 0:
            raise ValueError("transform 'log' needs a minimum above 0")
        if self.transform == "sqrt" and self.minimum < 0:
            raise ValueError("transform 'sqrt' needs a minimum of at least 0")
        require_mean_within(self.mean, self.minimum, self.maximum, self.transform)
        return self

    @property
    def is_weekly_dose(self) -> bool:
        """Whether it is a dose as warfarin's is given: then published equations and groups fit."""
        return self.unit == "mg/week"


class BinaryTarget(StrictModel):
    """Yes or no: response, an adverse reaction, toxicity."""

    kind: Literal["binary"] = Field(description="yes or no")
    name: Name = Field(description="name of the outcome in mappings")
    rate: float = Field(gt=0, lt=1, description="public reference share of 'yes'")
    threshold: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="probability from which a patient counts as 'yes', e.g. as a responder",
    )
    description: Paragraph = Field(
        default="", description="for people; the program does not read it"
    )

    @property
    def unit(self) -> str:
        """What a prediction is."""
        return "probability"


class SurvivalTarget(StrictModel):
    """Time until an event, in bins: the first begins at 0, each ends at an edge, inclusive."""

    kind: Literal["survival"] = Field(description="time until an event")
    name: Name = Field(description="name of the outcome in mappings")
    time_unit: Unit = Field(description="unit of the times and edges")
    edges: tuple[float, ...] = Field(
        min_length=1, max_length=MOST_BINS, strict=False, description="ends of the bins, rising"
    )
    hazard: float = Field(
        default=0.1, gt=0, lt=1, description="public reference chance of the event in a bin"
    )
    description: Paragraph = Field(
        default="", description="for people; the program does not read it"
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if any(later <= earlier for earlier, later in zip((0.0, *self.edges), self.edges)):  # noqa: B905 - a shifted pair
            raise ValueError("edges must rise from above 0")
        return self

    @property
    def unit(self) -> str:
        """Unit of the time."""
        return self.time_unit


class Drug(StrictModel):
    """One drug of a panel, with what is publicly known of it."""

    name: str = Field(min_length=1, max_length=100, description="as in the outcome's columns")
    mean: float = Field(description="public reference mean of the outcome, in the panel's unit")
    scale: float = Field(gt=0, description="public reference standard deviation of the same")
    compound: Line = Field(
        default="", description="if several entries are the same drug; they are held out together"
    )
    targets: tuple[Line, ...] = Field(default=(), strict=False, description="genes that it acts on")
    pathway: Line = Field(default="", description="the pathway that it acts on")
    structure: Paragraph = Field(default="", description="SMILES, where one is trusted")

    @property
    def identity(self) -> str:
        """What is one and the same drug under several entries."""
        return self.compound or self.name


class PanelTarget(StrictModel):
    """The response to each drug of a panel; a patient need not have been given them all."""

    kind: Literal["panel"] = Field(description="the response to each drug of a panel")
    name: Name = Field(description="name of the outcome in mappings")
    unit: Unit = Field(description="unit of the response")
    minimum: float = Field(description="no plausible value is smaller")
    maximum: float = Field(description="no plausible value is larger")
    drugs: tuple[Drug, ...] = Field(
        min_length=1,
        max_length=MOST_DRUGS,
        strict=False,
        description="the drugs, in the order of the model's outputs",
    )
    description: Paragraph = Field(
        default="", description="for people; the program does not read it"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minimum >= self.maximum:
            raise ValueError(f"minimum {self.minimum:g} must be below maximum {self.maximum:g}")
        twice = first_repeated(drug.name for drug in self.drugs)
        if twice is not None:
            raise ValueError(f"drug '{twice}' stands twice")
        for drug in self.drugs:
            try:
                require_mean_within(drug.mean, self.minimum, self.maximum)
            except ValueError as error:
                raise ValueError(f"drug '{drug.name}': {error}") from None
        return self


class ForecastTarget(StrictModel):
    """How markers will move: from every visit, each marker at each horizon, with an interval."""

    kind: Literal["forecast"] = Field(description="markers at several times ahead")
    name: Name = Field(description="name of the outcome in mappings")
    markers: tuple[Name, ...] = Field(
        min_length=1, max_length=MOST_MARKERS, strict=False, description="of the study's markers"
    )
    horizons: tuple[Horizon, ...] = Field(
        min_length=1, max_length=MOST_HORIZONS, strict=False, description="how far ahead, rising"
    )
    description: Paragraph = Field(
        default="", description="for people; the program does not read it"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        twice = first_repeated(self.markers)
        if twice is not None:
            raise ValueError(f"marker '{twice}' stands twice")
        times = [horizon.at for horizon in self.horizons]
        if times != sorted(set(times)):
            raise ValueError("horizons must rise")
        return self

    @property
    def unit(self) -> str:
        """None of its own: each marker has one, and errors are ratios."""
        return ""


TARGETS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "continuous": ContinuousTarget,
        "binary": BinaryTarget,
        "survival": SurvivalTarget,
        "panel": PanelTarget,
        "forecast": ForecastTarget,
    }
)
"""Kinds of outcome, by the word in the study file."""


def _kind(value: Any) -> str:  # noqa: ANN401 - pydantic hands over whatever stood in the file
    if isinstance(value, dict):
        return str(value.get("kind", "continuous"))
    return str(getattr(value, "kind", "continuous"))


Target = Annotated[
    Annotated[ContinuousTarget, Tag("continuous")]
    | Annotated[BinaryTarget, Tag("binary")]
    | Annotated[SurvivalTarget, Tag("survival")]
    | Annotated[PanelTarget, Tag("panel")]
    | Annotated[ForecastTarget, Tag("forecast")],
    Discriminator(_kind),
]
