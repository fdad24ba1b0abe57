"""Conversions from a hospital's units to a study's; a pair that is not listed is refused."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

Conversion = Callable[[float], float]


def _times(factor: float) -> Conversion:
    return lambda value: value * factor


# (from, to); factors are exact by definition (international yard and pound, 1959).
_CONVERSIONS: Mapping[tuple[str, str], Conversion] = MappingProxyType(
    {
        ("lb", "kg"): _times(0.45359237),
        ("g", "kg"): _times(1e-3),
        ("in", "cm"): _times(2.54),
        ("ft", "cm"): _times(30.48),
        ("m", "cm"): _times(100.0),
        ("mm", "cm"): _times(0.1),
        ("mg/day", "mg/week"): _times(7.0),
        ("minute", "hour"): _times(1 / 60),
        ("minute", "day"): _times(1 / 1440),
        ("hour", "day"): _times(1 / 24),
        ("day", "hour"): _times(24.0),
        ("day", "month"): _times(1 / 30.4375),  # the mean of the Gregorian calendar
        ("day", "year"): _times(1 / 365.25),
        ("month", "year"): _times(1 / 12),
        ("year", "decade"): lambda years: float(math.floor(years / 10)),
    }
)


def conversion(source: str, to: str) -> Conversion | None:
    """Return the conversion from unit `source` to unit `to`; `None` if there is none."""
    return _times(1.0) if source == to else _CONVERSIONS.get((source, to))


def convertible_to(unit: str) -> tuple[str, ...]:
    """List the units that can be turned into `unit`, itself first."""
    return (unit, *(source for source, to in _CONVERSIONS if to == unit))
