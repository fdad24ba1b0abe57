"""The last step of every forecasting model: from its outputs to a loss per patient, and quantiles.

Trained by the quantile ("pinball") loss, so that no distribution is assumed and a single odd
value pulls with bounded force. In rounds both ends of the interval are trained around the median
as it is, and do not move it.
"""

import torch
from torch import nn
from torch.nn import functional

from fedrx_models.cohort.visits import QUANTILES
from fedrx_models.contract import Forecast, PatientBatch
from fedrx_protocol.study.schema import ForecastTarget

LEVEL = 0.8
"""Nominal coverage of the interval: from the 0.1 to the 0.9 quantile."""
_LOWER, _UPPER = (1 - LEVEL) / 2, (1 + LEVEL) / 2
_INTERVAL_WEIGHT = 0.5
_SMOOTHING = 0.02  # of the quantile loss's corner, in normalised changes
_START = 1.0  # before softplus: an interval of 1.3 typical changes on either side


class ForecastHead(nn.Module):
    """Loss and quantiles of normalised changes, from a network's outputs `(B, T, 3 * H * M)`.

    A visit's outputs are, horizon by horizon and marker by marker, the median change, and two
    numbers whose softplus are the half-widths below and above it. Outputs of 0 mean "as last
    measured, give or take a typical change".

    Args:
        target: the study's forecast.
    """

    def __init__(self, target: ForecastTarget) -> None:
        super().__init__()
        self.horizons, self.markers = len(target.horizons), len(target.markers)
        self.joint = False  # see `Head`

    def forward(self, outputs: torch.Tensor, batch: PatientBatch) -> torch.Tensor:
        """Loss per patient, `(B,)`: the mean over horizons and markers.

        Within each the sum over visits is divided by the square root of their number: a patient
        seen often says more, but not so much more as the number of visits, which are alike.
        A patient of whom nothing can be judged has loss 0 and no gradient.
        """
        quantiles = self.quantiles(outputs)
        patients, visits = outputs.shape[:2]
        shape = (patients, visits, self.horizons, self.markers)
        y, observed = batch.y.reshape(shape), batch.y_observed.reshape(shape)
        median = quantiles[..., 0]
        losses = 2.0 * _pinball(y - median, 0.5)
        around = y - (median if self.joint else median.detach())
        below, above = (quantiles[..., i] - median for i in (1, 2))
        ends = _pinball(around - below, _LOWER) + _pinball(around - above, _UPPER)
        losses = (losses + _INTERVAL_WEIGHT * ends) * observed
        cells = losses.sum(dim=1) / observed.sum(dim=1).clamp(min=1.0).sqrt()
        return cells.mean(dim=(1, 2))

    @property
    def bounded_layers(self) -> dict[str, float]:
        """None: the interval is an output like the median."""
        return {}

    def output_gradient_norms(
        self,
        outputs: torch.Tensor,  # noqa: ARG002 - see `Head`
        batch: PatientBatch,  # noqa: ARG002
    ) -> torch.Tensor | None:
        """Not known: quantiles pull by steps, whatever the distance."""
        return None

    def quantiles(self, outputs: torch.Tensor) -> torch.Tensor:
        """Median, lower and upper end of the change, normalised, `(B, T, H, M, 3)`."""
        patients, visits = outputs.shape[:2]
        parts = outputs.reshape(patients, visits, self.horizons, self.markers, QUANTILES)
        median, reach = parts[..., :1], functional.softplus(parts[..., 1:] + _START)
        return torch.cat([median, median - reach[..., :1], median + reach[..., 1:]], dim=-1)

    def predict(self, outputs: torch.Tensor) -> Forecast:
        """Normalised changes; `visits.restore_forecast` turns them into the markers' units."""
        changes = self.quantiles(outputs).detach().cpu().double().numpy()
        return Forecast(mean=changes, level=LEVEL)


def _pinball(excess: torch.Tensor, quantile: float) -> torch.Tensor:
    """Quantile loss of `outcome - quantile`, its corner rounded off, of the same shape.

    Source: Koenker and Bassett, Econometrica 1978;46:33-50.
    """
    return quantile * excess + _SMOOTHING * functional.softplus(-excess / _SMOOTHING)
