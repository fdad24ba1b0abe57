"""From a patient's visits to tensors: what a model may know at each, and what it is to forecast.

Everything at a visit comes from that visit and those before it, and a last value is carried within
an episode only. Numbers are centred and scaled by the study's public reference.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_protocol.study.schema import FeatureSchema, ForecastTarget, Marker, VisitsSection

Floats = NDArray[np.float64]

TIME, EPISODE, FIRST_VALUE = 0, 1, 2
"""Columns of a cohort's visits: time, episode number, then markers, then treatments."""
QUANTILES = 3
"""Outputs for each forecast: the median, and what both half-widths follow from."""
_TOLERANCE = 1e-9  # of times, which may be sums of decimal fractions


@dataclass(frozen=True)
class VisitColumns:
    """The place of each value among the C columns of `PatientBatch.visits`.

    Times are in the study's unit, as they are: a model squeezes them as suits it. Marker values
    are normalised, and 0 where nothing is known. Of a patient with more visits than the study
    keeps, the first one kept begins an episode, since nothing before it is known.

    Attributes:
        markers: M, all markers of the study.
        treatments: A.
        forecast: positions of the target's markers among all.
        horizons: H.
    """

    markers: int
    treatments: int
    forecast: tuple[int, ...]
    horizons: int

    # One column each.
    gap = 0  # time since the visit before; 0 at the start of an episode
    elapsed = 1  # time since the start of the episode
    starts = 2  # 1 at the first visit of an episode
    valid = 3  # 1 for a visit, 0 for padding

    @classmethod
    def of(cls, schema: FeatureSchema) -> "VisitColumns":
        """The columns of a study.

        Raises:
            MisuseError: the study is no forecast.
        """
        target = forecast_target(schema)
        names = [marker.name for marker in schema.markers]
        return cls(
            markers=len(names),
            treatments=len(schema.treatments),
            forecast=tuple(names.index(name) for name in target.markers),
            horizons=len(target.horizons),
        )

    @property
    def value(self) -> slice:
        """Markers' values at this visit, `M` columns."""
        return self._block(0)

    @property
    def observed(self) -> slice:
        """1 where the marker was measured at this visit."""
        return self._block(1)

    @property
    def last(self) -> slice:
        """Markers' newest values in this episode, this visit included."""
        return self._block(2)

    @property
    def age(self) -> slice:
        """How old that value is; 0 where there is none."""
        return self._block(3)

    @property
    def known(self) -> slice:
        """1 where there is a newest value in this episode."""
        return self._block(4)

    @property
    def treatment(self) -> slice:
        """Treatments from this visit on: amounts over their scale, flags as 0 or 1."""
        return slice(4 + 5 * self.markers, self.size)

    @property
    def size(self) -> int:
        """C."""
        return 4 + 5 * self.markers + self.treatments

    @property
    def forecasts(self) -> int:
        """Forecasts at one visit: horizons x markers of the target."""
        return self.horizons * len(self.forecast)

    @property
    def outputs(self) -> int:
        """What a network gives for one visit: `QUANTILES` for each forecast."""
        return QUANTILES * self.forecasts

    def _block(self, position: int) -> slice:
        start = 4 + position * self.markers
        return slice(start, start + self.markers)


def forecast_target(schema: FeatureSchema) -> ForecastTarget:
    """The target of a forecast; raises `MisuseError` for another kind."""
    if not isinstance(schema.target, ForecastTarget):
        raise MisuseError(f"a {schema.target.kind} outcome is no forecast.")
    return schema.target


def visits_section(schema: FeatureSchema) -> VisitsSection:
    """The time axis of a forecast; raises `MisuseError` where there is none."""
    if schema.visits is None:
        raise MisuseError(f"a {schema.target.kind} outcome has no visits.")
    return schema.visits


def visit_width(schema: FeatureSchema) -> int:
    """Columns of a cohort's visits."""
    return FIRST_VALUE + len(schema.markers) + len(schema.treatments)


def outcome_shape(schema: FeatureSchema, patients: int) -> tuple[int, ...]:
    """Shape of what happened to `patients`: see `Courses.outcomes`."""
    columns = VisitColumns.of(schema)
    most = visits_section(schema).most
    return patients, most, columns.horizons, len(columns.forecast), 2


