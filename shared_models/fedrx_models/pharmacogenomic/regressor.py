"""Dose from genotype and clinic: any network for the mean, and one learned spread.

The mean is trained by a Huber loss, so that a single odd dose pulls with bounded force. The spread
is one number, trained on the residual without disturbing the mean.
"""

import math

import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional

from fedrx_models.contract import DoseBatch, DoseModel, Prediction
from fedrx_models.encoding import columns_by_feature, restore_target
from fedrx_protocol.schema import FeatureSchema

LEVEL = 0.9
_SPREAD_WEIGHT = 0.25
_SMOOTHING = 0.1  # of the quantile loss, in natural-log units: about 10 % of the half-width
_SMALLEST_RESIDUAL = 1e-6  # keeps the logarithm finite; far below any dose difference
_START_LOG_REACH = 0.5  # 1.65 reference standard deviations: predicting the mean, normal doses
_LOG_REACH_RANGE = (-5.0, 3.0)


class DoseRegressor(DoseModel):
    """A network `(B, F) -> (B, 1)` for the normalised mean, and the half-width of its interval.

    The half-width is trained as the 0.9 quantile of the absolute residual. Its loss has a gradient
    of at most 0.225 per patient, so that it hardly uses up the clipping norm, and it assumes no
    distribution. Its logarithm is the weight of a one-to-one linear layer on a constant, because
    every per-patient-gradient method understands linear layers.
    """

    def __init__(
        self,
        name: str,
        config: BaseModel,
        schema: FeatureSchema,
        network: nn.Module,
        huber_delta: float,
    ) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.schema = schema
        self.huber_delta = huber_delta
        self.network = network
        self.log_reach = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.log_reach.weight, _START_LOG_REACH)

    def forward(self, batch: DoseBatch) -> torch.Tensor:
        """Huber loss of the mean plus the spread's loss, `(B,)`."""
        mean = self._mean(batch.x)
        residual = (batch.y - mean).detach()
        log_reach = self.log_reach(torch.ones_like(residual)[:, None]).squeeze(-1)
        fit = functional.huber_loss(mean, batch.y, reduction="none", delta=self.huber_delta)
        return fit + _SPREAD_WEIGHT * _spread_loss(residual, log_reach)

    def predict(self, batch: DoseBatch) -> Prediction:
        """Dose and its 90 % interval, in the target's unit."""
        with torch.no_grad():
            mean = self._mean(batch.x).cpu().double().numpy()
        low, high = _LOG_REACH_RANGE
        reach = math.exp(min(max(float(self.log_reach.weight.detach()), low), high))
        target = self.schema.target
        return Prediction(
            mean=restore_target(target, mean),
            lower=restore_target(target, mean - reach),
            upper=restore_target(target, mean + reach),
            level=LEVEL,
        )

    @property
    def explainable_inputs(self) -> dict[str, tuple[int, ...]]:
        """Every feature of the schema."""
        return columns_by_feature(self.schema)

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.network(x)
        return output.squeeze(-1)


def _spread_loss(residual: torch.Tensor, log_reach: torch.Tensor) -> torch.Tensor:
    """Smoothed quantile ("pinball") loss of log|residual| at `LEVEL`, `(B,)`.

    Its derivative by `log_reach` is (1 - LEVEL) minus a step from 0 to 1 where the residual
    leaves the interval; it vanishes on average where a share of `LEVEL` lies inside. Source:
    Koenker and Bassett, Econometrica 1978;46:33-50, with the corner rounded off.
    """
    excess = torch.log(residual.abs() + _SMALLEST_RESIDUAL) - log_reach
    rounded = _SMOOTHING * functional.softplus(excess / _SMOOTHING)
    return (1 - LEVEL) * log_reach + rounded
