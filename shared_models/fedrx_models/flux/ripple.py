"""If one marker moves: which follow, when, how sure - as a trained model has learned it.

The answer compares two forecasts for each patient, from the newest visit: with the marker measured
there at its last value, and with it measured higher by a given amount. It is what the model expects
to see, not what an intervention would cause: a marker that only announces a change ripples as well.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from fedrx_models.contract import Forecast, PatientBatch, PatientModel
from fedrx_models.visits import VisitColumns, forecast_target
from fedrx_protocol.errors import MisuseError

TAIL = 0.1
"""Share of patients beyond each end of a ripple's range."""


@dataclass(frozen=True, eq=False)
class Ripple:
    """What follows when `marker` moves by `amount`; horizons x markers of the target, in units.

    Attributes:
        marker: the one that is moved.
        amount: by how many of its scales.
        markers: those that may follow.
        horizons: times ahead, in the study's unit.
        mean: how far the median forecast moves, over patients, `(H, M)`.
        lower: what it exceeds in nine patients of ten.
        upper: what it stays below in nine patients of ten.
        agreement: share of patients for whom it moves in the direction of the mean.
    """

    marker: str
    amount: float
    markers: tuple[str, ...]
    horizons: tuple[float, ...]
    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    agreement: np.ndarray


def ripple(model: PatientModel, batch: PatientBatch, marker: str, amount: float) -> Ripple:
    """Move one marker at each patient's newest visit, and see what the forecasts do.

    Args:
        model: trained; any flux model.
        batch: the patients to ask it about; those without a last value of `marker` are left out.
        marker: one of the study's.
        amount: in the marker's public scales; for a logarithm, of the logarithm.

    Raises:
        MisuseError: the study has no such marker, or no patient has a value of it.
    """
    target, columns = forecast_target(model.schema), VisitColumns.of(model.schema)
    names = [one.name for one in model.schema.markers]
    if marker not in names:
        raise MisuseError(f"'{marker}' is no marker of the study: {', '.join(names)}.")
    place = names.index(marker)
    newest = batch.visits[:, :, columns.valid].sum(dim=1).long() - 1
    rows = torch.arange(len(batch), device=newest.device)
    known = batch.visits[rows, newest][:, columns.known][:, place] == 1
    if not bool(known.any()):
        raise MisuseError(f"no patient has a value of '{marker}' at the newest visit.")
    chosen, newest = batch.select(known), newest[known]
    still, moved = (_forecast(model, chosen, newest, place, by) for by in (0.0, amount))
    effect = moved - still
    mean = np.nanmean(effect, axis=0)
    low, high = np.nanquantile(effect, [TAIL, 1 - TAIL], axis=0)
    same = np.where(np.isnan(effect), np.nan, np.sign(effect) == np.sign(mean))
    return Ripple(
        marker=marker,
        amount=amount,
        markers=target.markers,
        horizons=tuple(horizon.at for horizon in target.horizons),
        mean=mean,
        lower=low,
        upper=high,
        agreement=np.nanmean(same, axis=0),
    )


def _forecast(
    model: PatientModel, batch: PatientBatch, newest: torch.Tensor, place: int, by: float
) -> np.ndarray:
    """Medians from the newest visit, `(B, H, M)`, the marker measured there at last value + by."""
    columns, visits = VisitColumns.of(model.schema), batch.visits.clone()
    rows = torch.arange(len(batch), device=newest.device)
    value = visits[rows, newest, columns.last.start + place] + by
    for block, now in (
        (columns.value, value),
        (columns.last, value),
        (columns.observed, torch.ones_like(value)),
        (columns.age, torch.zeros_like(value)),
    ):
        visits[rows, newest, block.start + place] = now
    predicted = model.predict(dataclasses.replace(batch, visits=visits))
    if not isinstance(predicted, Forecast):
        raise MisuseError(f"a {model.schema.target.kind} outcome has no ripple.")
    found: np.ndarray = predicted.mean[rows.cpu().numpy(), newest.cpu().numpy(), :, :, 0]
    return found.astype(np.float64)
