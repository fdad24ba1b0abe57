"""Synthetic warfarin cohorts: sites whose patients are drawn from published figures.

Sources
- Allele frequencies and covariates by ancestry: see `ancestry`.
- Diplotypes: two independent draws per gene (Hardy-Weinberg).
- The pattern of missing values: rounded from the IWPC cohort (N Engl J Med 2009;360:753-64).
- Dose: the IWPC pharmacogenetic equation (same paper, appendix S1e) in square-root mg/week, plus
  normal noise. The default noise is the equation's residual on that cohort, 1.0.

The result is for testing and teaching: effects that the equation does not know are not in it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fedrx_models.cohort.cohort import MISSING_CATEGORY, Cohort
from fedrx_models.cohort.encoding import reference_target
from fedrx_models.pharmacogenomic.published import is_applicable, pharmacogenetic_dose
from fedrx_protocol.study.schema import (
    CategoryFeature,
    ContinuousTarget,
    FeatureSchema,
    NumberFeature,
)
from fedrx_simulation.cohorts.ancestry import ANCESTRIES
from fedrx_simulation.cohorts.federation import ImpossibleCohorts, check_knobs, draw_sites

Column = NDArray[Any]

_HEIGHT_SD_CM = 7.3
_AGE_SD_YEARS = 14.0
_ADULT_AGES = (18.0, 97.0)
_HEIGHT_WEIGHT_CORRELATION = 0.45
# Missing values by feature, as a multiple of the knob: 0.2 gives about what IWPC has.
_MISSING = {"height_cm": 1.0, "weight_kg": 0.25, "age_decade": 0.04, "vkorc1": 0.1, "cyp2c9": 0.1}
# A site either records a thing or does not: rates spread widely around their mean.
_MISSING_CONCENTRATION = 2.0
_SHIFTED_SD = {"height_cm": _HEIGHT_SD_CM, "weight_kg": 18.0}
_LOWEST_ROOT_DOSE = 1.5  # 2.25 mg/week, about the lowest stable dose that IWPC saw

# Reported populations among IWPC's Asian patients and their shares; the equation does not use them.
_POPULATIONS = ("Japanese", "Chinese", "Korean", "Malay", "Indian")
_POPULATION_SHARES = (0.53, 0.22, 0.17, 0.05, 0.03)

_GENERATED = frozenset(
    {*_MISSING, "race", "gender", "enzyme_inducer", "amiodarone", "smoker"}
    | {"valve_replacement", "thromboembolism", "asian_population"}
)


@dataclass(frozen=True)
class WarfarinCohorts:
    """The knobs of a synthetic federation.

    Attributes:
        schema: features to fill; those of `examples/warfarin/study.toml`, or fewer as long as
            the published equation can be computed.
        sites: number of sites.
        patients: smallest and largest site; sizes are drawn log-uniformly between them.
        sizes: patients of each site, instead of drawing them.
        heterogeneity: 0 to 1; the part of the variance in ancestry that is between sites. At 0
            all sites have the same mix, at 1 each site has one ancestry.
        missingness: 0 to 1; mean share of missing heights, other features in proportion.
        measurement_shift: how far the sites' rulers and scales disagree, as the standard
            deviation between sites of a constant offset, in patients' standard deviations.
        noise_sd: unexplained standard deviation of the square root of the weekly dose.
        seed: same seed, same patients; a site's patients do not depend on the other sites.

    Raises:
        ImpossibleCohorts: naming the knob, the value and what is allowed.
    """

    schema: FeatureSchema
    sites: int = 21
    patients: tuple[int, int] = (63, 789)
    sizes: tuple[int, ...] | None = None
    heterogeneity: float = 0.7
    missingness: float = 0.2
    measurement_shift: float = 0.1
    noise_sd: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_knobs(self, self.patients, missingness=(0, 1))
        if self.sizes is not None and (len(self.sizes) != self.sites or min(self.sizes) < 1):
            raise ImpossibleCohorts(
                f"sizes has {len(self.sizes)} entries for {self.sites} sites: "
                "give one number of at least 1 for each site."
            )
        unknown = sorted({feature.name for feature in self.schema.features} - _GENERATED)
        if unknown:
            raise ImpossibleCohorts(
                f"feature '{unknown[0]}' of the study cannot be generated; "
                f"allowed: {', '.join(sorted(_GENERATED))}."
            )
        dose_target(self.schema)
        levels = {f.name: f.values for f in self.schema.features if isinstance(f, CategoryFeature)}
        genders = set(levels.get("gender", ("male", "female")))
        if not is_applicable(self.schema) or not {"male", "female"} <= genders:
            raise ImpossibleCohorts(
                "the study's features or the outcome's unit do not fit the warfarin generator: "
                "start from those of examples/warfarin/study.toml."
            )


def dose_target(schema: FeatureSchema) -> ContinuousTarget:
    """Give the target, if it is a dose.

    Raises:
        ImpossibleCohorts: for an outcome of another kind.
    """
    if not isinstance(schema.target, ContinuousTarget):
        raise ImpossibleCohorts(
            f"the warfarin generator draws doses, but the study's outcome is {schema.target.kind}."
        )
    return schema.target


def generate(knobs: WarfarinCohorts) -> dict[str, Cohort]:
    """Draw all sites, by name, in order."""
    return draw_sites(
        partial(_draw_site, knobs),
        sites=knobs.sites,
        patients=knobs.patients,
        seed=knobs.seed,
        sizes=knobs.sizes,
    )


def _draw_site(knobs: WarfarinCohorts, rng: Generator, name: str, size: int) -> Cohort:
    """Draw one site: true values first, dose from them, then what the site would have recorded."""
    truth = _draw_patients(rng, _draw_mix(rng, knobs.heterogeneity), size)
    typed: dict[str, Column] = {}  # as a `Cohort` holds it, inside the schema's range
    for feature in knobs.schema.features:
        column = truth[feature.name]
        if isinstance(feature, NumberFeature):
            column = np.clip(column, feature.minimum, feature.maximum)
        elif isinstance(feature, CategoryFeature):
            codes = {value: code for code, value in enumerate(feature.values)}
            known = [codes.get(value, MISSING_CATEGORY) for value in column]
            column = np.array(known, dtype=np.int16)
        typed[feature.name] = column
    patients = tuple(f"{name}-p{i + 1:05d}" for i in range(size))
    target = dose_target(knobs.schema)
    placeholder = np.full(size, reference_target(target))
    complete = Cohort(name, knobs.schema, patients, typed, placeholder)
    # Stable weekly dose in mg, `(n,)`: the equation on the true values, plus noise.
    root = np.sqrt(pharmacogenetic_dose(complete)) + rng.normal(0.0, knobs.noise_sd, size)
    dose = np.square(np.maximum(root, _LOWEST_ROOT_DOSE))
    dose = np.clip(dose, target.minimum, target.maximum)
    recorded = _record(rng, knobs, complete.values)
    return Cohort(name, knobs.schema, patients, recorded, dose)


def _draw_mix(rng: Generator, heterogeneity: float) -> NDArray[np.float64]:
    """Draw a site's ancestry mix, `(ancestries,)`.

    A Dirichlet with concentration 1/h - 1 has the variance h p (1 - p), of which a single
    patient's p (1 - p) is the whole: `h` is the part between sites.
    """
    shares = np.array([ancestry.share for ancestry in ANCESTRIES.values()])
    shares /= shares.sum()
    if heterogeneity == 0:
        return shares
    if heterogeneity > 0.999:  # the Dirichlet degenerates to one ancestry
        return rng.multinomial(1, shares).astype(np.float64)
    return rng.dirichlet(shares * (1 / heterogeneity - 1))


def _draw_patients(rng: Generator, mix: NDArray[np.float64], size: int) -> dict[str, Column]:
    """Draw true values by feature name: numbers, text for categories, booleans for flags."""
    names, figures = np.array(list(ANCESTRIES)), list(ANCESTRIES.values())
    ancestry = rng.choice(len(figures), size=size, p=mix)

    def of(attribute: str) -> Column:
        return np.array([getattr(f, attribute) for f in figures])[ancestry]

    female = (rng.random(size) >= of("male")).astype(np.int64)
    everyone = np.arange(size)
    height_z, other = rng.standard_normal((2, size))
    correlation = _HEIGHT_WEIGHT_CORRELATION
    weight_z = correlation * height_z + math.sqrt(1 - correlation**2) * other
    log_sd = of("weight_log_sd")
    age = np.clip(rng.normal(of("age_years"), _AGE_SD_YEARS), *_ADULT_AGES)
    return {
        "race": names[ancestry],
        "gender": np.array(["male", "female"])[female],
        "age_decade": np.floor(age / 10),
        "height_cm": of("height_cm")[everyone, female] + _HEIGHT_SD_CM * height_z,
        "weight_kg": of("weight_kg")[everyone, female] * np.exp(log_sd * weight_z - log_sd**2 / 2),
        "vkorc1": draw_vkorc1(rng, of("vkorc1_a")),
        "cyp2c9": draw_cyp2c9(rng, of("cyp2c9_2"), of("cyp2c9_3")),
        "enzyme_inducer": rng.random(size) < of("inducer"),
        "amiodarone": rng.random(size) < of("amiodarone"),
        "smoker": rng.random(size) < of("smoker"),
        "valve_replacement": rng.random(size) < of("valve"),
        "thromboembolism": rng.random(size) < of("thromboembolism"),
        "asian_population": np.where(
            names[ancestry] == "Asian", rng.choice(_POPULATIONS, size, p=_POPULATION_SHARES), ""
        ),
    }


def draw_vkorc1(rng: Generator, frequency_a: Column) -> Column:
    """Draw VKORC1 -1639 genotypes in Hardy-Weinberg proportions, `(n,)` of text.

    Args:
        rng: simulation randomness.
        frequency_a: `(n,)`, frequency of the A allele in each patient's ancestry.
    """
    return np.array(["G/G", "A/G", "A/A"])[rng.binomial(2, frequency_a)]


def draw_cyp2c9(rng: Generator, frequency_2: Column, frequency_3: Column) -> Column:
    """Draw CYP2C9 diplotypes in Hardy-Weinberg proportions, `(n,)` of text.

    Args:
        rng: simulation randomness.
        frequency_2: `(n,)`, frequency of *2 in each patient's ancestry.
        frequency_3: `(n,)`, frequency of *3; the rest is *1.
    """
    uniform = rng.random((2, len(frequency_2)))
    alleles = 1 + (uniform < frequency_2 + frequency_3) + (uniform < frequency_3)
    low, high = np.sort(alleles, axis=0)
    return np.array([f"*{a}/*{b}" for a, b in zip(low, high, strict=True)], dtype="U5")


def _record(
    rng: Generator, knobs: WarfarinCohorts, truth: Mapping[str, Column]
) -> dict[str, Column]:
    """Give what the site's table holds: shifted measurements, missing values."""
    recorded = {name: column.copy() for name, column in truth.items()}
    features = {feature.name: feature for feature in knobs.schema.features}
    for name, sd in _SHIFTED_SD.items():
        feature = features[name]
        recorded[name] += rng.normal(0.0, 1.0) * knobs.measurement_shift * sd
        if isinstance(feature, NumberFeature):
            recorded[name] = np.clip(recorded[name], feature.minimum, feature.maximum)
    for name, factor in _MISSING.items():
        drawn, rate = rng.random(len(recorded[name])), knobs.missingness
        if rate not in {0.0, 1.0}:
            # A site's own rate: a Beta draw with this mean, so that some record next to nothing.
            c = _MISSING_CONCENTRATION
            rate = float(rng.beta(c * rate, c * (1 - rate)))
        nothing = np.nan if isinstance(features[name], NumberFeature) else MISSING_CATEGORY
        recorded[name][drawn < factor * rate] = nothing
    return recorded
