"""Genes of synthetic patients, block by block, and which of them carry the planted effects.

Mutations are allele counts in Hardy-Weinberg proportions (or carriers, where the block ends at 1);
everything else is normal around the study's public reference, with a few factors that genes share.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from fedrx_protocol.study.schema import Block, FeatureSchema
from fedrx_simulation.cohorts.federation import ImpossibleCohorts

Floats = NDArray[np.float64]

FACTORS = 3
RARE_CARRIERS = 0.16
"""Share of patients in the toxic state: homozygous for an allele of frequency 0.4."""

_PLANTED_GENES = 4
_COMMON_ALLELE = 0.5  # centred counts of such alleles have no skew, so a product has no main effect
_OTHER_ALLELE = 0.25
_FACTOR_SHARE = 0.3  # of a gene's variance
_UPPER = 0.5  # standard deviations above which an expressed gene is in its upper state


@dataclass(frozen=True)
class PlantedGenes:
    """Where the effects sit: a block, and genes of it.

    Attributes:
        block: the study's first block of mutations, or else its first block.
        interacting: the two genes whose product acts.
        responder: the gene whose upper state makes a responder.
        toxic: the gene whose rare state is toxic.
    """

    block: str
    interacting: tuple[str, str]
    responder: str
    toxic: str


def planted_genes(schema: FeatureSchema) -> PlantedGenes:
    """Choose the genes that carry the effects in cohorts of this study.

    Raises:
        ImpossibleCohorts: if the study has no block with enough genes.
    """
    mutations = [block for block in schema.blocks if block.kind == "mutation"]
    large = [b for b in (*mutations, *schema.blocks) if len(b.genes) >= _PLANTED_GENES]
    if not large:
        raise ImpossibleCohorts(
            f"synthetic omics cohorts need a study with a block of at least {_PLANTED_GENES} genes."
        )
    genes = large[0].genes
    spread = [genes[i * len(genes) // _PLANTED_GENES] for i in range(_PLANTED_GENES)]
    return PlantedGenes(large[0].name, (spread[0], spread[1]), spread[2], spread[3])


@dataclass(frozen=True, eq=False)
class States:
    """A block's genes in steps around their middle, `(patients, genes)`.

    Attributes:
        steps: allele counts minus 1, carriers as -1 and 1, or standard deviations.
        discrete: whether the block counts alleles.
    """

    genes: tuple[str, ...]
    steps: Floats
    discrete: bool

    def of(self, gene: str) -> Floats:
        """One gene's steps, `(patients,)`."""
        steps: Floats = self.steps[:, self.genes.index(gene)]
        return steps

    def upper(self, gene: str) -> NDArray[np.bool_]:
        """Who has the gene in its upper state: any copy of the allele, or much of it."""
        return self.of(gene) > (-1 if self.discrete else _UPPER)

    def rare(self, gene: str) -> NDArray[np.bool_]:
        """Who has the gene in its rare state: two copies, or very much of it."""
        return self.of(gene) > (0 if self.discrete else 1.0)


def draw_states(
    rng: Generator, block: Block, planted: PlantedGenes, factors: Floats, shift: float
) -> States:
    """Draw a block of the patients of one site, whose shared factors are `(patients, FACTORS)`.

    Mutations are independent allele counts; other genes are standard deviations from the
    reference, and share the factors.
    """
    size, count = len(factors), len(block.genes)
    if block.kind == "mutation":
        frequency = np.full(count, _OTHER_ALLELE)
        for gene in set(planted.interacting) & set(block.genes):
            frequency[block.genes.index(gene)] = _COMMON_ALLELE
        if planted.toxic in block.genes:
            rare = RARE_CARRIERS if block.maximum < 2 else math.sqrt(RARE_CARRIERS)
            frequency[block.genes.index(planted.toxic)] = rare
        if block.maximum < 2:  # carriers: -1 and 1
            carriers = rng.random((size, count)) < frequency
            return States(block.genes, 2.0 * carriers.astype(np.float64) - 1, discrete=True)
        counts = rng.binomial(2, frequency, (size, count)).astype(np.float64)
        return States(block.genes, counts - 1, discrete=True)
    own = rng.standard_normal((size, count)) * math.sqrt(1 - _FACTOR_SHARE)
    # The same randomness for one name at every site: how genes relate is biology.
    biology = Generator(PCG64(int.from_bytes(block.name.encode(), "big")))
    loadings = biology.standard_normal((FACTORS, count))
    shared = factors @ loadings * math.sqrt(_FACTOR_SHARE / FACTORS)
    for gene in (*planted.interacting, planted.responder, planted.toxic):
        if gene in block.genes:  # independent, so that each effect is separate
            shared[:, block.genes.index(gene)] = 0
    offset = rng.normal(0.0, shift, count)
    return States(block.genes, own + shared + offset, discrete=False)


def measured(block: Block, states: States) -> Floats:
    """Give values in the block's unit, inside its range."""
    if states.discrete:
        values = (states.steps + 1) / 2 if block.maximum < 2 else states.steps + 1
    else:
        values = np.asarray(block.mean) + np.asarray(block.scale) * states.steps
    clipped: Floats = np.clip(values, block.minimum, block.maximum)
    return clipped
