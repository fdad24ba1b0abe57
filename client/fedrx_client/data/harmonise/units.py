"""Conversions from a hospital's units to a study's; what does not measure the same is refused.

A pair of everyday words comes from a closed list with exact factors; every other pair is UCUM's.
"""

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


def conversion(source: str, to: str, analyte: str | None = None) -> Conversion | None:
    """Return the conversion from unit `source` to unit `to`; `None` if there is none.

    Args:
        source: in UCUM or an everyday spelling.
        to: likewise.
        analyte: what is measured, as `analytes.csv` names it: with it moles become grams and back.
    """
    if source == to:
        return _times(1.0)
    listed = _CONVERSIONS.get((source, to))
    if listed is not None:
        return listed
    from fedrx_client.data.harmonise.ucum import factors  # noqa: PLC0415 - it takes two seconds

    found = factors(source, to, analyte)
    if found is None:
        return None
    slope, offset = found
    return _times(slope) if offset == 0 else lambda value: value * slope + offset


def same_unit(one: str, other: str) -> bool:
    """Return whether two units differ in spelling only: a value is the same in both."""
    convert = conversion(one, other) if one and other else None
    return one == other or (convert is not None and convert(1.0) == 1.0 and convert(0.0) == 0.0)


def convertible_to(unit: str) -> tuple[str, ...]:
    """List the everyday units that can be turned into `unit`, itself first."""
    return (unit, *(source for source, to in _CONVERSIONS if to == unit))
