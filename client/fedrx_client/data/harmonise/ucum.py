"""Reads units as UCUM (https://ucum.org), through pint, after everyday spellings became UCUM's own.

An amount of substance becomes a mass, or the other way round, only where the analyte is named and
its molar mass is known. What only a laboratory can compare (international units, equivalents,
D-dimer as FEU or DDU) is converted to itself alone.
"""

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from lark.exceptions import LarkError
from pint import PintError
from ucumvert import PintUcumRegistry

from fedrx_client.data.harmonise.codes.value_sets import molar_mass

# Spellings of a whole unit, whose letters mean something else in a part of one.
_WHOLE: Mapping[str, str] = MappingProxyType({"C": "Cel", "F": "[degF]"})
# Capitals of older laboratory systems; "Mg" is not among them: in UCUM it is a tonne.
_CAPITALS: Mapping[str, str] = MappingProxyType(
    {
        one.upper(): one
        for one in ("mg", "ug", "ng", "pg", "kg", "mL", "dL", "uL", "fL", "mmol", "umol", "nmol")
    }
)
# Everyday words and spellings, in small letters, and UCUM's own; a part between '/' is looked up.
_EVERYDAY: Mapping[str, str] = MappingProxyType(
    {
        "minute": "min",
        "minutes": "min",
        "hour": "h",
        "hours": "h",
        "hr": "h",
        "day": "d",
        "days": "d",
        "week": "wk",
        "weeks": "wk",
        "month": "mo",
        "months": "mo",
        "year": "a",
        "years": "a",
        "yr": "a",
        "lb": "[lb_av]",
        "lbs": "[lb_av]",
        "oz": "[oz_av]",
        "in": "[in_i]",
        "inch": "[in_i]",
        "inches": "[in_i]",
        "ft": "[ft_i]",
        "feet": "[ft_i]",
        "mcg": "ug",
        "mcmol": "umol",
        "gm": "g",
        "kgs": "kg",
        "degc": "Cel",
        "deg c": "Cel",
        "°c": "Cel",
        "celsius": "Cel",
        "degf": "[degF]",
        "deg f": "[degF]",
        "°f": "[degF]",
        "fahrenheit": "[degF]",
        "mmhg": "mm[Hg]",
        "mm hg": "mm[Hg]",
        "percent": "%",
        "iu": "[IU]",
        "miu": "m[IU]",
        "uiu": "u[IU]",
        "bpm": "/min",
        "cells": "1",
        "ratio": "1",
        "inr": "{INR}",
        "score": "{score}",
        "(score)": "{score}",
        "cc": "mL",
        "cmm": "mm3",
        "1.73m2": "{1.73_m2}",
        "1.73 m2": "{1.73_m2}",
        "1.73m^2": "{1.73_m2}",
    }
)
_POWER = re.compile(r"[xX×]?\s*10\s*(?:\^|\*\*|\*|[eE])\s*(\d{1,2})")
_RAISED = re.compile(r"(10)([⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_LIKE = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹µμ", "0123456789uu")
_SHORT_POWER = re.compile(r"[eE](\d{1,2})")
_BRACKETS = re.compile(r"\[[^\]]*\]")
# Brackets around units that are defined by physics, not by a laboratory.
_PHYSICAL = frozenset(
    {"[lb_av]", "[oz_av]", "[in_i]", "[ft_i]", "[Hg]", "[H2O]", "[degF]", "[gr]", "[cal]", "[Cal]"}
)
_EQUIVALENTS = re.compile(r"(?<![A-Za-z])[munp]?eq(?![A-Za-z])")
_SPECIFIC = ("FEU", "DDU", "1.73")
_LONGEST = 60
_MANY_DIGITS = re.compile(r"\d{5}")


