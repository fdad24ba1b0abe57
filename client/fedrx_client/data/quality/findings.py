"""What a look at a site's data gives: findings, a summary of each column, and both as JSON."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fedrx_common.errors import MisuseError

Level = Literal["red", "amber", "green"]
_NAME = re.compile(r"[a-z]+(?::[a-z][a-z0-9_]*)?")
_PLACES_SHOWN = 5


class FindingInvalid(MisuseError):
    """A finding without a usable name, or a red one that names no remedy."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        name: what it is about, as in `--override`: a rule, and the study's name of the column.
        level: red stops an approval; amber is for a person to look at.
        text: what was found, with counts and no value that could name a patient.
        remedy: what to do; a red finding has one.
    """

    name: str
    level: Level
    text: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise FindingInvalid(f"a finding cannot be called {self.name!r}.")
        if self.level == "red" and not self.remedy:
            raise FindingInvalid(f"the red finding '{self.name}' names no remedy.")


@dataclass(frozen=True)
class ColumnSummary:
    """A column of the study at this site; exact, so for the site alone.

    Attributes:
        name: the study's.
        kind: number, category or flag.
        unit: the study's, of a number.
        rows: patients or visits that could have a value.
        recorded: those that have one.
        median, low, high: of numbers: the median and the 1st and 99th percentile.
        mean, scale: of numbers: mean and standard deviation.
        reference: the public mean and scale, of numbers that are not logarithms.
        shares: of categories and flags: by value, its share of what is recorded.
        bars: of numbers: heights from 0 to 1 of a histogram between low and high.
    """

    name: str
    kind: Literal["number", "category", "flag"]
    unit: str
    rows: int
    recorded: int
    median: float | None = None
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    scale: float | None = None
    reference: tuple[float, float] | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    bars: tuple[float, ...] = ()

    @property
    def missing(self) -> float:
        """The share without a value, between 0 and 1."""
        return 1 - self.recorded / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class QualityReport:
    """All that was found in a site's data for one study.

    Attributes:
        study: the study's name.
        digest: the study's digest.
        source: the source in words.
        pipeline: see `pipeline_digest`.
        rows_read: rows in the source.
        rows_kept: rows that the mapping keeps; of a loaded cohort, those that became patients or
            visits.
        dropped: by reason, rows that did not; empty where the cohort could not be loaded.
        patients: size of the cohort; None where it could not be loaded.
        findings: red ones first.
        columns: in the study's order.
    """

    study: str
    digest: str
    source: str
    pipeline: str
    rows_read: int
    rows_kept: int
    dropped: Mapping[str, int]
    patients: int | None
    findings: Sequence[Finding]
    columns: Sequence[ColumnSummary]

    @property
    def red(self) -> tuple[Finding, ...]:
        """The findings that stop an approval."""
        return self.of("red")

    def of(self, level: Level) -> tuple[Finding, ...]:
        """The findings of one level."""
        return tuple(one for one in self.findings if one.level == level)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""
        return asdict(self) | {"ok": not self.red}

    def text(self) -> str:
        """Write a few lines for a person."""
        size = "not loaded" if self.patients is None else f"{self.patients:,} patients"
        lines = [
            f"{self.source}: {self.rows_read:,} rows read, {self.rows_kept:,} kept, {size}.",
            f"{len(self.red)} red and {len(self.of('amber'))} amber findings.",
        ]
        for one in self.findings:
            if one.level != "green":
                lines.append(f"{one.level.upper():5}  {one.name}: {one.text}")
                lines += [f"       -> {one.remedy}"] if one.remedy else []
        return "\n".join(lines)


def first_places(unit: str, places: Sequence[int]) -> str:
    """Write where something is, e.g. "lines 3, 7 and 12 more"; empty for nowhere.

    Args:
        unit: what places count, "line" or "row".
        places: in order.
    """
    if not places:
        return ""
    shown = ", ".join(f"{place}" for place in places[:_PLACES_SHOWN])
    more = len(places) - _PLACES_SHOWN
    plural = "s" if len(places) > 1 else ""
    return f"{unit}{plural} {shown}" + (f" and {more:,} more" if more > 0 else "")
