"""The last step of every forecasting model: from its outputs to a loss per patient, and quantiles.

Trained by the quantile ("pinball") loss, so that no distribution is assumed and a single odd
value pulls with bounded force. In rounds both ends of the interval are trained around the median
as it is, and do not move it.

A median lies closer to the outcomes that it was trained on than to others, and widths that read
many inputs fit the residuals of the patients they were trained on: a band of such widths is too
narrow for anyone else (Bai, Mei, Wang, Xiong, NeurIPS 2021, arXiv:2106.05515). So a fifth of the
patients trains nothing but a stretch of each width; see `PatientBatch.apart`.
"""

import torch
from torch import nn
from torch.nn import functional

from fedrx_models.contract import Forecast, PatientBatch
from fedrx_models.visits import QUANTILES
from fedrx_protocol.schema import ForecastTarget

LEVEL = 0.8
"""Nominal coverage of the interval: from the 0.1 to the 0.9 quantile."""
_LOWER, _UPPER = (1 - LEVEL) / 2, (1 + LEVEL) / 2
_INTERVAL_WEIGHT = 0.5
_MOST = 3.0  # of a stretch's logarithm
_SMOOTHING = 0.02  # of the quantile loss's corner, in normalised changes
_SHAPE = 0.3  # how much slower a width learns from inputs than a median: it has less to go by
_START = 1.0  # before softplus: an interval of 1.3 typical changes on either side


class ForecastHead(nn.Module):
    """Loss and quantiles of normalised changes, from a network's outputs `(B, T, 3 * H * M)`.

    A visit's outputs are, horizon by horizon and marker by marker, the median change, and two
    numbers whose softplus are the half-widths below and above it, before they are stretched.
    Outputs of 0 mean "as last measured, give or take a typical change".

    The stretch of each width is trained on the patients set apart, the rest on the others; neither
    moves the other. No patient's slope by the stretches' logarithms is longer than 0.91, so that
    a clipping norm of 1 never cuts it.

    Args:
        target: the study's forecast.
    """

    def __init__(self, target: ForecastTarget) -> None:
        super().__init__()
        self.horizons, self.markers = len(target.horizons), len(target.markers)
        self.joint = False  # see `Head`
        # A linear layer on a constant: every per-patient-gradient method understands those.
        self.log_stretch = nn.Linear(1, 2 * self.horizons * self.markers, bias=False)
        nn.init.zeros_(self.log_stretch.weight)

    def forward(self, outputs: torch.Tensor, batch: PatientBatch) -> torch.Tensor:
        """Loss per patient, `(B,)`: of the median and the widths, or of the stretch if set apart.

        The mean over horizons and markers. Within each the sum over visits is divided by the
        square root of their number: a patient seen often says more, but not so much more as the
        number of visits, which are alike.
        A patient of whom nothing can be judged has loss 0 and no gradient.
        """
        median, reach = self._parts(outputs)
        y, observed = (part.reshape(median.shape) for part in (batch.y, batch.y_observed))
        losses = 2.0 * _pinball(y - median, 0.5)
        around = y - (median if self.joint else median.detach())
        ends = _pinball(around + reach[..., 0], _LOWER) + _pinball(around - reach[..., 1], _UPPER)
        losses = (losses + _INTERVAL_WEIGHT * ends) * observed
        cells = losses.sum(dim=1) / observed.sum(dim=1).clamp(min=1.0).sqrt()
        found: torch.Tensor = cells.mean(dim=(1, 2)) * (1.0 - batch.apart[:, 0])
        if not self.joint:
            found = found + self._stretch_loss(y - median, reach, batch)
        return found

    def _stretch_loss(
        self, residual: torch.Tensor, reach: torch.Tensor, batch: PatientBatch
    ) -> torch.Tensor:
        """Quantile loss of residuals over widths, `(B,)`; 0 for a patient not set apart.

        Relative to the widths, so that each visit counts alike; a patient's visits are averaged,
        as they are where coverage is measured.
        """
        sides = torch.stack([-residual, residual], dim=-1).detach() / reach.detach()
        stretch = self._stretch(batch.x)
        excess = _pinball((sides - stretch) / stretch.detach(), _UPPER).sum(dim=-1)
        observed = batch.y_observed.reshape(residual.shape)
        cells: torch.Tensor = (excess * observed).sum(dim=1) / observed.sum(dim=1).clamp(min=1.0)
        pairs = self.horizons * self.markers
        found: torch.Tensor = cells.sum(dim=(1, 2)) * batch.apart[:, 0] / pairs**0.5
        return found

    @property
    def bounded_layers(self) -> dict[str, float]:
        """None: a patient trains either the stretches or all else, each of them in full."""
        return {}

    def pulls(self, outputs: torch.Tensor, batch: PatientBatch) -> torch.Tensor | None:  # noqa: ARG002 - see `Head`
        """Not known: quantiles pull by steps, whatever the distance."""
        return None

    def quantiles(self, outputs: torch.Tensor) -> torch.Tensor:
        """Median, lower and upper end of the change, normalised, `(B, T, H, M, 3)`."""
        median, reach = self._parts(outputs)
        reach = reach * self._stretch(outputs[:, 0])
        ends = [median, median - reach[..., 0], median + reach[..., 1]]
        return torch.stack(ends, dim=-1)

    def _parts(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Median `(B, T, H, M)`, and widths below and above, not stretched, `(B, T, H, M, 2)`."""
        patients, visits = outputs.shape[:2]
        parts = outputs.reshape(patients, visits, self.horizons, self.markers, QUANTILES)
        return parts[..., 0], functional.softplus(_SHAPE * parts[..., 1:] + _START)

    def _stretch(self, like: torch.Tensor) -> torch.Tensor:
        """What multiplies the widths, `(B, 1, H, M, 2)`, in the type of `like`, `(B, any)`."""
        ones = like.new_ones(len(like), 1)
        shape = (len(like), 1, self.horizons, self.markers, 2)
        stretch: torch.Tensor = self.log_stretch(ones).reshape(shape).clamp(-_MOST, _MOST).exp()
        return stretch

    def predict(self, outputs: torch.Tensor) -> Forecast:
        """Normalised changes; `visits.restore_forecast` turns them into the markers' units."""
        changes = self.quantiles(outputs).detach().cpu().double().numpy()
        return Forecast(mean=changes, level=LEVEL)


def _pinball(excess: torch.Tensor, quantile: float) -> torch.Tensor:
    """Quantile loss of `outcome - quantile`, its corner rounded off, of the same shape.

    Source: Koenker and Bassett, Econometrica 1978;46:33-50.
    """
    return quantile * excess + _SMOOTHING * functional.softplus(-excess / _SMOOTHING)
