"""The guideline beside a model's answer, and whether the two disagree by more than is allowed."""

from collections.abc import Callable, Mapping, Sequence

from fedrx_client.clinic.guideline.genes import GeneResult, gene_feature, gene_result
from fedrx_client.clinic.guideline.table import (
    USUAL,
    GuidelineTable,
    Recommendation,
    guideline_table,
)
from fedrx_client.clinic.predict import PatientPrediction, Point
from fedrx_client.data.harmonise.units import conversion
from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.files import ModelFile
from fedrx_models.pharmacogenomic.published import EQUATIONS, is_applicable
from fedrx_protocol.study.schema import CategoryFeature, ContinuousTarget, FeatureSchema

DISAGREEMENT = 0.25
"""Share of the guideline's dose by which a model may differ, unless the site says otherwise."""

_AFRICAN = "Black or African American"
# Alleles that the equation knows; with any other its coefficient would be that of *1/*1.
_OF_EQUATION = frozenset({"*1", "*2", "*3"})
# Without these CPIC has patients of African ancestry dosed without their genes.
_OF_AFRICA = ("*5", "*6", "*8", "*11")

Guidance = Callable[[ModelFile, Cohort, PatientPrediction], tuple[Sequence[str], str]]
"""As the service asks for it: sentences, and one on how far the model differs, or an empty one."""
Allowed = tuple[float, float, str, str]
"""Lowest and highest dose, their unit, and where they come from, in words."""


def guideline_for(name: str, schema: FeatureSchema, disagreement: float = DISAGREEMENT) -> Guidance:
    """Make what says a guideline beside a model's answers.

    Args:
        name: one of `GUIDELINES`.
        schema: the model's.
        disagreement: share of the guideline's dose by which the model may differ, above 0.

    Raises:
        MisuseError: there is no such guideline, or the study lacks all of its genes.
    """
    table = guideline_table(name)
    if not 0 < disagreement <= 10:
        raise MisuseError(
            f"a disagreement of {disagreement!r} is not possible: give a share such as 0.25."
        )
    if not any(gene_feature(schema, gene) for gene in table.genes):
        raise MisuseError(
            f"guideline '{name}' needs {' and '.join(table.genes)}, and the study has no such "
            f"feature (named {', '.join(repr(gene.lower()) for gene in table.genes)}): leave the "
            "guideline out."
        )

    def asked(
        _model: ModelFile, patient: Cohort, found: PatientPrediction
    ) -> tuple[Sequence[str], str]:
        place = patient.patients.index(found.patient)
        return guidance(table, patient, place, found, disagreement)

    return asked


def guidance(
    table: GuidelineTable,
    cohort: Cohort,
    patient: int,
    found: PatientPrediction,
    disagreement: float,
) -> tuple[tuple[str, ...], str]:
    """Say what a guideline recommends for a patient, and whether a model's answer disagrees.

    Args:
        table: the guideline.
        cohort: patients with their genes.
        patient: whom of them.
        found: the model's answer.
        disagreement: share of the guideline's dose by which the model may differ.

    Returns:
        Sentences, the source last; and one on the disagreement, or an empty one.
    """
    genes = {gene for line in table.recommendation for gene in line.when} | set(table.genes)
    results = {gene: gene_result(cohort, patient, gene) for gene in sorted(genes)}
    lines = _lines(table, results)
    known = [f"{gene} {one.shown}" for gene, one in results.items() if one.shown]
    lacking = [gene for gene in table.genes if not results[gene].names]
    says = []
    if known:
        says.append(f"Guideline for {table.drug} at {', '.join(known)}.")
    calculated = _calculated(table, cohort, patient, results)
    if calculated is not None:
        says.append(f"{calculated[3]}: {calculated[0]:.3g} mg/week.")
    says += [f"{line.says}." for line in lines]
    if lacking:
        says.append(f"The guideline needs {' and '.join(lacking)}, not known for this patient.")
    elif not lines and calculated is None:
        says.append("The guideline has no recommendation for this result.")
    says.append(
        f"Source: {table.source}; version {table.version}; {table.licence}; newest at "
        f"{table.address}."
    )
    target, point, disagrees = cohort.schema.target, found.points[0], ""
    # A probability or a course has no dose to compare.
    if isinstance(target, ContinuousTarget) and "dose" in target.name and point.value:
        disagrees = _disagrees(table.drug, lines, calculated, point, disagreement)
    return tuple(says), disagrees


