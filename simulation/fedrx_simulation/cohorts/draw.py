"""Chooses the generator for a study's kind of patient."""

from typing import Any

from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import ContinuousTarget, FeatureSchema, ForecastTarget
from fedrx_simulation.cohorts.flux import FluxCohorts, generate_flux
from fedrx_simulation.cohorts.genomic import GenomicCohorts, generate_genomic
from fedrx_simulation.cohorts.warfarin import WarfarinCohorts, generate


def draw_cohorts(
    schema: FeatureSchema,
    *,
    sites: int,
    patients: tuple[int, int],
    heterogeneity: float,
    missingness: float,
    measurement_shift: float,
    seed: int,
) -> dict[str, Cohort]:
    """Synthetic patients of the study's family: doses from clinic and genotype, omics, or courses.

    Args:
        schema: what the study wants of a patient.
        sites: number of sites.
        patients: smallest and largest site.
        heterogeneity: 0 for sites alike, 1 for sites as different as can be.
        missingness: mean share of heights that were not recorded, of patients without a block, or
            of markers that a visit lacks.
        measurement_shift: between sites, in standard deviations.
        seed: same seed, same patients.

    Raises:
        ImpossibleCohorts: naming the knob, or the part of the study that no generator can fill.
    """
    knobs: dict[str, Any] = {
        "schema": schema,
        "sites": sites,
        "patients": patients,
        "heterogeneity": heterogeneity,
        "missingness": missingness,
        "measurement_shift": measurement_shift,
        "seed": seed,
    }
    if isinstance(schema.target, ForecastTarget):
        return generate_flux(FluxCohorts(**knobs))
    if schema.blocks or not isinstance(schema.target, ContinuousTarget):
        return generate_genomic(GenomicCohorts(**knobs))
    return generate(WarfarinCohorts(**knobs))
