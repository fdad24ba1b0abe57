"""The coordinator's optimizer: one step on the aggregated direction, which is already private.

SGD with momentum and Adam on one flat vector, as torch defines them (the tests hold them to
torch's own). FedAvg is SGD with learning rate 1 on the mean weight change, FedAdam (Reddi et al.
2021) is Adam on it. Weight decay is apart from the direction, as in AdamW (Loshchilov and
Hutter 2019). The state is a dict of arrays, so that a checkpoint is safetensors and a resumed run
continues to the last bit.
"""

import numpy as np
from numpy.typing import NDArray

from fedrx_protocol.study.study import OptimizerSection

_ADAM_EPSILON = 1e-8

Vector = NDArray[np.float64]


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
        self._weights = weights.astype(np.float32)
        self._state: dict[str, Vector] = {}

    @property
    def weights(self) -> NDArray[np.float32]:
        """A copy of the current weights, shape `(d,)`."""
        return self._weights.copy()

    def step(self, direction: Vector, round_number: int) -> None:
        """Step against `direction`, shape `(d,)`: a mean gradient, or minus a mean change."""
        rate = self._settings.learning_rate
        if self._settings.decay == "linear":
            rate *= 1.0 - (round_number - 1) / self._rounds
        move = direction
        if self._settings.name == "adam":
            move = self._adam(direction)
        elif self._settings.momentum:
            move = self._settings.momentum * self._past("momentum", direction) + direction
            self._state = {"momentum": move}
        kept = max(0.0, 1.0 - rate * self._settings.weight_decay)
        self._weights = (kept * self._weights - rate * move).astype(np.float32)

    def state(self) -> dict[str, Vector]:
        """Momenta and step counts by name, for a checkpoint."""
        return {name: value.copy() for name, value in self._state.items()}

    def restore(self, state: dict[str, Vector]) -> None:
        """Continue from a checkpoint's state."""
        self._state = {name: value.copy() for name, value in state.items()}

    def _adam(self, direction: Vector) -> Vector:
        """Kingma, Ba 2015, algorithm 1."""
        beta1, beta2 = self._settings.momentum, self._settings.beta2
        count = self._past("count", np.zeros(1)) + 1
        mean = beta1 * self._past("mean", direction) + (1 - beta1) * direction
        square = beta2 * self._past("square", direction) + (1 - beta2) * direction**2
        self._state = {"count": count, "mean": mean, "square": square}
        steps = float(count[0])
        spread = np.sqrt(square / (1 - beta2**steps)) + _ADAM_EPSILON
        move: Vector = mean / (1 - beta1**steps) / spread
        return move

    def _past(self, name: str, like: Vector) -> Vector:
        return self._state.get(name, np.zeros_like(like))
