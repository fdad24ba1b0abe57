"""What a study knows of a patient's gene: its result, and all names under which a table has it."""

import re
from dataclasses import dataclass

import numpy as np

from fedrx_client.data.harmonise.alleles.spellings import normal_diplotype
from fedrx_client.data.harmonise.alleles.tables import GENES, gene_table
from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import CategoryFeature, Feature, FeatureSchema, NumberFeature

_BASES = re.compile(r"(?P<first>[ACGT])/(?P<second>[ACGT])")
_KINDS = ("", "_diplotype", "_genotype", "_phenotype", "_activity", "_activity_score")


@dataclass(frozen=True)
class GeneResult:
    """A patient's result of one gene.

    Attributes:
        gene: its name.
        shown: as a person reads it: "*1/*3 (Intermediate Metabolizer)"; "" where it is not known.
        names: what a table may call it: the diplotype, its alleles, the phenotype, "activity 1.5".
    """

    gene: str
    shown: str
    names: frozenset[str]


def gene_feature(schema: FeatureSchema, gene: str) -> Feature | None:
    """Find the feature with a gene's result: named as the gene, or gene_phenotype and so on."""
    wanted = [f"{gene.lower()}{kind}" for kind in _KINDS]
    named = {one.name.lower(): one for one in schema.features}
    return next((named[name] for name in wanted if name in named), None)


def gene_result(cohort: Cohort, patient: int, gene: str) -> GeneResult:
    """Read a patient's result of a gene; without names where it is not known."""
    feature = gene_feature(cohort.schema, gene)
    if feature is None:
        return GeneResult(gene, "", frozenset())
    value = cohort.values[feature.name][patient]
    if isinstance(feature, NumberFeature):
        known = not np.isnan(value)
        text = f"activity {float(value):g}"
        return GeneResult(gene, text if known else "", frozenset({text} if known else ()))
    if not isinstance(feature, CategoryFeature) or int(value) < 0:
        return GeneResult(gene, "", frozenset())
    return _named(gene, feature.values[int(value)])


def _named(gene: str, text: str) -> GeneResult:
    """Find what a table may call a result: a genotype, a phenotype or a diplotype."""
    bases = _BASES.fullmatch(text)
    if bases:
        return GeneResult(gene, text, frozenset({"/".join(sorted(bases.groups()))}))
    if gene not in GENES:
        return GeneResult(gene, text, frozenset({text}))
    table = gene_table(gene)
    phenotypes = {one.lower(): one for one in table.phenotypes.values()}
    said = phenotypes.get(" ".join(text.replace("_", " ").lower().split()))
    if said is not None:
        return GeneResult(gene, said, frozenset({said}))
    try:
        diplotype = normal_diplotype(text, gene)
    except ValueError:  # "other", "unknown": a level of the study that names no alleles
        return GeneResult(gene, text, frozenset())
    alleles = diplotype.split("/")
    found = {diplotype, *alleles}
    functions = sorted(table.functions.get(name, "") for name in alleles)
    phenotype = table.phenotypes.get((functions[0], functions[-1]))
    found |= {phenotype} if phenotype else set()
    scores = [table.activity[name] for name in alleles if name in table.activity]
    if len(scores) == len(alleles) and len(scores) == 2:
        found.add(f"activity {sum(scores):g}")
    shown = f"{diplotype} ({phenotype})" if phenotype else diplotype
    return GeneResult(gene, shown, frozenset(found))
