"""What a patient's row looks like: the features and the outcome that a consortium agreed on.

The reference mean and scale of a feature are public knowledge (a textbook, a published cohort),
never computed from the sites' patients, so that normalising costs no privacy.
"""

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedrx_protocol.study.base import Line, Name, Paragraph, StrictModel, Unit, is_empty, is_off
from fedrx_protocol.study.codes import first_alike
from fedrx_protocol.study.omics import Block, GeneGraph
from fedrx_protocol.study.targets import (
    BinaryTarget,
    ContinuousTarget,
    ForecastTarget,
    PanelTarget,
    SurvivalTarget,
    Target,
)
from fedrx_protocol.study.visits import MOST_MARKERS, Horizon, Marker, Treatment, VisitsSection

__all__ = [
    "BinaryTarget",
    "Block",
    "CategoryFeature",
    "ContinuousTarget",
    "Feature",
    "FeatureSchema",
    "FlagFeature",
    "ForecastTarget",
    "GeneGraph",
    "Horizon",
    "Marker",
    "Name",
    "NumberFeature",
    "PanelTarget",
    "SurvivalTarget",
    "Target",
    "Treatment",
    "VisitsSection",
]


Optional = Annotated[
    bool,
    Field(
        exclude_if=is_off,  # younger than approved studies: see `is_empty`
        description="whether a hospital may lack it: its mapping says measured = false",
    ),
]


class NumberFeature(StrictModel):
    """A measured number; the model sees (value - mean) / scale, and a flag where it is missing."""

    name: Name = Field(description="name of the feature in mappings")
    kind: Literal["number"] = Field(description="a measured number")
    unit: Unit = Field(description="unit of the values, e.g. 'kg'")
    minimum: float = Field(description="no plausible value is smaller, in `unit`")
    maximum: float = Field(description="no plausible value is larger, in `unit`")
    mean: float = Field(description="public reference mean, in `unit`")
    scale: float = Field(gt=0, description="public reference standard deviation, in `unit`")
    optional: Optional = False
    description: Paragraph = Field(
        default="", description="for people; the program does not read it"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.minimum <= self.mean <= self.maximum:
            raise ValueError(
                f"mean {self.mean:g} must lie between minimum {self.minimum:g} "
                f"and maximum {self.maximum:g}"
            )
        return self


class CategoryFeature(StrictModel):
    """One of a few named values; the first is the reference, missing is a level of its own."""

    name: Name = Field(description="name of the feature in mappings")
    kind: Literal["category"] = Field(description="one of a few values")
    values: tuple[Line, ...] = Field(
        min_length=2, strict=False, description="the values; the first is the reference"
    )
    optional: Optional = False
    description: Paragraph = Field(
        default="", description="for people; the program does not read it"
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.values)) != len(self.values):
            raise ValueError("values must be distinct")
        alike = first_alike(self.values, self.name)
        if alike is not None:
            raise ValueError(
                f"values '{alike[0]}' and '{alike[1]}' are one code (alleles have no order, and "
                "1.0 is 1): keep one of them"
            )
        return self


class FlagFeature(StrictModel):
    """Yes or no; `missing_is` says what an unrecorded flag means in this consortium.

    That is for a hospital that records it. Where an optional flag is not recorded at all, the model
    sees neither yes nor no, but a column of its own that says so.
    """

    name: Name = Field(description="name of the feature in mappings")
    kind: Literal["flag"] = Field(description="yes or no")
    missing_is: bool = Field(default=False, description="what an unrecorded flag means")
    optional: Optional = False
    description: Paragraph = Field(
        default="", description="for people; the program does not read it"
    )


Feature = Annotated[NumberFeature | CategoryFeature | FlagFeature, Field(discriminator="kind")]


class FeatureSchema(StrictModel):
    """All that is known of a patient, in order, and the target; both sides build the same tensors.

    Features and blocks are known once for a patient; markers and treatments at every visit.
    """

    features: tuple[Feature, ...] = Field(default=(), strict=False)
    blocks: tuple[Block, ...] = Field(default=(), strict=False, exclude_if=is_empty)
    visits: VisitsSection | None = Field(default=None, exclude_if=is_empty)
    markers: tuple[Marker, ...] = Field(
        default=(), max_length=MOST_MARKERS, strict=False, exclude_if=is_empty
    )
    treatments: tuple[Treatment, ...] = Field(default=(), strict=False, exclude_if=is_empty)
    graph: GeneGraph | None = Field(default=None, exclude_if=is_empty)
    target: Target

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_course()
        if not self.features and not self.blocks and not self.markers:
            raise ValueError("a study needs at least 1 item in features or blocks")
        parts = (*self.features, *self.blocks, *self.markers, *self.treatments, self.target)
        counts = Counter(part.name for part in parts)
        doubled = sorted(name for name, count in counts.items() if count > 1)
        if doubled:
            raise ValueError(f"feature names must be unique, but {', '.join(doubled)} is repeated")
        if self.graph is not None and self.markers:
            lack = "not among the study's markers: remove its edges, or add the marker"
            self.graph.check_against((marker.name for marker in self.markers), "marker", lack)
        elif self.graph is not None:
            self.graph.check_against(gene for block in self.blocks for gene in block.genes)
        return self

    @property
    def forecast_markers(self) -> tuple[Marker, ...]:
        """The markers that the target names, in its order; none for another kind of target."""
        if not isinstance(self.target, ForecastTarget):
            return ()
        by_name = {marker.name: marker for marker in self.markers}
        return tuple(by_name[name] for name in self.target.markers)

    def _check_course(self) -> None:
        """Visits, markers and a forecast belong together."""
        if not isinstance(self.target, ForecastTarget):
            if self.visits is not None or self.markers or self.treatments:
                raise ValueError(
                    "visits, markers and treatments are for a forecast: set target.kind to "
                    "'forecast', or remove them"
                )
            return
        if self.visits is None:
            raise ValueError("a forecast needs a [visits] section with its time_unit")
        if self.blocks:
            raise ValueError("a forecast takes features, markers and treatments, but no blocks")
        known = [marker.name for marker in self.markers]
        for name in self.target.markers:
            if name not in known:
                raise ValueError(
                    f"target.markers names '{name}', which is not among the study's markers: "
                    f"{', '.join(known) or 'none'}"
                )
