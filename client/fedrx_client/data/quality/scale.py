"""Units that look wrong: a median that is off its public reference by a factor between two units.

A site that writes creatinine in µmol/L where its mapping says mg/dL is off by 88.4. Molar factors
follow from molar masses (glucose 180.16, creatinine 113.12, bilirubin 584.66, cholesterol 386.65,
triglycerides about 885, urea nitrogen 28.01, uric acid 168.11 and haemoglobin 64,458 / 4 g/mol);
the others are exact.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

_SUSPICIOUS = 2.0  # public standard deviations of a patient, by which a median is off
_EXPLAINED = 1.0  # and by how many at most once the factor is taken out
_FEWEST = 10  # values, below which a median says little
_MIXED_SHARE = 0.02  # of values that a factor explains, where the median is right
_MIXED_FAR = 4.0
_FEWEST_MIXED = 5

# What (the site's number / the study's number) is, if the site's unit were another one.
_FACTORS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "kg": {"lb": 2.2046, "g": 1000.0},
        "cm": {"in": 1 / 2.54, "ft": 1 / 30.48, "m": 0.01, "mm": 10.0},
        "mg/dL": {
            "mmol/L (glucose)": 1 / 18.016,
            "µmol/L (creatinine)": 88.42,
            "µmol/L (bilirubin)": 17.10,
            "mmol/L (cholesterol)": 1 / 38.67,
            "mmol/L (triglycerides)": 1 / 88.57,
            "mmol/L (urea nitrogen)": 1 / 2.801,
            "µmol/L (uric acid)": 59.48,
        },
        "umol/L": {"mg/dL (creatinine)": 1 / 88.42, "mg/dL (bilirubin)": 1 / 17.10},
        "mmol/L": {
            "mg/dL (glucose)": 18.016,
            "mg/dL (cholesterol)": 38.67,
            "mg/dL (triglycerides)": 88.57,
            "mg/dL (urea nitrogen)": 2.801,
            "mg/dL (calcium)": 4.008,
        },
        "g/dL": {"g/L": 10.0, "mmol/L (haemoglobin)": 0.6206},
        "g/L": {"g/dL": 0.1, "mmol/L (haemoglobin)": 0.06206},
        "year": {"month": 12.0, "day": 365.25, "decade": 0.1},
        "decade": {"year": 10.0},
        "month": {"year": 1 / 12, "day": 30.4375},
        "day": {"hour": 24.0, "month": 1 / 30.4375},
        "hour": {"day": 1 / 24, "minute": 60.0},
        "mg/week": {"mg/day": 1 / 7},
        "mg/day": {"mg/week": 7.0},
        "mmHg": {"kPa": 1 / 7.5006},
        "K/uL": {"/uL": 1000.0},
        "%": {"a share of 1": 0.01},
    }
)
_ANY: Mapping[str, float] = MappingProxyType(
    {
        f"a unit {n:g} times {word}": factor
        for n in (10.0, 100.0, 1000.0)
        for word, factor in (("smaller", n), ("larger", 1 / n))
    }
)
_SPELLED: Mapping[str, str] = MappingProxyType(
    {"years": "year", "months": "month", "days": "day", "hours": "hour", "µmol/L": "umol/L"}
)


@dataclass(frozen=True)
class OffBy:
    """A factor that explains why values are off their reference.

    Attributes:
        factor: the site's number divided by the expected one.
        unit: the unit that would explain it, in words.
        share: which part of the values is off, between 0 and 1.
    """

    factor: float
    unit: str
    share: float


@dataclass(frozen=True)
class PublicReference:
    """What is publicly known of a quantity.

    Attributes:
        unit: the study's unit.
        mean: in `unit`, or of the logarithm where `log` is set.
        scale: the standard deviation of the same.
        log: whether both are of the natural logarithm.
    """

    unit: str
    mean: float
    scale: float
    log: bool = False

    @property
    def centre(self) -> float:
        """The usual value, in the unit."""
        return math.exp(self.mean) if self.log else self.mean

    @property
    def log_scale(self) -> float | None:
        """The spread of the logarithm; None where values are not all positive, so none is known.

        Of a mean m and standard deviation s it is sqrt(ln(1 + s²/m²)), as of a lognormal.
        """
        if self.log:
            return self.scale
        if self.mean <= 0:
            return None
        return math.sqrt(math.log1p((self.scale / self.mean) ** 2))


def off_by(values: NDArray[np.float64], reference: PublicReference) -> OffBy | None:
    """Find a factor between two units that explains why values are off; None if none does.

    Args:
        values: known values, in what the mapping says is the study's unit.
        reference: what is publicly known of them.
    """
    spread, positive = reference.log_scale, values[values > 0]
    enough = len(positive) >= max(_FEWEST, len(values) / 2)
    if spread is None or reference.centre <= 0 or not enough:
        return None
    ratio = math.log(float(np.median(positive)) / reference.centre)
    fahrenheit = _fahrenheit(positive, reference)
    if fahrenheit is not None:
        return fahrenheit
    candidates = {**_FACTORS.get(_SPELLED.get(reference.unit, reference.unit), {}), **_ANY}
    if abs(ratio) < _SUSPICIOUS * spread:
        return _mixed(np.log(positive / reference.centre), spread, candidates)
    unit = min(candidates, key=lambda one: abs(ratio - math.log(candidates[one])))
    left = abs(ratio - math.log(candidates[unit]))
    explained = left <= min(_EXPLAINED * spread, abs(ratio) / 2)
    return OffBy(candidates[unit], unit, 1.0) if explained else None


def _mixed(
    away: NDArray[np.float64], spread: float, candidates: Mapping[str, float]
) -> OffBy | None:
    """Find a factor by which some of the values are off, where most are right."""
    for unit, factor in candidates.items():
        off = (np.abs(away) > _MIXED_FAR * spread) & (
            np.abs(away - math.log(factor)) <= _EXPLAINED * spread
        )
        if off.mean() >= _MIXED_SHARE and off.sum() >= _FEWEST_MIXED:
            return OffBy(factor, unit, float(off.mean()))
    return None


def _fahrenheit(values: NDArray[np.float64], reference: PublicReference) -> OffBy | None:
    """Recognise temperatures of a body in Fahrenheit, which no factor gives."""
    celsius = reference.unit in {"C", "°C", "Cel"} and 30 < reference.centre < 45
    if celsius and 86 < float(np.median(values)) < 113:
        return OffBy(float(np.median(values)) / reference.centre, "°F", 1.0)
    return None
