"""A forecasting study and patients for it, for the tests of models."""

from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_simulation.cohorts.flux import FluxCohorts, generate_flux

HORIZONS = [
    {"at": 1.0, "window": [0.5, 1.5], "change": 0.5},
    {"at": 4.0, "window": [3.5, 4.5], "change": 0.8},
]


def marker(name: str, **changes: object) -> dict[str, object]:
    """One marker of a study file."""
    usual = {"unit": "mg/L", "minimum": 1.0, "maximum": 99.0, "mean": 50.0, "scale": 10.0}
    return {"name": name, **usual, **changes}


def flux_document(*, most: int = 12, features: bool = True) -> dict[str, object]:
    """What a study file says of three markers, one of them under therapy, two of them linked."""
    age = {
        "name": "age",
        "kind": "number",
        "unit": "years",
        "minimum": 0.0,
        "maximum": 110.0,
        "mean": 60.0,
        "scale": 15.0,
    }
    drug = {"name": "drug", "kind": "amount", "unit": "mg", "maximum": 50.0, "scale": 10.0}
    return {
        "features": [age] if features else [],
        "visits": {"time_unit": "hour", "most": most},
        "markers": [
            marker("bilirubin", transform="log", mean=2.0, scale=0.8, minimum=0.1),
            marker("albumin"),
            marker("platelets"),
        ],
        "treatments": [drug, {"name": "oxygen", "kind": "flag"}],
        "graph": {"edges": [["albumin", "platelets"]]},
        "target": {
            "kind": "forecast",
            "name": "course",
            "markers": ["bilirubin", "albumin", "platelets"],
            "horizons": HORIZONS,
        },
    }


def flux_schema(*, most: int = 12, features: bool = True) -> FeatureSchema:
    """The schema of `flux_document`."""
    return FeatureSchema.model_validate(flux_document(most=most, features=features))


def inr_schema() -> FeatureSchema:
    """The same study by the day, with an INR in the place of bilirubin."""
    document = flux_document(most=30)
    document["visits"] = {"time_unit": "day", "most": 30}
    document["markers"][0] = marker(
        "inr", unit="ratio", minimum=0.5, maximum=20.0, transform="log", mean=0.1, scale=0.4
    )
    document["target"]["markers"] = ["inr", "albumin", "platelets"]
    return FeatureSchema.model_validate(document)


def flux_cohort(
    schema: FeatureSchema, patients: int, seed: int = 0, site: str = "site-1", **knobs: float
) -> Cohort:
    """Synthetic patients of one site."""
    plan = FluxCohorts(schema=schema, sites=1, patients=(patients, patients), seed=seed, **knobs)
    drawn = generate_flux(plan)["site-1"]
    return Cohort(site, schema, drawn.patients, drawn.values, drawn.target, visits=drawn.visits)
