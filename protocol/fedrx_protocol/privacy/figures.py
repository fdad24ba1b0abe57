"""How a figure that may carry noise is read: shown with its interval, or hidden by its noise.

The one rule for console, status, report and JSON, so that none of them prints what another hides.
What is released, and with how much noise, is decided elsewhere and never here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isclose
from typing import Final

HIDDEN: Final = "hidden by noise"
"""What is printed instead of such a figure."""

Ends = tuple[float, float]


def hides(reach: float, tells: float) -> bool:
    """Whether noise hides a figure: its 95 % interval is longer than what the figure could tell.

    A concordance of a useless model is 0.5, of a perfect one 1, and of nearly every model of
    patients between 0.5 and 0.75: it could tell 0.25, and noise of more than ±0.125 hides it.

    Args:
        reach: half the length of the noise's 95 % interval; NaN hides.
        tells: what the figure could tell, in the same unit: from a useless model half-way to a
            perfect one.
    """
    return not 2 * reach <= tells


@dataclass(frozen=True)
class Figure:
    """One metric with what is known of its error.

    Attributes:
        value: the metric; `None` where it cannot be computed.
        tells: as in `hides`; infinite for a figure that nothing hides.
        noise: 95 % interval for the noise alone; `None` without noise.
        confidence: 95 % interval for the choice of patients and the noise; `None` if not known.
    """

    value: float | None
    tells: float = inf
    noise: Ends | None = None
    confidence: Ends | None = None

    @classmethod
    def of(cls, values: Mapping[str, float], key: str, tells: float = inf) -> "Figure":
        """The metric `key` of a flat mapping as `Metrics.flat` gives it."""
        return cls(
            value=values.get(key),
            tells=tells,
            noise=_ends(values, key),
            confidence=_ends(values, f"{key}_ci"),
        )

    @property
    def hidden(self) -> bool:
        """Whether noise hides it; both ends count, as an interval may be cut at one of them."""
        if self.value is None or self.noise is None:
            return False
        low, high = self.noise
        return hides(max(high - self.value, self.value - low), self.tells)

    @property
    def shown(self) -> float | None:
        """The value where it may be shown."""
        return None if self.hidden else self.value

    def words(self, digits: int, unit: str = "") -> str:
        """The figure with its unit and interval, e.g. "8.51 mg/week (95 %: 7.60 to 9.42)"."""
        if self.hidden:
            return HIDDEN
        if self.value is None:
            return "unknown"
        told = f"{self.value:.{digits}f}{f' {unit}' if unit else ''}"
        if self.confidence is not None:
            return f"{told} ({self.interval_words(digits)})"
        return told if self.noise is None else f"{told} ({_span(self.noise, digits)} by its noise)"

    def interval_words(self, digits: int) -> str:
        """The interval of patients and noise, with the noise's own; "" if not known or hidden."""
        if self.confidence is None or self.shown is None:
            return ""
        told = f"95 %: {_span(self.confidence, digits)}"
        if self.noise is None:
            return told
        below, above = self.shown - self.noise[0], self.noise[1] - self.shown
        alone = f"±{above:.{digits}f}" if isclose(below, above, rel_tol=1e-6) else ""
        return f"{told}; by its noise {alone or _span(self.noise, digits)}"


def readable(values: Mapping[str, float], key: str, tells: float) -> dict[str, float | None]:
    """Metrics as JSON holds them: the headline is null where noise hides it or left none.

    Its intervals stay, so that a program sees why. A lesser figure that noise hides is left out.

    Args:
        values: as a round reported them; empty before the first evaluation.
        key: the headline.
        tells: what it could tell.
    """
    return {**values, key: Figure.of(values, key, tells).shown} if values else {}


def _ends(values: Mapping[str, float], key: str) -> Ends | None:
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    return None if low is None or high is None else (low, high)


def _span(ends: Ends, digits: int) -> str:
    low, high = ends
    return f"{low:.{digits}f} to {high:.{digits}f}"