def normalise_marker(marker: Marker, values: Floats) -> Floats:
    """(transform(value) - mean) / scale; NaN stays NaN."""
    transformed = np.log(values) if marker.transform == "log" else values
    return (transformed - marker.mean) / marker.scale


def restore_marker(marker: Marker, normalised: Floats) -> Floats:
    """Inverse of `normalise_marker`, kept inside the marker's plausible range."""
    transformed = normalised * marker.scale + marker.mean
    with np.errstate(over="ignore"):  # an overflow is infinite, and then clipped
        values = np.exp(transformed) if marker.transform == "log" else transformed
    return np.clip(values, marker.minimum, marker.maximum)


@dataclass(frozen=True, eq=False)
class Courses:
    """Visits of some patients, `(n, T, width)` as a `Cohort` holds them, and what they say."""

    schema: FeatureSchema
    visits: Floats

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """Which rows are visits, `(n, T)`."""
        return ~np.isnan(self.visits[:, :, TIME])

    @cached_property
    def normalised(self) -> Floats:
        """All markers, `(n, T, M)`; NaN where not measured."""
        found = self.visits[:, :, FIRST_VALUE : FIRST_VALUE + len(self.schema.markers)].copy()
        for i, marker in enumerate(self.schema.markers):
            found[:, :, i] = normalise_marker(marker, found[:, :, i])
        return found

    @cached_property
    def starts(self) -> NDArray[np.bool_]:
        """Which visits begin an episode, `(n, T)`."""
        episode = self.visits[:, :, EPISODE]
        changed = np.ones(episode.shape, dtype=np.bool_)
        changed[:, 1:] = episode[:, 1:] != episode[:, :-1]
        return changed & self.valid

    @cached_property
    def newest(self) -> NDArray[np.int64]:
        """Visit at which each marker was measured last, `(n, T, M)`; -1 for never so far."""
        places = np.arange(self.visits.shape[1])[None, :, None]
        found = np.maximum.accumulate(np.where(np.isnan(self.normalised), -1, places), axis=1)
        begun = np.maximum.accumulate(np.where(self.starts[:, :, None], places, -1), axis=1)
        return np.where((found >= begun) & self.valid[:, :, None], found, -1)

    @cached_property
    def last(self) -> Floats:
        """Newest values, normalised, `(n, T, M)`; NaN where there is none."""
        there = self.newest >= 0
        taken = np.take_along_axis(self.normalised, np.maximum(self.newest, 0), axis=1)
        return np.where(there, taken, np.nan)

    def tensor(self) -> torch.Tensor:
        """What a model sees, `(n, T, C)` float32, as `PatientBatch.visits` holds it."""
        columns = VisitColumns.of(self.schema)
        times = np.where(self.valid, self.visits[:, :, TIME], 0.0)
        found = np.zeros((*times.shape, columns.size), dtype=np.float32)
        gaps = np.diff(times, axis=1, prepend=times[:, :1])
        found[:, :, columns.gap] = np.where(self.starts, 0.0, gaps)
        begun = np.maximum.accumulate(
            np.where(self.starts, np.arange(times.shape[1])[None, :], 0), axis=1
        )
        found[:, :, columns.elapsed] = times - np.take_along_axis(times, begun, axis=1)
        found[:, :, columns.starts] = self.starts
        found[:, :, columns.valid] = self.valid
        found[:, :, columns.value] = np.nan_to_num(self.normalised)
        found[:, :, columns.observed] = ~np.isnan(self.normalised)
        found[:, :, columns.last] = np.nan_to_num(self.last)
        found[:, :, columns.known] = self.newest >= 0
        measured = np.take_along_axis(times[:, :, None], np.maximum(self.newest, 0), axis=1)
        found[:, :, columns.age] = np.where(self.newest >= 0, times[:, :, None] - measured, 0.0)
        given = self.visits[:, :, FIRST_VALUE + columns.markers :]
        scales = np.array([treatment.scale for treatment in self.schema.treatments])
        found[:, :, columns.treatment] = np.nan_to_num(given) / scales
        found[~self.valid] = 0.0
        return torch.from_numpy(found)

    def outcomes(self) -> Floats:
        """What happened, `(n, T, H, M, 2)` in each marker's unit: outcome and last value.

        The outcome is the first measurement in the horizon's window, in the same episode; both
        are NaN where there is none, or no last value. M counts the target's markers only.
        """
        target = forecast_target(self.schema)
        columns = VisitColumns.of(self.schema)
        found = np.full(outcome_shape(self.schema, len(self.visits)), np.nan)
        for patient, rows in self._episodes():
            times = self.visits[patient, rows, TIME]
            for m, position in enumerate(columns.forecast):
                values = self.visits[patient, rows, FIRST_VALUE + position]
                newest = self.newest[patient, rows, position]
                taken = self.visits[patient, np.maximum(newest, 0), FIRST_VALUE + position]
                last = np.where(newest >= 0, taken, np.nan)
                for h, horizon in enumerate(target.horizons):
                    ahead = first_within(times, values, horizon.window)
                    known = ~np.isnan(ahead) & ~np.isnan(last)
                    found[patient, rows, h, m, 0] = np.where(known, ahead, np.nan)
                    found[patient, rows, h, m, 1] = np.where(known, last, np.nan)
        return found

    def _episodes(self) -> Iterator[tuple[int, slice]]:
        """Yield each patient's episodes as a range of visits."""
        for patient in range(len(self.visits)):
            end = int(self.valid[patient].sum())
            begins = [*np.flatnonzero(self.starts[patient]).tolist(), end]
            for first, after in pairwise(begins):
                yield patient, slice(first, after)


