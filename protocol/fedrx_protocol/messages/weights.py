"""A model's weights as one flat float32 vector, in an order both sides agree on.

The bytes that are broadcast, hashed into the round's context and stored in checkpoints are this
vector in little-endian float32, whatever machine wrote them.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedrx_common.errors import MisuseError

_WIRE_TYPE = np.dtype("<f4")

WeightVector = NDArray[np.float32]


class WeightsInvalid(MisuseError):
    """Arrays or bytes do not fit the agreed names and shapes, or are not finite."""


@dataclass(frozen=True)
class WeightSpec:
    """Names and shapes of a model's arrays, in the order of the flat vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes) or len(set(self.names)) != len(self.names):
            raise WeightsInvalid("Weights need distinct names, and one shape for each.")
        if any(side < 1 for shape in self.shapes for side in shape):
            raise WeightsInvalid(f"Every side of a weight must be at least 1: {self.shapes}.")

    @property
    def size(self) -> int:
        """Length d of the flat vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, arrays: Mapping[str, ArrayLike]) -> WeightVector:
        """Put all arrays into one new float32 vector of shape `(size,)`.

        Raises:
            WeightsInvalid: names or shapes differ from the spec, or a value is not finite.
        """
        if set(arrays) != set(self.names):
            differing = sorted(set(arrays) ^ set(self.names))
            raise WeightsInvalid(f"Weights do not have the agreed names: {', '.join(differing)}.")
        parts = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            array = np.asarray(arrays[name], dtype=np.float32)
            if array.shape != shape:
                raise WeightsInvalid(
                    f"Weight '{name}' has shape {array.shape}, agreed was {shape}."
                )
            _require_finite(f"weight '{name}'", array)
            parts.append(array.reshape(-1))
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)

    def unflatten(self, vector: WeightVector) -> dict[str, WeightVector]:
        """Give views into `vector` of shape `(size,)`, by name and in their shapes.

        Raises:
            WeightsInvalid: the vector has another shape.
        """
        if vector.shape != (self.size,):
            raise WeightsInvalid(f"A vector of shape {vector.shape} is not {self.size} weights.")
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = np.split(vector, ends[:-1])
        return {
            name: part.reshape(shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=False)
        }


def model_bytes(vector: WeightVector) -> bytes:
    """Write the broadcast form of a flat weight vector: 4 bytes a value, little-endian."""
    return np.asarray(vector, dtype=_WIRE_TYPE).tobytes()


def model_vector(data: bytes) -> WeightVector:
    """Read what `model_bytes` wrote, as a new vector.

    Raises:
        WeightsInvalid: the length is not a multiple of 4, or a value is not finite.
    """
    if len(data) % _WIRE_TYPE.itemsize:
        raise WeightsInvalid(f"{len(data)} bytes are no whole number of float32 weights.")
    vector = np.frombuffer(data, dtype=_WIRE_TYPE).astype(np.float32)
    _require_finite("the received model", vector)
    return vector


def model_digest(data: bytes) -> bytes:
    """Hash the broadcast bytes (SHA-256, 32 bytes); part of every round's context."""
    return hashlib.sha256(data).digest()


def _require_finite(what: str, array: WeightVector) -> None:
    if not np.isfinite(array).all():
        raise WeightsInvalid(f"A value of {what} is not finite; the training step diverged.")
