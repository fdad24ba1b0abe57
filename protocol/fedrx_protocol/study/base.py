"""The base of everything that a study file says: frozen, strict, and named alike."""

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fedrx_common.text import LONGEST_LINE, LONGEST_TEXT, require_showable

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,63}$"
DIGEST_PATTERN = r"^[0-9a-f]{64}$"
LONGEST_UNIT = 60  # characters

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Line = Annotated[str, Field(max_length=LONGEST_LINE)]
Paragraph = Annotated[str, Field(max_length=LONGEST_TEXT)]
Unit = Annotated[str, Field(min_length=1, max_length=LONGEST_UNIT)]

_TRANSFORMS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"sqrt": math.sqrt, "log": math.log}
)


class StrictModel(BaseModel):
    """A part of a study. Strict: the text "5" is not a number, so one meaning has one digest.

    Every text in it, in any field, may be on the page that a hospital signs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @field_validator("*")
    @classmethod
    def _showable(cls, value: object) -> object:
        require_showable(value)
        return value


def first_repeated(names: Iterable[str]) -> str | None:
    """Find the first name that is there twice; None if there is none."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def require_mean_within(
    mean: float, minimum: float, maximum: float, transform: str = "none"
) -> None:
    """Hold a public reference mean against the range of what it is the mean of.

    Args:
        mean: of the transformed values.
        minimum: no plausible value is smaller, before the transform.
        maximum: no plausible value is larger, likewise.
        transform: 'sqrt', 'log', or any other word for none.

    Raises:
        ValueError: it is outside; of values within a range the mean cannot.
    """
    change = _TRANSFORMS.get(transform)
    low, high = (minimum, maximum) if change is None else (change(minimum), change(maximum))
    if not low <= mean <= high:
        after = f", as minimum and maximum do after transform '{transform}'" if change else ""
        raise ValueError(f"mean {mean:g} must lie between {low:g} and {high:g}{after}")


def is_empty(value: object) -> bool:
    """Whether a value is left out of a study's canonical form.

    A key that was added to the format after studies had been approved must not appear where it
    says nothing: the digest of an old study would change.
    """
    return value is None or value == ()


def is_off(value: object) -> bool:
    """Whether a switch is left out of a study's canonical form, for the reason of `is_empty`."""
    return value is False
