"""A small study's schema and made-up patients for the tests of models and metrics."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import Study

WARFARIN = Path(__file__).parents[2] / "examples" / "warfarin" / "study.toml"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def study():
    return Study.load(WARFARIN)


@pytest.fixture(scope="session")
def schema():
    return FeatureSchema.model_validate(
        {
            "features": [
                {
                    "name": "weight_kg",
                    "kind": "number",
                    "unit": "kg",
                    "minimum": 20,
                    "maximum": 300,
                    "mean": 80,
                    "scale": 20,
                },
                {"name": "vkorc1", "kind": "category", "values": ["G/G", "A/G", "A/A"]},
                {"name": "smoker", "kind": "flag"},
            ],
            "target": {
                "name": "dose",
                "unit": "mg/week",
                "minimum": 0,
                "maximum": 400,
                "transform": "sqrt",
                "mean": 5.4,
                "scale": 1.4,
            },
        }
    )


@pytest.fixture(scope="session")
def make_cohort(schema):
    """`make_cohort(n, seed=0, site="a")`: the dose falls with the A alleles, rises with weight."""

    def make(n, seed=0, site="a"):
        rng = np.random.default_rng(seed)
        weight = np.clip(rng.normal(80, 20, n), 20, 300)
        genotype = rng.integers(-1, 3, n)
        root = 5.4 + 0.02 * (weight - 80) - 0.9 * np.maximum(genotype, 0) + rng.normal(0, 0.3, n)
        weight[rng.random(n) < 0.1] = np.nan
        return Cohort(
            site=site,
            schema=schema,
            patients=tuple(f"p{i}" for i in range(n)),
            values={
                "weight_kg": weight,
                "vkorc1": genotype.astype(np.int16),
                "smoker": rng.random(n) < 0.3,
            },
            target=np.square(np.maximum(root, 1.0)),
        )

    return make
