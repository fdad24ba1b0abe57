"""The shipped tables: what a guideline recommends for which results of which genes."""

from functools import cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from fedrx_common.documents import read_toml
from fedrx_common.errors import MisuseError
from fedrx_common.text import quoted
from fedrx_protocol.study.base import StrictModel

_TABLES = Path(__file__).with_name("tables")
GUIDELINES = (
    "clopidogrel",
    "fluoropyrimidines",
    "simvastatin",
    "tacrolimus",
    "thiopurines",
    "warfarin",
)
USUAL = "usual"
"""Unit of a range in parts of the usual dose."""


class Recommendation(StrictModel):
    """One line of a guideline.

    Attributes:
        when: by gene, results of which one must be the patient's: a diplotype, an allele, a
            phenotype, or "activity 1.5".
        says: what is recommended, in our words, without a full stop.
        range: doses that it allows, in `unit`.
        unit: of the range; "usual" for parts of the usual dose.
        avoid: whether it advises against the drug.
        also: whether it holds beside the first other line that fits.
    """

    when: dict[str, list[str]] = Field(min_length=1)
    says: str = Field(min_length=1)
    range: tuple[float, float] | None = Field(default=None, strict=False)
    unit: str = ""
    avoid: bool = False
    also: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.range is None) != (self.unit == ""):
            raise ValueError("range and unit belong together")
        return self


class GuidelineTable(StrictModel):
    """A guideline: where it comes from, and its lines.

    Attributes:
        drug: what it is about.
        source: the publication.
        version: of the guideline.
        address: where its newest version is.
        licence: of its text.
        genes: without which it says nothing.
        algorithm: the equation that it recommends, where one is shipped.
        recommendation: its lines; the first that fits counts, and all with `also`.
    """

    drug: str
    source: str
    version: str
    address: str
    licence: str
    genes: tuple[str, ...] = Field(min_length=1, strict=False)
    algorithm: Literal["", "iwpc"] = ""
    recommendation: tuple[Recommendation, ...] = Field(min_length=1, strict=False)


@cache
def guideline_table(name: str) -> GuidelineTable:
    """Load a shipped guideline.

    Raises:
        MisuseError: there is none of that name.
    """
    if name not in GUIDELINES:
        raise MisuseError(
            f"there is no guideline {quoted(name)}; there are: {', '.join(GUIDELINES)}."
        )
    text = (_TABLES / f"{name}.toml").read_text(encoding="utf-8")
    return GuidelineTable.model_validate(read_toml(text))
