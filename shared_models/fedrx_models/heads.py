"""The last step of every model: from its outputs to a loss per patient, and to predictions.

One module for all kinds of outcome, which models own rather than inherit. Numbers are trained by a
Huber loss, so that a single odd outcome pulls with bounded force, beside one learned half-width;
yes or no and survival by the likelihood of what was observed.

Forecasts are trained by the quantile ("pinball") loss, so that no distribution is assumed. In
rounds both ends of a band are trained around the median as it is, and do not move it. A band whose
widths were trained on the same patients as its median is too narrow for anyone else, so a fifth of
the patients trains nothing but a stretch of each width (docs/decisions/0021).
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import restore_panel, restore_target
from fedrx_models.cohort.visits import QUANTILES
from fedrx_models.contract import (
    AnyPrediction,
    Floats,
    Forecast,
    Prediction,
    Probability,
    SurvivalCurves,
)
from fedrx_protocol.study.schema import (
    BinaryTarget,
    ForecastTarget,
    PanelTarget,
    SurvivalTarget,
    Target,
)

FORECAST_LEVEL = 0.8
"""Nominal coverage of the interval: from the 0.1 to the 0.9 quantile."""
_LOWER, _UPPER = (1 - FORECAST_LEVEL) / 2, (1 + FORECAST_LEVEL) / 2
_INTERVAL_WEIGHT = 0.5
_MOST = 3.0  # of a stretch's logarithm
_CHANGE_SMOOTHING = 0.02  # of the quantile loss's corner, in normalised changes
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

    def set_stretch(self, outputs: Sequence[torch.Tensor], batches: Sequence[PatientBatch]) -> None:
        """Set each stretch to the quantile that its loss has its minimum at.

        In closed form: the loss is divided by the stretch as it is, so a line search on its value
        would not follow its slope.

        Args:
            outputs: a network's outputs for each of `batches`.
            batches: patients; only those set apart count.
        """
        found = []
        for output, batch in zip(outputs, batches, strict=True):
            median, reach = self._parts(output)
            residual = batch.y.reshape(median.shape) - median
            observed = batch.y_observed.reshape(median.shape) * batch.apart[:, :, None, None]
            weight = observed / observed.sum(dim=1, keepdim=True).clamp(min=1.0)
            sides = torch.stack([-residual, residual], dim=-1) / reach
            found.append((sides.flatten(0, 1), weight.flatten(0, 1)))
        sides = torch.cat([part for part, _ in found])
        weight = torch.cat([part for _, part in found])[..., None].expand_as(sides)
        values, order = sides.sort(dim=0)
        reached = weight.gather(0, order).cumsum(dim=0)
        enough = (reached >= _UPPER * reached[-1:]).to(torch.int64).argmax(dim=0, keepdim=True)
        quantile = values.gather(0, enough).flatten()
        known = (reached[-1].flatten() > 0) & (quantile > 0)
        logs = torch.where(known, quantile.clamp(min=1e-9).log(), 0.0).clamp(-_MOST, _MOST)
        self.log_stretch.weight.data.copy_(logs[:, None])

    @property
    def bounded_layers(self) -> dict[str, float]:
        """None: a patient trains either the stretches or all else, each of them in full."""
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
        ones = like.new_ones(like.shape[0], 1)  # no `len`: an exporter would take it for a constant
        shape = (like.shape[0], 1, self.horizons, self.markers, 2)
        stretch: torch.Tensor = self.log_stretch(ones).reshape(shape).clamp(-_MOST, _MOST).exp()
        return stretch

    def central(self, outputs: torch.Tensor) -> torch.Tensor:
        """Median of the normalised change, `(B, T, H, M)`."""
        return self._parts(outputs)[0]

    def predict(self, outputs: torch.Tensor) -> Forecast:
        """Normalised changes; `visits.restore_forecast` turns them into the markers' units."""
        changes = self.quantiles(outputs).detach().cpu().double().numpy()
        return Forecast(mean=changes, level=FORECAST_LEVEL)


def _pinball(excess: torch.Tensor, quantile: float) -> torch.Tensor:
    """Quantile loss of `outcome - quantile`, its corner rounded off, of the same shape.

    Source: Koenker and Bassett, Econometrica 1978;46:33-50.
    """
    return quantile * excess + _CHANGE_SMOOTHING * functional.softplus(-excess / _CHANGE_SMOOTHING)


LEVEL = 0.9
_SPREAD_WEIGHT = 0.25
_SMOOTHING = 0.1  # of the quantile loss, in natural-log units: about 10 % of the half-width
_SMALLEST_RESIDUAL = 1e-6  # keeps the logarithm finite; far below any dose difference
_START_LOG_REACH = 0.5  # 1.65 reference standard deviations: predicting the mean, normal outcomes
_LOG_REACH_RANGE = (-5.0, 3.0)
_LARGEST_LOGIT = 30.0  # keeps a probability's logarithm finite; beyond it nothing changes