def first_within(times: Floats, values: Floats, window: tuple[float, float]) -> Floats:
    """For each visit of an episode, the first value measured in a window ahead; NaN for none.

    Args:
        times: `(visits,)`, rising.
        values: `(visits,)`, NaN where not measured.
        window: earliest and latest time ahead, both inclusive.
    """
    measured = np.flatnonzero(~np.isnan(values))
    if not measured.size:
        return np.full(len(times), np.nan)
    at = times[measured]
    place = np.searchsorted(at, times + window[0] - _TOLERANCE)
    inside = np.minimum(place, len(at) - 1)
    hit = (place < len(at)) & (at[inside] <= times + window[1] + _TOLERANCE)
    return np.where(hit, values[measured[inside]], np.nan)


def encode_changes(schema: FeatureSchema, outcomes: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Outcomes as normalised changes and which are known, both `(n, T * H * M)`.

    Args:
        schema: the study's.
        outcomes: as `Courses.outcomes` gives them.
    """
    target = forecast_target(schema)
    changes = np.empty(outcomes.shape[:-1])
    for m, marker in enumerate(schema.forecast_markers):
        ahead, last = (normalise_marker(marker, outcomes[:, :, :, m, i]) for i in (0, 1))
        changes[:, :, :, m] = ahead - last
    changes /= np.array([horizon.change for horizon in target.horizons])[:, None]
    flat = changes.reshape(len(outcomes), math.prod(changes.shape[1:]))  # -1 fails for no patients
    observed = ~np.isnan(flat)
    return np.where(observed, flat, 0.0), observed


def restore_forecast(schema: FeatureSchema, changes: Floats, visits: torch.Tensor) -> Floats:
    """Changes `(B, T, H, M, 3)` from the last values in `visits`, in the markers' units.

    NaN where no last value is known.
    """
    target, columns = forecast_target(schema), VisitColumns.of(schema)
    seen = visits.detach().cpu().double().numpy()
    last = np.where(seen[:, :, columns.known] == 1, seen[:, :, columns.last], np.nan)
    steps = np.array([horizon.change for horizon in target.horizons])[:, None]
    found = np.empty(changes.shape)
    for m, (marker, position) in enumerate(
        zip(schema.forecast_markers, columns.forecast, strict=True)
    ):
        ahead = last[:, :, None, None, position] + changes[:, :, :, m] * steps
        found[:, :, :, m] = restore_marker(marker, ahead)
    return found
