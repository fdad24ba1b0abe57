"""Training on patients of many sites as the sites would train together, for benchmarks in tables.

Sites add their patients' clipped gradients, and a patient's gradient does not depend on the site.
So a step is taken on all training patients at once, with the noise of the whole sum. The transport
and the masks change a sum by its rounding only; `fedrx compare` runs with them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_client.training.clipping import clipped_gradient_sum, gradient_sum
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.contract import PatientModel, get_vector, set_vector
from fedrx_models.registry import build_model
from fedrx_protocol.privacy.calibration import training_noise_multiplier
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection, OptimizerSection
from fedrx_server.rounds.optimizer import ServerOptimizer

FOLDS = 5


@dataclass(frozen=True)
class Recipe:
    """A model's parameters, and how the coordinator steps."""

    parameters: dict[str, object]
    optimizer: OptimizerSection
    rounds: int


@dataclass(frozen=True)
class Privacy:
    """What a training promises: clipping, and noise for all its rounds.

    Attributes:
        epsilon: None for no noise, and no clipping.
        delta: with it.
        clipping_norm: L2 bound of a patient's gradient.
    """

    epsilon: float | None
    delta: float
    clipping_norm: float

    @classmethod
    def told(cls, epsilon: str, delta: float, clipping_norm: float) -> "Privacy":
        """From a command line's "none", or a number."""
        return cls(None if epsilon == "none" else float(epsilon), delta, clipping_norm)

    def spread(self, rounds: int) -> float:
        """Standard deviation of the noise on each weight of a round's sum."""
        if self.epsilon is None:
            return 0.0
        noise = training_noise_multiplier(self.epsilon, self.delta, 1.0, rounds)
        return noise * self.clipping_norm


def trained(
    name: str,
    recipe: Recipe,
    schema: FeatureSchema,
    batch: PatientBatch,
    privacy: Privacy,
    *,
    seed: int = 0,
) -> PatientModel:
    """The federated model of these patients; `seed` is that of start weights and noise."""
    model = build_model(ModelSection(name=name, **recipe.parameters), schema, seed=seed)
    optimizer = ServerOptimizer(recipe.optimizer, get_vector(model), recipe.rounds)
    rng, spread = np.random.default_rng(seed), privacy.spread(recipe.rounds)
    for round_ in range(1, recipe.rounds + 1):
        if spread:
            total = clipped_gradient_sum(model, batch, privacy.clipping_norm).vector
            total = total + rng.normal(0.0, spread, total.shape)
        else:
            total = gradient_sum(model, batch)
        optimizer.step(total / len(batch), round_)
        set_vector(model, optimizer.weights)
    return model


def folds_within(sites: NDArray[np.object_], seed: int) -> NDArray[np.int64]:
    """A fold for each patient, `(patients,)`, so that each site has its share in each."""
    fold = np.empty(len(sites), dtype=np.int64)
    rng = np.random.default_rng(seed)
    for site in sorted(set(sites)):
        own = np.flatnonzero(sites == site)
        fold[rng.permutation(own)] = np.arange(len(own)) % FOLDS
    return fold
