"""Models trained on courses with planted effects, and what they make of them."""

import dataclasses

import numpy as np
import torch
from flux_cohorts import flux_document

from fedrx.study_templates import new_study
from fedrx_client.training.clipping import clipped_gradient_sum, gradient_sum
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import FIRST_VALUE, TIME, VisitColumns, normalise_marker
from fedrx_models.contract import PatientModel, get_vector, set_vector
from fedrx_models.registry import build_model
from fedrx_protocol.privacy.calibration import training_noise_multiplier
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection, OptimizerSection, Study
from fedrx_server.rounds.optimizer import ServerOptimizer
from fedrx_simulation.cohorts.flux import FluxCohorts, generate_flux
from fedrx_simulation.cohorts.flux_truth import untreated_visit

ROUNDS = 60
CLIPPING_NORM = 1.0
COUPLING = 1.2
DOSE_SD, MOST_DOSE = 0.5, 5.0  # of a dose's logarithm, and in its scale, as the simulator draws it
MOST_VISITS = 16
# A sum over sites is a sum over patients, so one site stands for all of them.
PATIENTS = 1500
SMALL = {
    "linear_mixed": {},
    "tcn": {"channels": 8, "layers": 2},
    "lstm": {"size": 16},
    "transformer": {"size": 8, "heads": 2, "feed_forward": 8},
    "pathway_gnn": {"size": 4, "layers": 1},
}


def network_schema() -> FeatureSchema:
    """Three markers: albumin leads platelets by four hours, a drug lowers bilirubin."""
    document = flux_document(most=MOST_VISITS, features=False)
    document["treatments"] = document["treatments"][:1]  # type: ignore[index]  # a list of sections
    return FeatureSchema.model_validate(document)


def warfarin_schema() -> FeatureSchema:
    """The study that `study new --task anticoagulation` writes, with fewer visits."""
    document = Study.parse(new_study(None, "anticoagulation")).feature_schema.model_dump(
        mode="json"
    )
    document["visits"]["most"] = MOST_VISITS
    return FeatureSchema.model_validate(document)


def knobs_of(schema: FeatureSchema, patients: int = 1, seed: int = 3) -> FluxCohorts:
    """How these courses are drawn."""
    return FluxCohorts(schema, 1, (patients, patients), coupling=COUPLING, seed=seed)


def drawn(schema: FeatureSchema, patients: int, seed: int = 3) -> Cohort:
    """Patients of one site."""
    (cohort,) = generate_flux(knobs_of(schema, patients, seed)).values()
    return cohort


def trained(name: str, schema: FeatureSchema, epsilon: float | None) -> PatientModel:
    """Full-batch steps of the coordinator's Adam, with the noise of a promise or without."""
    batch = encode(drawn(schema, PATIENTS), schema)
    section = ModelSection.model_validate({"name": name, **SMALL.get(name, {})})
    model = build_model(section, schema, seed=0)
    settings = OptimizerSection(name="adam", learning_rate=0.03, momentum=0.9, decay="linear")
    optimizer = ServerOptimizer(settings, get_vector(model), ROUNDS)
    sigma = None if epsilon is None else training_noise_multiplier(epsilon, 1e-5, 1.0, ROUNDS)
    rng = np.random.default_rng(0)
    for round_ in range(1, ROUNDS + 1):
        if sigma is None:
            total = gradient_sum(model, batch)
        else:
            total = clipped_gradient_sum(model, batch, CLIPPING_NORM).vector
            total = total + rng.normal(0, sigma * CLIPPING_NORM, total.shape)
        optimizer.step(total / len(batch), round_)
        set_vector(model, optimizer.weights)
    return model


def therapy_found(model: PatientModel, cohort: Cohort, seed: int = 0) -> np.ndarray:
    """Forecast with the therapy begun at a visit minus without, in scales of its marker, `(H,)`.

    The counterfactual is in the model's input alone: the same patients, at one visit of each before
    any therapy, with a usual dose given from there on, and with none.
    """
    schema, rng = cohort.schema, np.random.default_rng(seed)
    given = cohort.visits[:, :, FIRST_VALUE + len(schema.markers)] > 0
    start = np.where(given.any(axis=1), given.argmax(axis=1), given.shape[1])
    origin = untreated_visit(rng, start, (~np.isnan(cohort.visits[:, :, TIME])).sum(axis=1))
    batch = encode(cohort, schema).select(torch.from_numpy(origin >= 0))
    origin = origin[origin >= 0]
    doses = np.minimum(rng.lognormal(0.0, DOSE_SD, len(origin)), MOST_DOSE)
    on, off = (_forecast(model, batch, origin, dose) for dose in (doses, 0.0 * doses))
    effect: np.ndarray = np.nanmean(on - off, axis=0)
    return effect


def _forecast(
    model: PatientModel, batch: PatientBatch, origin: np.ndarray, doses: np.ndarray
) -> np.ndarray:
    """Median forecasts of the first marker from one visit of each patient, normalised, `(B, H)`."""
    visits, rows = batch.visits.clone(), np.arange(len(origin))
    column = VisitColumns.of(model.schema).treatment.start
    visits[rows, origin, column] = torch.from_numpy(doses).to(visits)
    predicted = model.predict(dataclasses.replace(batch, visits=visits)).mean
    return normalise_marker(model.schema.forecast_markers[0], predicted[rows, origin, :, 0, 0])
