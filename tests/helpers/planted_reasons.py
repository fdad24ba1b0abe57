"""Patients with one cause each: the truth that explanations must find."""

import numpy as np
from omics_cohorts import GENES, omics_schema

from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import FIRST_VALUE, TIME
from fedrx_protocol.study.schema import FeatureSchema

_QUIET = 0.15  # of everything that is not the cause, in scales
_CAUSE = 2.0
_EFFECTS = (3.0, -3.0, 2.5)  # of the expression of the first genes
_MUTATION, _MUTATED = 6.0, 3  # effect, and the gene


def patients_with_one_cause(n: int, seed: int) -> tuple[Cohort, tuple[str, ...]]:
    """Patients whose dose one gene moves, and the key of that reason for each."""
    rng, schema = np.random.default_rng(seed), omics_schema("continuous")
    expression = _QUIET * rng.standard_normal((n, len(GENES)))
    mutation = np.zeros((n, len(GENES)))
    mutation[:, (4, 5)] = rng.random((n, 2)) < 0.5  # which does nothing
    cause = rng.integers(0, len(_EFFECTS) + 1, n)
    for i, which in enumerate(cause):
        if which < len(_EFFECTS):
            expression[i, which] = _CAUSE * rng.choice((-1.0, 1.0))
        else:
            mutation[i, _MUTATED] = 1.0
    dose = expression[:, : len(_EFFECTS)] @ np.array(_EFFECTS) + _MUTATION * mutation[:, _MUTATED]
    keys = (*(f"expression: {gene}" for gene in GENES[: len(_EFFECTS)]), f"mutation: {GENES[3]}")
    cohort = Cohort(
        site="a",
        schema=schema,
        patients=tuple(f"p{i}" for i in range(n)),
        values={"age": np.clip(rng.normal(60, 15, n), 0, 110)},
        target=dose + rng.normal(0, 0.2, n),
        blocks={"expression": expression, "mutation": mutation},
    )
    return cohort, tuple(keys[which] for which in cause)


def course_schema() -> FeatureSchema:
    """Three markers, the first of which follows the second and a drug by one visit."""
    usual = {"unit": "mg/L", "minimum": -50.0, "maximum": 150.0, "mean": 50.0, "scale": 10.0}
    drug = {"name": "drug", "kind": "amount", "unit": "mg", "maximum": 50.0, "scale": 10.0}
    return FeatureSchema.model_validate(
        {
            "features": [],
            "visits": {"time_unit": "day", "most": 6},
            "markers": [{"name": name, **usual} for name in ("crp", "fever", "albumin")],
            "treatments": [drug],
            "graph": {"edges": [["fever", "crp"], ["crp", "albumin"]]},
            "target": {
                "kind": "forecast",
                "name": "course",
                "markers": ["crp"],
                "horizons": [{"at": 1.0, "window": [0.5, 1.5], "change": 1.0}],
            },
        }
    )


def courses_with_one_cause(n: int, seed: int) -> tuple[Cohort, tuple[str, ...]]:
    """Courses in which, at each visit, fever or the drug moves the next CRP; the newest visit's.

    The cause changes from visit to visit, so that CRP itself says nothing of the next.
    """
    rng, schema, most = np.random.default_rng(seed), course_schema(), 6
    by_drug = rng.random((n, most)) < 0.5
    fever = np.where(by_drug, 0.0, _CAUSE * rng.choice((-1.0, 1.0), (n, most)))
    fever += _QUIET * rng.standard_normal((n, most))
    crp = 0.2 * rng.standard_normal((n, most))
    crp[:, 1:] += (1.5 * fever - 3.0 * by_drug)[:, :-1]
    visits = np.zeros((n, most, FIRST_VALUE + 4))
    visits[:, :, TIME] = np.arange(most)
    for i, values in enumerate((crp, fever, _QUIET * rng.standard_normal((n, most)))):
        visits[:, :, FIRST_VALUE + i] = 50.0 + 10.0 * values
    visits[:, :, FIRST_VALUE + 3] = 10.0 * by_drug
    patients = tuple(f"p{i}" for i in range(n))
    cohort = Cohort("a", schema, patients, {}, np.zeros((n, 0)), visits=visits)
    return cohort, tuple("drug" if now else "fever" for now in by_drug[:, -1])
