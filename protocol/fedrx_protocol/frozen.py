"""The base of everything that a study file says: frozen, strict, and named alike."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Frozen(BaseModel):
    """A part of a study. Strict: the text "5" is no number, so one meaning has one digest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that stands twice, if one does."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def is_empty(value: object) -> bool:
    """Whether a value is left out of a study's canonical form.

    A key that was added to the format after studies had been approved must not appear where it
    says nothing: the digest of an old study would change.
    """
    return value is None or value == ()
