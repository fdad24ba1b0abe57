"""Private training: pure functions of weights, resident tensors and a round's randomness."""

from fedrx_client.training.clipping import (
    CLIPPING_MARGIN,
    ClippedSum,
    clipped_gradient_sum,
    gradient_sum,
    leave_one_out_sensitivity,
    supports_bookkeeping,
)
from fedrx_client.training.errors import (
    LossShapeInvalid,
    MixesPatients,
    TrainingInvalid,
    UnsupportedModel,
)
from fedrx_client.training.noise import discrete_gaussian
from fedrx_client.training.randomness import RoundRandomness, SeededRandomness, SystemRandomness
from fedrx_client.training.sampling import poisson_sample

__all__ = [
    "CLIPPING_MARGIN",
    "ClippedSum",
    "LossShapeInvalid",
    "MixesPatients",
    "RoundRandomness",
    "SeededRandomness",
    "SystemRandomness",
    "TrainingInvalid",
    "UnsupportedModel",
    "clipped_gradient_sum",
    "discrete_gaussian",
    "gradient_sum",
    "leave_one_out_sensitivity",
    "poisson_sample",
    "supports_bookkeeping",
]
