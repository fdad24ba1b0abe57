"""What is planted in synthetic courses is found by the models that are meant for it."""

from dataclasses import dataclass

import numpy as np
import pytest
from flux_cohorts import flux_document

from fedrx_client.training import clipped_gradient_sum, gradient_sum
from fedrx_models.build import build_model
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.encoding import encode
from fedrx_models.flux.ripple import Ripple, ripple
from fedrx_protocol.privacy.calibration import training_noise_multiplier
from fedrx_protocol.schema import FeatureSchema
from fedrx_protocol.study import ModelSection, OptimizerSection
from fedrx_server.optimizer import ServerOptimizer
from fedrx_simulation.cohorts.flux import FluxCohorts, generate_flux
from fedrx_simulation.cohorts.flux_course import planted_course

ROUNDS = 60
COUPLING = 1.2
CLIPPING_NORM = 1.0


@dataclass(frozen=True)
class Steps:
    """Full-batch steps of the coordinator's Adam, with the noise of a promise or without."""

    epsilon: float | None

    def train(self, model, batch):
        settings = OptimizerSection(name="adam", learning_rate=0.03, momentum=0.9, decay="linear")
        optimizer = ServerOptimizer(settings, get_vector(model), ROUNDS)
        rng = np.random.default_rng(0)
        noise = 0.0
        if self.epsilon is not None:
            noise = training_noise_multiplier(self.epsilon, 1e-5, 1.0, ROUNDS)
        for round_ in range(1, ROUNDS + 1):
            if noise:
                total = clipped_gradient_sum(model, batch, CLIPPING_NORM).vector
                total = total + rng.normal(0, noise * CLIPPING_NORM, total.shape)
            else:
                total = gradient_sum(model, batch)
            optimizer.step(total / len(batch), round_)
            set_vector(model, optimizer.weights)


def network_schema():
    """Three markers; albumin leads platelets, by the middle horizon."""
    document = flux_document(most=24, features=False)
    document["treatments"] = []
    return FeatureSchema.model_validate(document)


def courses(schema, patients, seed=3):
    plan = FluxCohorts(schema, sites=1, patients=(patients, patients), coupling=COUPLING, seed=seed)
    (cohort,) = generate_flux(plan).values()
    return encode(cohort, schema)


def effect(found: Ripple, horizon: float, marker: str) -> float:
    """In scales of a marker, for a leader that moved by one of its own."""
    value = found.mean[found.horizons.index(horizon), found.markers.index(marker)]
    return float(value) / 10.0  # the scale of both


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "patients", "tolerance"), [(None, 400, 0.4), (8.0, 1000, 0.5)])
def test_pathway_finds_the_planted_network(epsilon, patients, tolerance):
    schema = network_schema()
    planted = planted_course(schema)
    assert planted.edges == (("albumin", "platelets"),)
    model = build_model(ModelSection(name="pathway_gnn", size=4, layers=1), schema, seed=0)
    Steps(epsilon).train(model, courses(schema, patients))
    fresh = courses(schema, 200, seed=4)
    leader = ripple(model, fresh, "albumin", 1.0)
    follows = effect(leader, planted.lag, "platelets")
    # A measurement is noisy, and part of it is the patient's own level, which moves nothing: so
    # less than the coupling is expected to follow.
    assert (1 - tolerance) * COUPLING < follows < COUPLING
    assert abs(effect(leader, leader.horizons[0], "platelets")) < 0.35 * follows
    assert leader.agreement[leader.horizons.index(planted.lag), 2] > 0.9
    # The edge can be travelled both ways, but nothing does.
    back = effect(ripple(model, fresh, "platelets", 1.0), planted.lag, "albumin")
    assert abs(back) < 0.25 * follows
    assert abs(effect(leader, planted.lag, "bilirubin")) < 1e-6