class OutcomeHead(nn.Module):
    """Loss and predictions for one target, from a network's outputs `(B, K)`.

    Outputs of 0 mean the study's public reference: its mean, its rate, its hazard. For numbers
    the half-width of the interval is trained as the 0.9 quantile of the absolute residual, in
    normalised units, one for all drugs of a panel. Its loss has a gradient of at most 0.225 per
    patient, so that it hardly uses up the clipping norm, and it assumes no distribution. Its
    logarithm is the weight of a one-to-one linear layer on a constant, because every
    per-patient-gradient method understands linear layers.

    Args:
        target: the study's outcome.
        huber_delta: where the loss of a number turns from squared to absolute, normalised.
    """

    def __init__(self, target: Target, huber_delta: float = 1.0) -> None:
        super().__init__()
        self.target = target
        self.huber_delta = huber_delta
        self.joint = False  # see `Head`
        self.log_reach: nn.Linear | None = None
        if isinstance(target, BinaryTarget | SurvivalTarget):
            rate = target.rate if isinstance(target, BinaryTarget) else target.hazard
            self.offset = math.log(rate / (1 - rate))
        else:
            self.log_reach = nn.Linear(1, 1, bias=False)
            nn.init.constant_(self.log_reach.weight, _START_LOG_REACH)

    def forward(self, outputs: torch.Tensor, batch: PatientBatch) -> torch.Tensor:
        """Loss per patient, `(B,)`: the mean over observed outcomes; for survival the sum.

        Survival is summed because the bins are factors of one likelihood, not repetitions.
        A patient without an observed outcome has loss 0 and no gradient.
        """
        observed = batch.y_observed
        if self.log_reach is None:
            losses = functional.binary_cross_entropy_with_logits(
                self._logits(outputs), batch.y, reduction="none"
            )
            return (losses * observed).sum(dim=1)
        losses = functional.huber_loss(outputs, batch.y, reduction="none", delta=self.huber_delta)
        residual = batch.y - (outputs if self.joint else outputs.detach())
        log_reach = self.log_reach(torch.ones_like(residual[:, :1]))
        losses = losses + _SPREAD_WEIGHT * _spread_loss(residual, log_reach)
        return (losses * observed).sum(dim=1) / observed.sum(dim=1).clamp(min=1.0)

    @property
    def bounded_layers(self) -> dict[str, float]:
        """The interval's layer: `_spread_loss` has a slope of at most `LEVEL`."""
        return {} if self.log_reach is None else {"log_reach": _SPREAD_WEIGHT * LEVEL}

    def output_gradient_norms(
        self, outputs: torch.Tensor, batch: PatientBatch
    ) -> torch.Tensor | None:
        """For a likelihood, the length of each patient's residuals, `(B,)`, cut at 1.

        A probability and what happened are at most 1 apart. Over several bins the length may be
        more, where an event was likely and came later; None for numbers.
        """
        if self.log_reach is not None:
            return None
        residuals = (torch.sigmoid(self._logits(outputs)) - batch.y) * batch.y_observed
        lengths: torch.Tensor = torch.linalg.vector_norm(residuals, dim=1)
        return lengths.clamp(max=1.0)

    def central(self, outputs: torch.Tensor) -> torch.Tensor:
        """Normalised numbers, or probabilities of the event, `(B, K)`."""
        return outputs if self.log_reach is not None else torch.sigmoid(self._logits(outputs))

    def predict(self, outputs: torch.Tensor) -> AnyPrediction:
        """Predictions of the target's kind, in its unit."""
        target = self.target
        if isinstance(target, BinaryTarget):
            return Probability(_numpy(torch.sigmoid(self._logits(outputs)))[:, 0])
        if isinstance(target, SurvivalTarget):
            hazards = _numpy(torch.sigmoid(self._logits(outputs)))
            return SurvivalCurves(mean=(1.0 - hazards).cumprod(axis=1), hazards=hazards)
        return self._with_interval(outputs)

    def _with_interval(self, outputs: torch.Tensor) -> Prediction:
        target, reach, means = self.target, self.reach, _numpy(outputs)
        ends = (means, means - reach, means + reach)
        if isinstance(target, PanelTarget):
            mean, lower, upper = (restore_panel(target, end) for end in ends)
        elif isinstance(target, BinaryTarget | SurvivalTarget | ForecastTarget):
            raise TypeError(f"a {target.kind} outcome has no interval here.")
        else:
            mean, lower, upper = (restore_target(target, end[:, 0]) for end in ends)
        return Prediction(mean=mean, lower=lower, upper=upper, level=LEVEL)

    def _logits(self, outputs: torch.Tensor) -> torch.Tensor:
        return (outputs + self.offset).clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)

    @property
    def reach(self) -> float:
        """Half-width of the interval, normalised."""
        low, high = _LOG_REACH_RANGE
        learned = 0.0 if self.log_reach is None else float(self.log_reach.weight.detach())
        return math.exp(min(max(learned, low), high))


def _numpy(tensor: torch.Tensor) -> Floats:
    return tensor.detach().cpu().double().numpy()


def _spread_loss(residual: torch.Tensor, log_reach: torch.Tensor) -> torch.Tensor:
    """Smoothed quantile ("pinball") loss of log|residual| at `LEVEL`, of the residual's shape.

    Its derivative by `log_reach` is (1 - LEVEL) minus a step from 0 to 1 where the residual
    leaves the interval; it vanishes on average where a share of `LEVEL` is inside. Source:
    Koenker and Bassett, Econometrica 1978;46:33-50, with the corner rounded off.
    """
    excess = torch.log(residual.abs() + _SMALLEST_RESIDUAL) - log_reach
    rounded = _SMOOTHING * functional.softplus(excess / _SMOOTHING)
    return (1 - LEVEL) * log_reach + rounded
