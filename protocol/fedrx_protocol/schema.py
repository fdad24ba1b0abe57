"""What a patient's row looks like: the features and the outcome that a consortium agreed on.

The reference mean and scale of a feature are public knowledge (a textbook, a published cohort),
never computed from the sites' patients, so that normalising costs no privacy.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class _Frozen(BaseModel):
    # Strict: the text "5" is no number, so that one meaning has one spelling and one digest.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class NumberFeature(_Frozen):
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


class CategoryFeature(_Frozen):
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


class FlagFeature(_Frozen):
    """Yes or no; `missing_is` says what an unrecorded flag means in this consortium."""

    name: Name
    kind: Literal["flag"]
    missing_is: bool = False
    description: str = ""


Feature = Annotated[NumberFeature | CategoryFeature | FlagFeature, Field(discriminator="kind")]


class Target(_Frozen):
    """The outcome a model predicts: a number, normalised after an optional transform."""

    name: Name
    unit: str = Field(min_length=1)
    minimum: float
    maximum: float
    transform: Literal["identity", "sqrt", "log"] = "identity"
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
        return self


class FeatureSchema(_Frozen):
    """Features in order, and the target; both sides build the same columns from it."""

    features: tuple[Feature, ...] = Field(min_length=1, strict=False)
    target: Target

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [feature.name for feature in self.features] + [self.target.name]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"feature names must be unique, but {', '.join(doubled)} is repeated")
        return self
