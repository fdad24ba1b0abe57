"""What a site computes for one part of a round: a gradient, local epochs, or metrics.

Functions of the plan, the model, the patients and the source of randomness. They read no clock and
no file, and remember nothing. How much noise goes in comes from the study's plan. Nothing here
may decide whether a value leaves the site; `Site` does that.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_client.training.clipping import clipped_gradient_sum, gradient_sum, public_rows
from fedrx_client.training.local_epochs import LocalSettings, local_epochs, local_settings
from fedrx_client.training.microbatches import predictions, rows_for
from fedrx_client.training.noise import discrete_gaussian
from fedrx_client.training.randomness import RoundRandomness
from fedrx_client.training.sampling import poisson_sample
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.contract import PatientModel
from fedrx_models.evaluation import evaluation_plan
from fedrx_protocol.fixed_point import FixedPoint, IntVector, ValueOutOfRange
from fedrx_protocol.plan import LARGEST_UPDATE, Part, RoundPlan, StudyPlan
from fedrx_protocol.privacy.events import Release


@dataclass(frozen=True, eq=False)
class SitePatients:
    """A site's patients on its device.

    Attributes:
        site: the site's id, which names its streams of randomness.
        training: the patients to train on.
        held_out: the patients to judge the model on.
        target: outcomes of `held_out`, as the metrics read them.
        rows: patients in one pass, see `rows_of_a_pass`.
    """

    site: str
    training: PatientBatch
    held_out: PatientBatch
    target: NDArray[np.float64]
    rows: int


@dataclass(frozen=True, eq=False)
class PartResult:
    """What one part of a round puts into the vector, and what its ledger line counts.

    Attributes:
        grids: segments of the vector by name; training brings its weight along.
        noise_multiplier: of each step.
        sample_rate: of each step.
        steps: Gaussian steps.
    """

    grids: dict[str, IntVector]
    noise_multiplier: float
    sample_rate: float = 1.0
    steps: int = 1


def compute(
    plan: StudyPlan,
    round_: RoundPlan,
    part: Part,
    *,
    model: PatientModel,
    patients: SitePatients,
    randomness: RoundRandomness,
) -> PartResult:
    """Compute one part of a round on the broadcast model.

    Args:
        plan: the study made concrete.
        round_: this attempt at this round.
        part: training or metrics; the weight comes with training.
        model: at the broadcast weights, on the device of the patients.
        patients: the site's.
        randomness: where noise and sampling come from.

    Raises:
        ValueOutOfRange: a value with its noise does not fit its share of 32 bits.
    """
    study, training = plan.study, plan.study.training
    if part.name == "metrics":
        agreed = evaluation_plan(study, final=round_.round == study.final_round)
        predicted = predictions(model, patients.held_out, patients.rows)
        state = agreed.state(predicted, patients.target)
        grid = on_grid(part, state, round_, patients.site, randomness)
        return PartResult({"metrics": grid}, part.noise_multiplier)
    batch, noise, rate, steps = patients.training, part.noise_multiplier, training.sample_rate, 1
    if study.steps == "local":
        settings = settings_of_epochs(plan, len(batch))
        update = local_epochs(
            model, batch, settings, randomness, site=patients.site, round_=round_.round
        )
        noise, rate, steps = settings.noise_multiplier, update.sample_rate, update.steps
        if study.privacy.mode == "local":
            # Clipped, not refused: a refusal would tell about the patients and cost nothing.
            total = np.clip(update.change, -LARGEST_UPDATE, LARGEST_UPDATE)
        else:
            total = len(batch) * update.change
    else:
        if rate < 1:
            coins = randomness.generator(patients.site, round_.round, "sampling")
            batch = batch.select(torch.from_numpy(poisson_sample(len(batch), rate, coins)))
        if study.privacy.mode == "none":
            total = gradient_sum(model, batch, mixed=training.mixed_precision)
        else:
            norm = training.clipping_norm
            total = clipped_gradient_sum(model, batch, norm, rows=patients.rows).vector
    grids = {"training": on_grid(part, total, round_, patients.site, randomness)}
    weight = round_.by_name.get("weight")
    if weight is not None:  # the study sums the number of patients beside the values
        count = np.array([float(len(batch))])
        grids["weight"] = on_grid(weight, count, round_, patients.site, randomness)
    return PartResult(grids, noise, rate, steps)


def on_grid(
    part: Part,
    values: NDArray[np.float64],
    round_: RoundPlan,
    site: str,
    randomness: RoundRandomness,
) -> IntVector:
    """Put values on the grid, add this site's share of the noise, and check against wrapping.

    Raises:
        ValueOutOfRange: a value with its noise does not fit its share of 32 bits.
    """
    grid = FixedPoint(part.scale, part.limit).encode(values)
    if part.noise_multiplier:
        generator = randomness.generator(site, round_.round, f"{part.name} noise")
        grid += discrete_gaussian(part.site_noise_sd, part.length, generator)
    if grid.size and int(np.abs(grid).max()) > round_.site_limit:
        raise ValueOutOfRange(
            f"the {part.name} sum with its noise does not fit its share of 32 bits; "
            "nothing was sent."
        )
    return grid


def settings_of_epochs(plan: StudyPlan, patients: int) -> LocalSettings:
    """Epochs at one site, with noise that spends the promise over all their steps.

    Args:
        plan: the study made concrete.
        patients: how many the site trains on. A private site counts in public numbers only: its
            own size would set rate and step.
    """
    training, private = plan.study.training, plan.study.privacy.mode == "local"
    return local_settings(
        patients=plan.patients_per_site if private else max(1, patients),
        epochs=training.local.epochs,
        batch_size=training.local.batch_size,
        learning_rate=training.local.learning_rate,
        clipping_norm=training.clipping_norm,
        noise_multiplier=plan.local_noise,
        proximal=training.local.proximal,
        mixed=training.mixed_precision,
    )


def rows_of_a_pass(plan: StudyPlan, model: PatientModel) -> int:
    """How many patients one pass takes.

    It follows from agreed numbers only: one patient more or less must not change how the values
    of others round.
    """
    training = plan.study.training
    expected = plan.patients_per_site * training.sample_rate
    if plan.study.steps == "local":
        expected = min(plan.patients_per_site, training.local.batch_size)
    clips = plan.study.privacy.mode != "none"
    return (public_rows if clips else rows_for)(model, expected)


def release_of(
    result: PartResult,
    plan: StudyPlan,
    round_: RoundPlan,
    part: Part,
    *,
    study: str,
    run: str,
    cohort: str,
    time: str,
) -> Release:
    """The ledger line of one part of a round.

    Args:
        result: what was computed.
        plan: the study made concrete.
        round_: this attempt at this round.
        part: training or metrics.
        study: digest of the study.
        run: name of the run.
        cohort: what the ledger counts these patients by.
        time: ISO 8601 in UTC.
    """
    trains = part.name == "training"
    return Release(
        time=time,
        study=study,
        run=run,
        round=round_.round,
        attempt=round_.attempt,
        purpose="training" if trains else "metrics",
        noise_multiplier=result.noise_multiplier,
        sample_rate=result.sample_rate,
        steps=result.steps,
        clipping_norm=plan.study.training.clipping_norm if trains else part.sensitivity,
        cohort=cohort,
        grid_slack=part.slack,
    )
