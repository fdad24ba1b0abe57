"""The coordinator's optimizer: one step on the aggregated direction, which is already private.

The arithmetic is torch's own (`torch.optim.SGD`, `torch.optim.Adam`) on one flat parameter; what
is ours is that its state is a dict of arrays, so that a checkpoint is safetensors and a resumed
run continues to the last bit. FedAvg is SGD with learning rate 1 on the mean weight change,
FedAdam (Reddi et al. 2021) is Adam on it.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_protocol.study import OptimizerSection


class ServerOptimizer:
    """Holds the global weights, shape `(d,)` float32, and steps against a direction.

    Args:
        settings: The study's optimizer section.
        weights: Initial weights, shape `(d,)`.
        rounds: Number of steps planned; the linear decay reaches zero just after the last.
    """

    def __init__(
        self, settings: OptimizerSection, weights: NDArray[np.float32], rounds: int
    ) -> None:
        self._settings = settings
        self._rounds = rounds
        self._parameter = torch.nn.Parameter(torch.from_numpy(weights.copy()))
        self._optimizer = _build(settings, self._parameter)

    @property
    def weights(self) -> NDArray[np.float32]:
        """A copy of the current weights, shape `(d,)`."""
        return self._parameter.detach().numpy().copy()

    def step(self, direction: NDArray[np.float64], round_number: int) -> None:
        """Step against `direction`, shape `(d,)`: a mean gradient, or minus a mean change."""
        rate = self._settings.learning_rate
        if self._settings.decay == "linear":
            rate *= 1.0 - (round_number - 1) / self._rounds
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._parameter.grad = torch.from_numpy(direction.astype(np.float32))
        self._optimizer.step()

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Momenta and step counts by name, for a checkpoint."""
        state = self._optimizer.state.get(self._parameter, {})
        return {
            name: np.array(value.numpy(), dtype=np.float32, ndmin=1)
            for name, value in state.items()
            if value is not None
        }

    def restore(self, state: dict[str, NDArray[np.float32]]) -> None:
        """Continue from a checkpoint's state."""
        tensors = {name: torch.from_numpy(value.copy()) for name, value in state.items()}
        if "step" in tensors:
            tensors["step"] = tensors["step"].reshape(())
        self._optimizer.state[self._parameter] = tensors


def _build(settings: OptimizerSection, parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    if settings.name == "adam":
        return torch.optim.Adam(
            [parameter], lr=settings.learning_rate, betas=(settings.momentum, settings.beta2)
        )
    return torch.optim.SGD([parameter], lr=settings.learning_rate, momentum=settings.momentum)
