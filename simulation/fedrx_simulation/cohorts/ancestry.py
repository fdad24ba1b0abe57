"""What is known about patients by ancestry, for the generator; published figures, rounded.

Sources
- Allele frequencies: 1000 Genomes by super-population, as tabled in PMC6562764, table 1 (VKORC1
  rs9923231; CYP2C9*2 rs1799853, *3 rs1057910). European for "White", East Asian for "Asian",
  African for "Black or African American", admixed American for "Unknown" (missing or mixed).
- Everything else: rounded summaries of the IWPC cohort (PharmGKB PS206767; N Engl J Med
  2009;360:753-64).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Ancestry:
    """One ancestry's figures; pairs are (male, female).

    Attributes:
        share: part of the whole federation.
        vkorc1_a: frequency of VKORC1 -1639A.
        cyp2c9_2: frequency of CYP2C9*2.
        cyp2c9_3: frequency of CYP2C9*3.
        male: share of men.
        height_cm: mean height.
        weight_kg: mean weight.
        weight_log_sd: standard deviation of the logarithm of weight.
        age_years: mean age.
        inducer: share who take carbamazepine, phenytoin or rifampin.
        amiodarone: share who take it.
        smoker: share who smoke.
        valve: share with a replaced heart valve; the equation does not use it.
        thromboembolism: share treated for a deep vein thrombosis or pulmonary embolism; likewise.
    """

    share: float
    vkorc1_a: float
    cyp2c9_2: float
    cyp2c9_3: float
    male: float
    height_cm: tuple[float, float]
    weight_kg: tuple[float, float]
    weight_log_sd: float
    age_years: float
    inducer: float
    amiodarone: float
    smoker: float
    valve: float
    thromboembolism: float


ANCESTRIES: Mapping[str, Ancestry] = MappingProxyType(
    {
        "White": Ancestry(
            share=0.54,
            vkorc1_a=0.388,
            cyp2c9_2=0.124,
            cyp2c9_3=0.073,
            male=0.62,
            height_cm=(177, 162),
            weight_kg=(90, 76),
            weight_log_sd=0.22,
            age_years=66,
            inducer=0.013,
            amiodarone=0.063,
            smoker=0.1,
            valve=0.07,
            thromboembolism=0.21,
        ),
        "Asian": Ancestry(
            share=0.29,
            vkorc1_a=0.885,
            cyp2c9_2=0.001,
            cyp2c9_3=0.034,
            male=0.57,
            height_cm=(166, 154),
            weight_kg=(66, 55),
            weight_log_sd=0.17,
            age_years=62,
            inducer=0.003,
            amiodarone=0.009,
            smoker=0.01,
            valve=0.39,
            thromboembolism=0.08,
        ),
        "Black or African American": Ancestry(
            share=0.085,
            vkorc1_a=0.054,
            cyp2c9_2=0.008,
            cyp2c9_3=0.002,
            male=0.49,
            height_cm=(178, 164),
            weight_kg=(96, 89),
            weight_log_sd=0.27,
            age_years=59,
            inducer=0.017,
            amiodarone=0.048,
            smoker=0.2,
            valve=0.05,
            thromboembolism=0.3,
        ),
        "Unknown": Ancestry(
            share=0.085,
            vkorc1_a=0.411,
            cyp2c9_2=0.099,
            cyp2c9_3=0.037,
            male=0.47,
            height_cm=(171, 159),
            weight_kg=(85, 70),
            weight_log_sd=0.23,
            age_years=62,
            inducer=0.006,
            amiodarone=0.056,
            smoker=0.03,
            valve=0.3,
            thromboembolism=0.02,
        ),
    }
)
"""By value of the feature `race`."""
