"""What a simulated forecast's report shows beside its table: courses, bands, error by horizon.

All of it needs patients in one place, so a live run has none of it: there is nothing here that a
coordinator could fill in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedrx_common.errors import MisuseError


@dataclass(frozen=True)
class MarkerCourse:
    """One marker of one patient; times count from the visit that the forecast was made at.

    Args:
        marker: its name.
        unit: of all values.
        times: of what was measured, before and after.
        values: what was measured; the forecast knows those whose time is not above 0.
        last: the newest value that the forecast knows; None if there is none, and no forecast.
        ahead: times of the forecast.
        median: the forecast.
        lower: lower end of its band.
        upper: upper end of its band.
    """

    marker: str
    unit: str
    times: Sequence[float]
    values: Sequence[float]
    last: float | None
    ahead: Sequence[float] = ()
    median: Sequence[float] = ()
    lower: Sequence[float] = ()
    upper: Sequence[float] = ()

    def __post_init__(self) -> None:
        lengths = {len(one) for one in (self.ahead, self.median, self.lower, self.upper)}
        if len(self.times) != len(self.values) or len(lengths) > 1:
            raise MisuseError(f"course of {self.marker}: every time needs its value and band.")


@dataclass(frozen=True)
class PatientCourse:
    """One held-out patient and a forecast from the middle of the course.

    Args:
        title: which patient this is, in words; never an id.
        courses: the target's markers.
    """

    title: str
    courses: Sequence[MarkerCourse]


@dataclass(frozen=True)
class PairResult:
    """One marker at one horizon; None where nothing can be judged.

    Args:
        marker: its name.
        horizon: how far ahead, in the study's time unit.
        ratio: error relative to the last value's.
        coverage: percent of outcomes within the band.
        ratio_reach: half the 95 % interval of `ratio`, for the patients who were judged.
        coverage_reach: half that of `coverage`, in percentage points.
    """

    marker: str
    horizon: float
    ratio: float | None
    coverage: float | None
    ratio_reach: float | None = None
    coverage_reach: float | None = None


@dataclass(frozen=True)
class QuantileShares:
    """How often one marker's outcomes fell below a forecast quantile, over all horizons.

    Args:
        marker: its name.
        nominal: percent that should lie below, e.g. 10, 50, 90.
        actual: percent that did.
    """

    marker: str
    nominal: Sequence[float]
    actual: Sequence[float]


@dataclass(frozen=True)
class RippleRow:
    """What follows when one marker moves.

    Args:
        leader: the marker that moves, and by how much, in words.
        followers: those that may follow.
        moves: how far each follows where it follows most, in its public scale; None for itself.
        horizons: when that is.
    """

    leader: str
    followers: Sequence[str]
    moves: Sequence[float | None]
    horizons: Sequence[float]


@dataclass(frozen=True)
class ForecastPictures:
    """What is drawn of a simulated forecast; each part may be empty.

    Args:
        time_unit: e.g. "hour".
        level: percent of outcomes that the band should hold.
        held_out: patients that were judged.
        invented: whether the patients are synthetic; courses of real ones must not be passed on.
        patients: a few chosen patients.
        pairs: every marker at every horizon.
        quantiles: calibration, marker by marker.
        ripple: what a network of markers has learned.
    """

    time_unit: str
    level: float
    held_out: int
    invented: bool
    patients: Sequence[PatientCourse] = ()
    pairs: Sequence[PairResult] = ()
    quantiles: Sequence[QuantileShares] = ()
    ripple: Sequence[RippleRow] = ()
