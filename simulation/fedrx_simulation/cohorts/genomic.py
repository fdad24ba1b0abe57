"""Synthetic omics cohorts with planted effects, for any study that has blocks.

Everything is invented: for testing and teaching. Three effects are planted on genes of the study,
so that a test can see whether a model finds them:

- an interaction of two genes that has no main effect, which a linear model cannot see (epistasis);
- a responder subgroup: those with one gene in its upper state respond, the others do not;
- a toxic genotype: a rare state of one gene with a large effect.

The panel's drugs act through the genes that they target. How genes are drawn: `genomic_blocks`.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import restore_panel, restore_target
from fedrx_protocol.study.schema import (
    BinaryTarget,
    CategoryFeature,
    FeatureSchema,
    ForecastTarget,
    NumberFeature,
    PanelTarget,
    SurvivalTarget,
)
from fedrx_simulation.cohorts.federation import ImpossibleCohorts, check_knobs, draw_sites
from fedrx_simulation.cohorts.genomic_blocks import (
    FACTORS,
    RARE_CARRIERS,
    States,
    draw_states,
    planted_genes,
)
from fedrx_simulation.cohorts.genomic_blocks import measured as measured_block

Floats = NDArray[np.float64]

_CLINICAL_EFFECT = 0.3
_FLAG_RATE = 0.2
_GENERAL_SD = 0.7  # of what a patient's responses to all drugs share


@dataclass(frozen=True)
class GenomicCohorts:
    """The knobs of a synthetic omics federation; effects are in outcome units of the model.

    Those are reference standard deviations for numbers and panels, log odds for yes or no, and
    log odds of the hazard for survival.

    Attributes:
        schema: the study's features, blocks and outcome.
        sites: number of sites.
        patients: smallest and largest site; sizes are drawn log-uniformly between them.
        interaction: effect of both interacting genes one step up, or both one step down.
        responder: effect of the responder's state.
        toxicity: effect of the toxic state.
        heterogeneity: 0 to 1; the part of the variance of the genes' shared factors that lies
            between sites.
        missingness: 0 to below 1; mean share of patients who lack a block; sites differ. The
            block that holds the planted effects is as often missing as any other.
        measurement_shift: standard deviation between sites of a constant offset of every gene
            that is not a mutation, in reference standard deviations.
        noise_sd: unexplained standard deviation of a number.
        seed: same seed, same patients; a site's patients do not depend on the other sites.

    Raises:
        ImpossibleCohorts: naming the knob, the value and what is allowed.
    """

    schema: FeatureSchema
    sites: int = 8
    patients: tuple[int, int] = (100, 400)
    interaction: float = 0.6
    responder: float = 1.0
    toxicity: float = 1.5
    heterogeneity: float = 0.2
    missingness: float = 0.0
    measurement_shift: float = 0.1
    noise_sd: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_knobs(
            self, self.patients, interaction=(-10, 10), responder=(-10, 10), toxicity=(-10, 10)
        )
        planted_genes(self.schema)


def generate_genomic(knobs: GenomicCohorts) -> dict[str, Cohort]:
    """Draw all sites, by name, in order."""
    return draw_sites(
        partial(_draw_site, knobs), sites=knobs.sites, patients=knobs.patients, seed=knobs.seed
    )


def _draw_site(knobs: GenomicCohorts, rng: Generator, name: str, size: int) -> Cohort:
    """Draw one site: true values first, the outcome from them, then what is missing."""
    schema, planted = knobs.schema, planted_genes(knobs.schema)
    values = {feature.name: draw_feature(rng, feature, size) for feature in schema.features}
    between = knobs.heterogeneity
    factors = math.sqrt(between) * rng.standard_normal(FACTORS) + math.sqrt(
        1 - between
    ) * rng.standard_normal((size, FACTORS))
    states = {
        b.name: draw_states(rng, b, planted, factors, knobs.measurement_shift)
        for b in schema.blocks
    }
    block = states[planted.block]
    first, second = planted.interacting
    responds = block.upper(planted.responder).astype(np.float64)
    harmed = block.rare(planted.toxic).astype(np.float64)
    effect = (  # each is centred, so that the rate stays near
        knobs.interaction * (block.of(first) * block.of(second))
        + knobs.responder * (responds - 0.44)
        + knobs.toxicity * (harmed - RARE_CARRIERS)
    )
    number = next((one for one in schema.features if isinstance(one, NumberFeature)), None)
    if number is not None:  # so that there is something for `linear` to find
        column = values[number.name].astype(np.float64)
        effect = effect + _CLINICAL_EFFECT * (column - number.mean) / number.scale
    target = _outcome(rng, knobs, effect, block)
    measured = {b.name: measured_block(b, states[b.name]) for b in schema.blocks}
    for genes in measured.values():
        drawn, mean = rng.random(size), knobs.missingness
        # A site's own rate, a Beta draw with this mean: some sites measure next to nothing.
        rate = rng.beta(2 * mean, 2 * (1 - mean)) if mean else 0.0
        genes[drawn < rate] = np.nan
    patients = tuple(f"{name}-p{i + 1:05d}" for i in range(size))
    return Cohort(name, schema, patients, values, target, measured)


def draw_feature(rng: Generator, feature: object, size: int) -> NDArray[np.generic]:
    """Draw a feature of `size` patients, from its public reference; nothing is missing."""
    if isinstance(feature, NumberFeature):
        drawn = rng.normal(feature.mean, feature.scale, size)
        return np.clip(drawn, feature.minimum, feature.maximum)
    if isinstance(feature, CategoryFeature):
        return rng.integers(0, len(feature.values), size).astype(np.int16)
    return rng.random(size) < _FLAG_RATE


def _outcome(rng: Generator, knobs: GenomicCohorts, effect: Floats, block: States) -> Floats:
    """Draw outcomes as a `Cohort` holds them; `block` is the one with the planted genes."""
    target = knobs.schema.target
    if isinstance(target, BinaryTarget):
        chance = 1 / (1 + np.exp(-(effect + math.log(target.rate / (1 - target.rate)))))
        return (rng.random(len(chance)) < chance).astype(np.float64)
    if isinstance(target, SurvivalTarget):
        chance = 1 / (1 + np.exp(-(effect + math.log(target.hazard / (1 - target.hazard)))))
        happens = rng.random((len(effect), len(target.edges))) < chance[:, None]
        first = np.where(happens.any(axis=1), happens.argmax(axis=1), len(target.edges))
        begins = np.array([0.0, *target.edges])
        ends = np.array([*target.edges, target.edges[-1]])
        time = begins[first] + rng.uniform(0.01, 1, len(first)) * (ends[first] - begins[first])
        leaves = np.where(  # a third leaves unharmed at a random time
            rng.random(len(first)) < 1 / 3, rng.uniform(0, target.edges[-1], len(first)), np.inf
        )
        event = (first < len(target.edges)) & (time <= leaves)
        return np.stack([np.minimum(time, leaves), event.astype(np.float64)], axis=1)
    if isinstance(target, PanelTarget):
        return _responses(rng, knobs, target, effect, block)
    if isinstance(target, ForecastTarget):
        raise ImpossibleCohorts("a forecast is drawn by the generator of courses.")
    noisy = effect + rng.normal(0.0, knobs.noise_sd, len(effect))
    return restore_target(target, noisy)


def _responses(
    rng: Generator,
    knobs: GenomicCohorts,
    target: PanelTarget,
    effect: Floats,
    block: States,
) -> Floats:
    """Draw responses `(patients, drugs)`: what a patient's drugs share, the targets, noise."""
    general = rng.normal(0.0, _GENERAL_SD, len(effect))
    shared = general + 0.5 * effect
    responses = np.tile(shared[:, None], (1, len(target.drugs)))
    for place, drug in enumerate(target.drugs):
        for gene in drug.targets:
            if gene in block.genes:
                responses[:, place] -= 0.6 * block.of(gene) / math.sqrt(len(drug.targets))
    responses += rng.normal(0.0, knobs.noise_sd, responses.shape)
    restored = restore_panel(target, responses)
    untried = rng.random(responses.shape) < 0.15
    untried[np.arange(len(untried)), rng.integers(0, untried.shape[1], len(untried))] = False
    return np.where(untried, np.nan, restored)
