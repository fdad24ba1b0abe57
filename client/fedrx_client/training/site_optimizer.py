"""Opacus's DP-SGD optimizer with two parts replaced: clipping, and where noise comes from.

A module of its own, because importing Opacus takes seconds and only mode `local` needs it.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor

from fedrx_client.training.parameters import pull, split


class PrivateSettings(Protocol):
    """What a private step needs; see `LocalSettings`."""

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over the clipping norm."""

    @property
    def clipping_norm(self) -> float:
        """L2 bound of a patient's gradient."""

    @property
    def expected_batch_size(self) -> float:
        """Public expected sample size."""

    @property
    def proximal(self) -> float:
        """FedProx's mu."""


class SiteOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus is untyped
    """Opacus's DP-SGD step on sums that are already clipped, with noise from our own stream."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        settings: PrivateSettings,
        noise: np.random.Generator,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            noise_multiplier=settings.noise_multiplier,
            max_grad_norm=settings.clipping_norm,
            expected_batch_size=settings.expected_batch_size,
            loss_reduction="mean",
        )
        self._stream = noise
        self._proximal = settings.proximal
        self._anchors = [p.detach().clone() for p in self.params]

    @property
    def grad_samples(self) -> list[Tensor]:
        """Never held; Opacus only checks whether there is anything to train."""
        return list(self.params)

    @property
    def accumulated_iterations(self) -> int:
        """Always one clipped sum a step."""
        return 1

    def receive(self, clipped_sum: npt.NDArray[np.float64]) -> None:
        """Take the step's clipped sum, `(d,)`."""
        for p, piece in zip(self.params, split(clipped_sum, self.params), strict=True):
            p.summed_grad = piece

    def clip_and_accumulate(self) -> None:
        """Do nothing: `receive` has taken a clipped sum."""

    def add_noise(self) -> None:
        """Add Gaussian noise of standard deviation sigma*C, in float64, on every coordinate."""
        sd = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            noisy = p.summed_grad + sd * torch.from_numpy(
                self._stream.standard_normal(tuple(p.shape))
            )
            p.grad = noisy.to(p)

    def scale_grad(self) -> None:
        """Divide by the public sample size, then add FedProx's pull, which no patient changes."""
        super().scale_grad()
        pull(self.params, self._anchors, self._proximal)