def _lines(table: GuidelineTable, results: Mapping[str, GeneResult]) -> list[Recommendation]:
    """Find the lines that hold for a patient: the first that fits, and those beside it."""
    fitting = [
        line
        for line in table.recommendation
        if all(results[gene].names & set(wanted) for gene, wanted in line.when.items())
    ]
    first = next((line for line in fitting if not line.also), None)
    return [*([] if first is None else [first]), *(line for line in fitting if line.also)]


def _calculated(
    table: GuidelineTable, cohort: Cohort, patient: int, results: Mapping[str, GeneResult]
) -> Allowed | None:
    """Compute the dose by the equation that a guideline recommends; None where it cannot be.

    CPIC has patients of African ancestry dosed without their genes where CYP2C9 *5, *6, *8 and
    *11 were not tested, and anyone whose genotypes are not known.
    """
    if table.algorithm != "iwpc" or not is_applicable(cohort.schema):
        return None
    cyp2c9 = results["CYP2C9"].names
    alleles = {name for name in cyp2c9 if name.startswith("*") and "/" not in name}
    if alleles - _OF_EQUATION or (results["CYP2C9"].shown and not cyp2c9):
        return None
    tested = gene_feature(cohort.schema, "CYP2C9")
    values = tested.values if isinstance(tested, CategoryFeature) else ()
    whole_test = all(any(one in value.split("/") for value in values) for one in _OF_AFRICA)
    race = next(one for one in cohort.schema.features if one.name == "race")
    levels = race.values if isinstance(race, CategoryFeature) else ()
    code = int(cohort.values["race"][patient])
    african = code >= 0 and levels[code] == _AFRICAN
    if (african and not whole_test) or not all(results[gene].names for gene in table.genes):
        equation, why = "clinical", "Without genes, as the guideline says for this patient"
    else:
        equation, why = "pharmacogenetic", "By the IWPC's pharmacogenetic algorithm"
    dose = float(EQUATIONS[equation](cohort)[patient])
    return dose, dose, "mg/week", why


def _disagrees(
    drug: str,
    lines: Sequence[Recommendation],
    calculated: Allowed | None,
    point: Point,
    disagreement: float,
) -> str:
    """Say how far a predicted dose lies from what a guideline allows, if it is too far."""
    value = point.value or 0.0
    if any(line.avoid for line in lines):
        return (
            f"The guideline advises against the usual dose of {drug} for this patient, and the "
            f"model predicts {value:.3g} {point.unit}."
        )
    span = _span(lines, calculated, point.unit)
    if span is None:
        return ""
    low, high = span
    above, below = value > high * (1 + disagreement), value < low * (1 - disagreement)
    if not (above or below):
        return ""
    far = f"{100 * abs(value / (high if above else low) - 1):.0f} %"
    allowed = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    return (
        f"The model's {value:.3g} {point.unit} is {far} {'above' if above else 'below'} the "
        f"guideline's {allowed} {point.unit}; {100 * disagreement:.0f} % is allowed here."
    )


def _span(
    lines: Sequence[Recommendation], calculated: Allowed | None, unit: str
) -> tuple[float, float] | None:
    """Give the lowest and highest dose that a guideline allows, in a unit; None where it cannot.

    Parts of the usual dose are compared with a model that predicts a percentage of it.
    """
    line = next((line for line in lines if line.range), None)
    if calculated is not None:
        low, high, own, _ = calculated
    elif line is not None and line.range is not None:
        (low, high), own = line.range, line.unit
    else:
        return None
    if own == USUAL:
        low, high, own = 100 * low, 100 * high, "%"
    convert = conversion(own, unit)
    return None if convert is None else (convert(low), convert(high))
