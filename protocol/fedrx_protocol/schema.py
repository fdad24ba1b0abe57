"""What a patient's row looks like: the features and the outcome that a consortium agreed on.

The reference mean and scale of a feature are public knowledge (a textbook, a published cohort),
never computed from the sites' patients, so that normalising costs no privacy.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedrx_protocol.frozen import Frozen, Name, is_empty
from fedrx_protocol.omics import Block, Graph
from fedrx_protocol.targets import (
    BinaryTarget,
    ContinuousTarget,
    PanelTarget,
    SurvivalTarget,
    Target,
)

__all__ = [
    "BinaryTarget",
    "Block",
    "CategoryFeature",
    "ContinuousTarget",
    "Feature",
    "FeatureSchema",
    "FlagFeature",
    "Graph",
    "Name",
    "NumberFeature",
    "PanelTarget",
    "SurvivalTarget",
    "Target",
]


class NumberFeature(Frozen):
    """A measured number; the model sees (value - mean) / scale, and a flag where it is missing."""

    name: Name
    kind: Literal["number"]
    unit: str = Field(min_length=1, description="unit of the values, e.g. 'kg'")
    minimum: float
    maximum: float
    mean: float = Field(description="public reference mean, in `unit`")
    scale: float = Field(gt=0, description="public reference standard deviation, in `unit`")
    description: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.minimum <= self.mean <= self.maximum:
            raise ValueError(
                f"mean {self.mean:g} must lie between minimum {self.minimum:g} "
                f"and maximum {self.maximum:g}"
            )
        return self


class CategoryFeature(Frozen):
    """One of a few named values; the first is the reference, missing is a level of its own."""

    name: Name
    kind: Literal["category"]
    values: tuple[str, ...] = Field(min_length=2, strict=False)
    description: str = ""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.values)) != len(self.values):
            raise ValueError("values must be distinct")
        return self


class FlagFeature(Frozen):
    """Yes or no; `missing_is` says what an unrecorded flag means in this consortium."""

    name: Name
    kind: Literal["flag"]
    missing_is: bool = False
    description: str = ""


Feature = Annotated[NumberFeature | CategoryFeature | FlagFeature, Field(discriminator="kind")]


class FeatureSchema(Frozen):
    """Features and blocks in order, and the target; both sides build the same tensors from it."""

    features: tuple[Feature, ...] = Field(default=(), strict=False)
    blocks: tuple[Block, ...] = Field(default=(), strict=False, exclude_if=is_empty)
    graph: Graph | None = Field(default=None, exclude_if=is_empty)
    target: Target

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.features and not self.blocks:
            raise ValueError("a study needs at least 1 item in features or blocks")
        parts = (*self.features, *self.blocks, self.target)
        names = [part.name for part in parts]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"feature names must be unique, but {', '.join(doubled)} is repeated")
        if self.graph is not None:
            self.graph.check_against(gene for block in self.blocks for gene in block.genes)
        return self
