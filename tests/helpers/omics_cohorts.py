"""Schemas and cohorts with blocks and every kind of outcome, for the tests of models."""

import numpy as np

from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import FeatureSchema

GENES = ("CYP2C9", "VKORC1", "TP53", "MDM2", "EGFR", "KRAS")
TARGETS = {
    "continuous": {
        "name": "dose",
        "unit": "mg",
        "minimum": -50.0,
        "maximum": 50.0,
        "mean": 0.0,
        "scale": 2.0,
    },
    "binary": {"kind": "binary", "name": "toxic", "rate": 0.4},
    "survival": {
        "kind": "survival",
        "name": "relapse",
        "time_unit": "months",
        "edges": [3.0, 6.0, 12.0, 24.0],
        "hazard": 0.2,
    },
    "panel": {
        "kind": "panel",
        "name": "response",
        "unit": "ln uM",
        "minimum": -50.0,
        "maximum": 50.0,
        "drugs": [
            {
                "name": f"drug{i}",
                "mean": float(i),
                "scale": 2.0,
                "targets": [GENES[i]],
                "pathway": "cell cycle" if i % 2 else "EGFR signaling",
            }
            for i in range(4)
        ],
    },
}


def omics_schema(kind: str = "continuous", features: bool = True) -> FeatureSchema:
    """Expression and mutations of six genes, an age, and an outcome of some kind."""
    age = {
        "name": "age",
        "kind": "number",
        "unit": "years",
        "minimum": 0.0,
        "maximum": 110.0,
        "mean": 60.0,
        "scale": 15.0,
    }
    block = {"unit": "z", "minimum": -20.0, "maximum": 20.0, "genes": list(GENES)}
    return FeatureSchema.model_validate(
        {
            "features": [age] if features else [],
            "blocks": [
                {**block, "name": "expression", "kind": "expression"},
                {**block, "name": "mutation", "kind": "mutation", "minimum": 0.0, "maximum": 1.0},
            ],
            "graph": {"edges": [["TP53", "MDM2"], ["EGFR", "KRAS"], ["CYP2C9", "VKORC1"]]},
            "target": TARGETS[kind],
        }
    )


def omics_cohort(schema: FeatureSchema, n: int, seed: int = 0, site: str = "a") -> Cohort:
    """Patients whose outcome follows the expression of the first two genes and a mutation.

    A fifth lacks the expression block, which then says nothing of its effect.
    """
    rng = np.random.default_rng(seed)
    expression = np.clip(rng.normal(size=(n, len(GENES))), -20, 20)
    mutation = (rng.random((n, len(GENES))) < 0.3).astype(float)
    signal = 1.5 * expression[:, 0] - 1.0 * expression[:, 1] + 1.5 * (mutation[:, 2] - 0.3)
    expression[rng.random(n) < 0.2] = np.nan
    values = {"age": np.clip(rng.normal(60, 15, n), 0, 110)} if schema.features else {}
    return Cohort(
        site=site,
        schema=schema,
        patients=tuple(f"{site}{i}" for i in range(n)),
        values=values,
        target=_outcome(rng, schema.target.kind, signal),
        blocks={"expression": expression, "mutation": mutation},
    )


def _outcome(rng, kind, signal):
    n = len(signal)
    if kind == "continuous":
        return signal + rng.normal(0, 0.3, n)
    if kind == "binary":
        return (rng.random(n) < 1 / (1 + np.exp(-2 * signal + 0.4))).astype(float)
    if kind == "survival":
        time = rng.exponential(12 * np.exp(-signal))
        seen = rng.uniform(3, 40, n)
        return np.stack([np.minimum(time, seen), (time <= seen).astype(float)], axis=1)
    slopes = np.array([1.0, -1.0, 0.5, 2.0])
    target = np.arange(4.0) + signal[:, None] * slopes + rng.normal(0, 0.3, (n, 4))
    given = rng.random((n, 4)) < 0.8
    given[~given.any(axis=1), 0] = True
    return np.where(given, target, np.nan)
