"""Epochs at the site between two rounds: DP-SGD (mode `local`) or plain SGD (mode `none`).

Opacus's optimizer drives the private steps. Two of its parts are replaced: clipping, by the sums
that the `distributed` mode uses, and noise, which torch would draw from 32 bits of seed.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedrx_client.training.clipping import clipped_gradient_sum, gradient_sum, public_rows
from fedrx_client.training.errors import TrainingInvalid
from fedrx_client.training.parameters import Batch, pull, split, trained
from fedrx_client.training.randomness import RoundRandomness
from fedrx_client.training.sampling import poisson_sample


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """Steps of a site between two rounds. All of it is public; nothing comes from patients.

    Attributes:
        sample_rate: Poisson rate of a step, in (0, 1]. Without noise it sets the batch's size.
        steps: gradient steps in the round.
        expected_batch_size: public expected sample size that a private sum is divided by.
        learning_rate: step size.
        clipping_norm: L2 bound C of a patient's gradient.
        noise_multiplier: standard deviation of a step's noise over C; 0 is plain SGD, unclipped.
        proximal: FedProx's mu, which pulls towards the round's first weights; 0 is FedAvg.
        mixed: whether a GPU may multiply in bfloat16; without noise only.

    Raises:
        TrainingInvalid: a value is impossible.
    """

    sample_rate: float
    steps: int
    expected_batch_size: float
    learning_rate: float
    clipping_norm: float
    noise_multiplier: float
    proximal: float = 0.0
    mixed: bool = False

    def __post_init__(self) -> None:
        positive = (self.steps, self.expected_batch_size, self.learning_rate, self.clipping_norm)
        usable = (
            0 < self.sample_rate <= 1
            and all(0 < value < math.inf for value in positive)
            and 0 <= self.noise_multiplier < math.inf
            and 0 <= self.proximal < math.inf
            and not (self.mixed and self.noise_multiplier)
        )
        if not usable:
            raise TrainingInvalid(f"No local training is possible with {self}.")


def local_settings(
    *,
    patients: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    clipping_norm: float,
    noise_multiplier: float,
    proximal: float = 0.0,
    mixed: bool = False,
) -> LocalSettings:
    """Make settings for epochs over `patients`: the rate is batch_size / patients, at most 1.

    Args:
        patients: a size that the consortium agreed on. The exact number of patients would make
            the rate depend on whether one patient is there, and the account would not cover that.
        epochs: passes over the data, in expectation.
        batch_size: expected patients a step.
        learning_rate: see `LocalSettings`.
        clipping_norm: see `LocalSettings`.
        noise_multiplier: see `LocalSettings`.
        proximal: see `LocalSettings`.
        mixed: see `LocalSettings`.
    """
    if min(patients, epochs, batch_size) < 1:
        raise TrainingInvalid(
            f"Local training needs at least one patient, epoch and batch row, but got {patients}, "
            f"{epochs} and {batch_size}."
        )
    rate = min(1.0, batch_size / patients)
    return LocalSettings(
        sample_rate=rate,
        steps=epochs * math.ceil(1 / rate),
        expected_batch_size=rate * patients,
        learning_rate=learning_rate,
        clipping_norm=clipping_norm,
        noise_multiplier=noise_multiplier,
        proximal=proximal,
        mixed=mixed,
    )


@dataclass(frozen=True, eq=False)
class LocalUpdate:
    """What local training did.

    Attributes:
        change: weights after minus weights before, `(d,)` float64.
        steps: Gaussian steps taken; with `sample_rate` what the release must record.
        sample_rate: Poisson rate of each.
    """

    change: npt.NDArray[np.float64]
    steps: int
    sample_rate: float


def local_epochs(
    model: nn.Module,
    batch: Batch,
    settings: LocalSettings,
    randomness: RoundRandomness,
    *,
    site: str,
    round_: int,
) -> LocalUpdate:
    """Train on a site's own patients and return the change of weights; the model stays as it was.

    Args:
        model: at the round's first weights.
        batch: all the site's training patients; it may be empty.
        settings: public settings of the steps.
        randomness: where samples and noise come from.
        site: the site's id, which keys the random streams.
        round_: the round's number, which does too.

    Raises:
        MixesPatients, UnsupportedModel: see `clipped_gradient_sum`.
        TrainingInvalid: the weights have become infinite; try a smaller learning rate.
    """
    weights = list(trained(model).values())
    before = [p.detach().clone() for p in weights]
    optimizer = torch.optim.SGD(weights, lr=settings.learning_rate)
    sampling = randomness.generator(site, round_, "local sampling")
    noise = randomness.generator(site, round_, "local noise")
    try:
        if settings.noise_multiplier > 0:
            # Opacus takes seconds to import, and only this mode needs it.
            from fedrx_client.training.site_optimizer import SiteOptimizer  # noqa: PLC0415

            private = SiteOptimizer(optimizer, settings, noise)
            norm, rows = settings.clipping_norm, public_rows(model, settings.expected_batch_size)
            for _ in range(settings.steps):
                sample = poisson_sample(len(batch), settings.sample_rate, sampling)
                patients = batch.select(torch.from_numpy(sample))
                private.receive(clipped_gradient_sum(model, patients, norm, rows=rows).vector)
                private.step()
                private.zero_grad()
        elif len(batch):
            # Mini-batches are parts of shuffled passes, as equal in size as the rate asks.
            a_pass = math.ceil(1 / settings.sample_rate)
            for step in range(settings.steps):
                if step % a_pass == 0:
                    shuffled = np.array_split(sampling.permutation(len(batch)), a_pass)
                sample = shuffled[step % a_pass]
                if not len(sample):
                    continue
                patients = batch.select(torch.from_numpy(sample))
                mean = gradient_sum(model, patients, mixed=settings.mixed) / len(sample)
                for p, piece in zip(weights, split(mean, weights), strict=True):
                    p.grad = piece.to(p)
                pull(weights, before, settings.proximal)
                optimizer.step()
        parts = [(p.detach() - old).reshape(-1) for p, old in zip(weights, before, strict=True)]
        change: npt.NDArray[np.float64] = torch.cat(parts).cpu().double().numpy()
    finally:
        with torch.no_grad():
            for p, old in zip(weights, before, strict=True):
                p.copy_(old)
                p.grad = None
    if not np.isfinite(change).all():
        raise TrainingInvalid("Local training diverged: use a smaller learning rate.")
    return LocalUpdate(change, settings.steps, settings.sample_rate)
