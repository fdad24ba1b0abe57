"""If one marker moves: which follow, when, how sure - as a trained model has learned it.

The answer compares two forecasts for each patient, from the newest visit: with the marker measured
there at its last value, and with it measured higher by a given amount. It is what the model expects
to see, not what an intervention would cause: a marker that only announces a change ripples as well.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.visits import (
    VisitColumns,
    forecast_target,
    normalise_marker,
    restore_marker,
)
from fedrx_models.contract import Forecast, PatientModel
from fedrx_protocol.study.schema import FeatureSchema, Marker

Floats = NDArray[np.float64]

TAIL = 0.1
"""Share of patients beyond each end of a ripple's range."""


@dataclass(frozen=True, eq=False)
class Ripple:
    """What follows when `marker` moves by `amount`; horizons x markers of the target, in units.

    Attributes:
        marker: the one that is moved.
        amount: by how much, in its unit.
        patients: how many were asked about.
        markers: those that may follow.
        units: of each.
        horizons: times ahead, in the study's unit.
        mean: how far the median forecast moves, over patients, `(H, M)`.
        lower: what it exceeds in nine patients of ten.
        upper: what it stays below in nine patients of ten.
        agreement: share of patients for whom it moves in the direction of the mean.
        band: half the width of the forecast's own interval, mean over patients: what the model
            does not know of a single patient's outcome, however sure the move is.
    """

    marker: str
    amount: float
    patients: int
    markers: tuple[str, ...]
    units: tuple[str, ...]
    horizons: tuple[float, ...]
    mean: Floats
    lower: Floats
    upper: Floats
    agreement: Floats
    band: Floats


def ripple(model: PatientModel, batch: PatientBatch, marker: str, amount: float) -> Ripple:
    """Move one marker at each patient's newest visit, and see what the forecasts do.

    Patients without a last value of the marker, or in whom it would leave its plausible range, are
    left out.

    Args:
        model: trained; any flux model.
        batch: the patients to ask it about.
        marker: one of the study's.
        amount: in the marker's unit; not 0.

    Raises:
        MisuseError: the study has no such marker, no patient has a value of it, or none can move
            so far.
    """
    moving = next((one for one in model.schema.markers if one.name == marker), None)
    if moving is None:
        names = ", ".join(one.name for one in model.schema.markers)
        raise MisuseError(f"'{marker}' is no marker of the study: {names}.")
    columns, place = VisitColumns.of(model.schema), model.schema.markers.index(moving)
    newest = batch.visits[:, :, columns.valid].sum(dim=1).long() - 1
    rows = torch.arange(len(batch), device=newest.device)
    now = batch.visits[rows, newest].double().cpu().numpy()
    values = restore_marker(moving, now[:, columns.last][:, place])
    last = np.where(now[:, columns.known][:, place] == 1, values, np.nan)
    can_move = _can_move(moving, last, amount)
    chosen = torch.from_numpy(can_move).to(newest.device)
    asked, newest, last = batch.select(chosen), newest[chosen], last[can_move]
    still = _forecast(model, asked, newest, moving, last)
    moved = _forecast(model, asked, newest, moving, last + amount)
    return _summed_up(model.schema, moving, amount, still, moved)


def _can_move(marker: Marker, last: Floats, amount: float) -> NDArray[np.bool_]:
    """Find the patients whose value may move so far, `(B,)`; refuse a move that none can make."""
    if not amount or not np.isfinite(amount):
        raise MisuseError(f"'{marker.name}' must move by an amount other than 0, not {amount:g}.")
    if not np.isfinite(last).any():
        raise MisuseError(f"no patient has a value of '{marker.name}' at the newest visit.")
    plausible: NDArray[np.bool_] = (last + amount >= marker.minimum) & (
        last + amount <= marker.maximum
    )
    if not plausible.any():
        raise MisuseError(
            f"no patient's '{marker.name}' can move by {amount:g} {marker.unit} and stay between "
            f"{marker.minimum:g} and {marker.maximum:g}, which is plausible: give a smaller amount."
        )
    return plausible


def _summed_up(
    schema: FeatureSchema, marker: Marker, amount: float, still: Floats, moved: Floats
) -> Ripple:
    """Sum up what follows, from forecasts without and with the move, both `(B, H, M, 3)`."""
    target = forecast_target(schema)
    effect = moved[..., 0] - still[..., 0]
    unknown = np.isnan(effect).all(axis=0)
    effect[:, unknown] = 0.0  # else NumPy warns of an empty mean; taken out again below
    mean = np.nanmean(effect, axis=0)
    low, high = np.nanquantile(effect, [TAIL, 1 - TAIL], axis=0)
    same = np.where(np.isnan(effect), np.nan, np.sign(effect) == np.sign(mean))
    width = np.where(unknown, 0.0, moved[..., 2] - moved[..., 1])
    parts = mean, low, high, np.nanmean(same, axis=0), np.nanmean(width, axis=0) / 2
    mean, low, high, agreement, band = (np.where(unknown, np.nan, part) for part in parts)
    return Ripple(
        marker=marker.name,
        amount=amount,
        patients=len(moved),
        markers=target.markers,
        units=tuple(one.unit for one in schema.forecast_markers),
        horizons=tuple(horizon.at for horizon in target.horizons),
        mean=mean,
        lower=low,
        upper=high,
        agreement=agreement,
        band=band,
    )


def _forecast(
    model: PatientModel, batch: PatientBatch, newest: torch.Tensor, marker: Marker, values: Floats
) -> Floats:
    """Forecast from the newest visit, `(B, H, M, 3)`, if the marker had these values there."""
    columns, visits = VisitColumns.of(model.schema), batch.visits.clone()
    place, rows = model.schema.markers.index(marker), torch.arange(len(batch), device=newest.device)
    value = torch.from_numpy(normalise_marker(marker, values)).to(visits)
    for block, now in (
        (columns.value, value),
        (columns.last, value),
        (columns.observed, torch.ones_like(value)),
        (columns.age, torch.zeros_like(value)),
    ):
        visits[rows, newest, block.start + place] = now
    predicted = model.predict(batch.with_visits(visits))
    if not isinstance(predicted, Forecast):
        raise MisuseError(f"a {model.schema.target.kind} outcome has no ripple.")
    found: Floats = predicted.mean[rows.cpu().numpy(), newest.cpu().numpy()]
    return found