@lru_cache(maxsize=4096)
def factors(source: str, to: str, analyte: str | None = None) -> tuple[float, float] | None:
    """Return slope and offset that turn a value in one unit into one in another.

    Args:
        source: in UCUM or an everyday spelling.
        to: likewise.
        analyte: what is measured, as `analytes.csv` names it.

    Returns:
        `(slope, offset)`; `None` for a pair that measures different things, or is not UCUM.
    """
    one, other = ucum(source), ucum(to)
    if _meaning(one) != _meaning(other):
        return None
    measured, wanted = _quantity(one), _quantity(other)
    if measured is None or wanted is None:
        return None
    found = _linear(measured, wanted)
    mass = None if analyte is None else molar_mass(analyte)
    if found is None and mass is not None:
        per_mole = _pint().Quantity(mass, "gram/mole")
        found = _linear(measured * per_mole, wanted) or _linear(measured / per_mole, wanted)
    return found


@lru_cache(maxsize=4096)
def ucum(unit: str) -> str:
    """Write a unit as UCUM does: `mcg/mL` as `ug/mL`, `10^9/L` as `10*9/L`; others as they are.

    Nothing is checked: `factors` refuses what is not UCUM after all.
    """
    text = _RAISED.sub(r"\1^\2", unit.strip()).translate(_LIKE)
    if text in _WHOLE:
        return _WHOLE[text]
    parts = [part.strip() for part in _POWER.sub(r"10*\1", text).split("/")]
    for i, part in enumerate(parts):
        short = _SHORT_POWER.fullmatch(part)
        if short or (part in ("K", "k") and i == 0 and len(parts) > 1):
            parts[i] = f"10*{short[1]}" if short else "10*3"  # thousands, not kelvin
        else:
            parts[i] = _EVERYDAY.get(part.lower()) or _CAPITALS.get(part, part)
    return "/".join(parts)


def _meaning(unit: str) -> frozenset[str]:
    """Return what a unit says beyond physics, which no arithmetic can turn into anything else."""
    brackets = {one.lower() for one in set(_BRACKETS.findall(unit)) - _PHYSICAL}
    equivalents = {"eq"} if _EQUIVALENTS.search(unit) else set()
    return frozenset(brackets | equivalents | {one for one in _SPECIFIC if one in unit})


def _linear(measured: Any, wanted: Any) -> tuple[float, float] | None:  # noqa: ANN401 - of pint
    """Return slope and offset from one quantity's unit to another's; `None` if they do not fit."""
    make = _pint().Quantity

    def converted(value: float) -> float:
        result = make(value * measured.magnitude, measured.units).to(wanted.units).magnitude
        return float(result / wanted.magnitude)

    try:
        offset = converted(0.0)
        slope = converted(1.0) - offset
    except (PintError, ArithmeticError):
        return None
    # Pint multiplies powers of ten one after the other: what is beyond 13 digits is its rounding.
    slope, offset = float(f"{slope:.13g}"), float(f"{offset:.13g}")
    return (slope, offset) if math.isfinite(slope) and math.isfinite(offset) and slope else None


@lru_cache(maxsize=4096)
def _quantity(unit: str) -> Any | None:  # noqa: ANN401 - a quantity of pint
    """Read UCUM as one of pint's quantities; `None` for text that is not UCUM."""
    if not unit or len(unit) > _LONGEST or _MANY_DIGITS.search(unit):
        return None
    # An annotation says what is counted; alone it is the unit 1.
    bare = re.sub(r"\{[^{}]*\}", "", unit)
    bare = re.sub(r"//+", "/", bare).rstrip("/.") or "1"
    try:
        found = _reader().from_ucum(bare)
        # A number alone comes without a unit, or of another registry than the rest.
        plain = not hasattr(found, "units") or not found.units._units  # noqa: SLF001
        return _pint().Quantity(float(getattr(found, "magnitude", found))) if plain else found
    except (LarkError, PintError, ArithmeticError, ValueError, TypeError, AttributeError):
        return None


@lru_cache(maxsize=1)
def _reader() -> Any:  # noqa: ANN401 - ucumvert has no types
    """Load UCUM, once."""
    return PintUcumRegistry()


@lru_cache(maxsize=1)
def _pint() -> Any:  # noqa: ANN401 - as above
    """Return the registry of the reader's quantities, which is not the reader itself."""
    return _reader().from_ucum("g")._REGISTRY  # noqa: SLF001 - pint's own way
