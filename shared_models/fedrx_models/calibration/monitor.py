"""Stay or pivot: a sequential test of whether a course leaves the path that was forecast.

At every measurement a bet is laid that scores have shifted. A bet multiplies its stake by an
e-value, whose mean is at most 1 while nothing has changed; stakes are added as time passes, one a
month. What the bets have grown to, less the months, then has a mean of at most 0, so an alarm when
they reach 1 / rate comes at most `rate` times a patient-month on average: a Shiryaev-Roberts
e-detector whose stakes come with time (Shin, Ramdas, Rinaldo 2024, arXiv:2203.03532; Ville 1939).
That holds where scores are calibrated and a patient's are exchangeable. A patient who is always a
little off breaks it, so the level at which to call an alarm is better set by `alarm_level`, from
the highest point that each of many courses without change reached: it rests on nothing but that
patients are alike.

The state is small, frozen and plain, so that a site can keep it between two visits.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from fedrx_common.errors import MisuseError
from fedrx_models.calibration.conformal import ScoreGrid, ScoreTotals
from fedrx_models.calibration.scores import Arrivals

Floats = NDArray[np.float64]
Direction = Literal["up", "down", "both"]
Decision = Literal["stay", "pivot"]

SHIFTS = (0.5, 1.0, 1.5, 2.0)
"""How far a bet supposes that scores have moved, in standard deviations of theirs."""
_KEPT = 0.05
"""Share of each stake that is not laid: no single measurement takes away all evidence."""
_NOTHING = -1e9  # logarithm of no stake at all; finite, so that JSON can hold it
_MOST_LOG, _LOG_STEP = 16.0, 0.125


@dataclass(frozen=True)
class Monitor:
    """How a course is watched.

    Attributes:
        totals: for each stream its signed scores without change, summed over patients.
        direction: which change counts: a marker above its path, below it, or either.
        months_per_unit: length of the study's time unit in months.
        level: logarithm of the evidence at which an alarm is called; see `level_of_rate` and
            `alarm_level`.

    Raises:
        MisuseError: there is no stream, or a number is impossible.
    """

    totals: tuple[ScoreTotals, ...]
    direction: Direction
    months_per_unit: float
    level: float

    def __post_init__(self) -> None:
        if not self.totals:
            raise MisuseError("a monitor needs at least one stream of scores.")
        if not (math.isfinite(self.months_per_unit) and self.months_per_unit > 0):
            raise MisuseError("months_per_unit must be finite and above 0.")
        if math.isnan(self.level):
            raise MisuseError("the level of an alarm is not a number.")

    @property
    def bets(self) -> int:
        """Number of bets: streams x directions x shifts."""
        return len(self.totals) * (2 if self.direction == "both" else 1) * len(SHIFTS)

    def begin(self, time: float) -> "Watch":
        """Start to follow a course at a time in the study's unit, without evidence."""
        return Watch(tuple([_NOTHING] * self.bets), time, time, 0, 0, 0.0)

    def update(self, watch: "Watch", time: float, scores: Floats) -> "Watch":
        """Add one visit's scores, `(streams,)`, NaN for none; the old state stays as it is.

        Raises:
            MisuseError: time went back, or the state is of another monitor.
        """
        if not time >= watch.time:
            raise MisuseError(f"a visit at {time:g} cannot follow one at {watch.time:g}.")
        if len(watch.stakes) != self.bets or np.shape(scores) != (len(self.totals),):
            raise MisuseError("the state of a course belongs to another monitor.")
        added = (time - watch.time) * self.months_per_unit
        new = math.log(added) if added > 0 else _NOTHING
        scores = np.asarray(scores, dtype=np.float64)
        bets = self._bets(scores)
        stakes = np.maximum(np.logaddexp(np.array(watch.stakes), new) + bets, _NOTHING)
        # A run goes on as long as a change from its first visit is likelier than none.
        gain = float(np.logaddexp.reduce(bets.reshape(len(self.totals), -1), axis=1).sum())
        run = max(0.0, watch.run + gain - len(self.totals) * math.log(bets.size / len(self.totals)))
        known = scores[~np.isnan(scores)]
        worst = float(known[np.argmax(np.abs(known))]) if len(known) else 0.0
        kept = Watch(tuple(stakes.tolist()), time, time, 0, 0, 0.0)
        if run == 0.0:
            return kept
        return dataclasses.replace(
            kept,
            since=time if watch.run == 0.0 else watch.since,
            seen=watch.seen + int(len(known) > 0),
            outside=watch.outside + int(abs(worst) > 1),
            distance=watch.distance + worst,
            run=run,
        )

    def judge(self, watch: "Watch") -> "Assessment":
        """Say stay or pivot, with the evidence."""
        mean = watch.distance / watch.seen if watch.seen else 0.0
        return Assessment(
            decision="pivot" if watch.evidence >= self.level else "stay",
            evidence=watch.evidence,
            level=self.level,
            since=watch.since,
            lasted=watch.time - watch.since,
            seen=watch.seen,
            outside=watch.outside,
            distance=mean,
        )

    @cached_property
    def _by_bin(self) -> tuple[Floats, ...]:
        """For each stream the logarithms of its e-values by bin of the score, `(bins, bets)`."""
        found = []
        for total in self.totals:
            # A score in each bin: its upper edge, and one beyond the last.
            inside = np.append(total.grid.edges, math.inf)
            up, down = total.upper_tail(inside), total.lower_tail(inside)
            tails = {"up": (up,), "down": (down,)}.get(self.direction, (up, down))
            distance = norm.isf(np.stack(tails, axis=1))[:, :, None]
            # A chance of 1 lies infinitely far on the other side: all that is laid is lost.
            laid = np.exp(np.array(SHIFTS) * distance - np.square(SHIFTS) / 2)
            found.append(np.log(_KEPT + (1 - _KEPT) * laid).reshape(len(inside), -1))
        return tuple(found)

    def _bets(self, scores: Floats) -> Floats:
        """Logarithms of the e-values of one visit, `(bets,)`; 0 where a stream has no score."""
        found = []
        for total, by_bin, score in zip(self.totals, self._by_bin, scores, strict=True):
            place = int(np.searchsorted(total.grid.edges, score))
            found.append(np.zeros(by_bin.shape[1]) if np.isnan(score) else by_bin[place])
        return np.concatenate(found)


@dataclass(frozen=True)
class Watch:
    """What is kept of a course between two visits.

    Attributes:
        stakes: logarithm of what each bet has grown to.
        time: of the newest visit, in the study's unit.
        since: when the present run of evidence began.
        seen: visits with a score in that run.
        outside: of these, outside the band.
        distance: sum of their scores, in half-widths.
        run: logarithm of how much likelier a change since then is than none; 0 without a run.
    """

    stakes: tuple[float, ...]
    time: float
    since: float
    seen: int
    outside: int
    distance: float
    run: float = 0.0

    @property
    def evidence(self) -> float:
        """Logarithm of what all bets have grown to on average."""
        stakes = np.array(self.stakes)
        return float(np.logaddexp.reduce(stakes) - math.log(len(stakes)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Watch":
        """Read what `to_dict` wrote.

        Raises:
            MisuseError: a value is missing, unknown or not a number.
        """
        try:
            found = cls(**{**values, "stakes": tuple(float(one) for one in values["stakes"])})
            numbers = (*found.stakes, found.time, found.since, found.distance, found.run)
            sound = found.stakes and all(math.isfinite(number) for number in numbers)
        except (KeyError, TypeError, ValueError):
            sound = ()
        if not sound:
            raise MisuseError("the state of a course is damaged: begin to follow it again.")
        return found


@dataclass(frozen=True)
class Assessment:
    """Whether a course still follows its forecast, and the evidence.

    Attributes:
        decision: stay, or pivot: a person looks at the therapy again.
        evidence: logarithm of the evidence for a change.
        level: from which the decision is to pivot.
        since: when the run of evidence began, in the study's time unit.
        lasted: how long it has lasted.
        seen: measurements in it.
        outside: of these, outside the band.
        distance: their mean distance from the forecast, in half-widths of the band; above 0 is
            above the forecast.
    """

    decision: Decision
    evidence: float
    level: float
    since: float
    lasted: float
    seen: int
    outside: int
    distance: float


def level_of_rate(rate: float) -> float:
    """Find the level for a false-alarm rate per patient-month, where scores are calibrated.

    Only where a patient's scores are as good as independent: on eICU courses, whose patients stay
    off their forecasts for hours, it calls six times as many alarms as asked for. `alarm_level`
    does not.

    Raises:
        MisuseError: the rate is not above 0 and finite.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise MisuseError(f"a false-alarm rate of {rate!r} a patient-month is impossible.")
    return -math.log(rate)


def follow(monitor: Monitor, course: Arrivals) -> Floats:
    """Follow one episode from its start and return the evidence after each arrival, `(k,)`."""
    watch, found = monitor.begin(course.start), []
    for time, scores in zip(course.times, course.scores, strict=True):
        watch = monitor.update(watch, float(time), scores)
        found.append(watch.evidence)
    return np.array(found)


PEAKS = ScoreGrid(
    tuple(_LOG_STEP * i for i in range(round(-4 / _LOG_STEP), round(_MOST_LOG / _LOG_STEP) + 1))
)
"""Bins of the highest evidence that a course without change reached."""


def peaks(monitor: Monitor, courses: Iterable[Arrivals], patients: int) -> tuple[Floats, ...]:
    """Find the highest evidence of each patient's episodes, `(1,)`; none without an arrival.

    For `PEAKS.contributions`: a patient adds one count.
    """
    highest: dict[int, float] = {}
    for course in courses:
        reached = follow(monitor, course)
        if len(reached):
            top = float(reached.max())
            highest[course.patient] = max(top, highest.get(course.patient, -math.inf))
    return tuple(np.array([highest[i]]) if i in highest else np.zeros(0) for i in range(patients))


def alarm_level(
    reached: ScoreTotals, months: float, rate: float, confidence: float = 0.95
) -> float:
    """Find the lowest level at which no more patients than asked for get a false alarm.

    With n patients followed for `months` together, one more patient is the first to cross with
    probability (1 + crossed) / (1 + n), so that count is held against rate x months.

    Args:
        reached: summed peaks of courses without change, noisy or not.
        months: patient-months of these courses together, as released.
        rate: false alarms per patient-month.
        confidence: probability over the noise that no more are called.

    Returns:
        The level; infinite where too few patients were followed to promise the rate.
    """
    _ = level_of_rate(rate)
    counts, sd = reached.counts / reached.grid.units, reached.noise_sd / reached.grid.units
    crossed = np.cumsum(counts[::-1])[::-1][1:]  # above edge i
    bins = np.arange(len(reached.grid.edges), 0, -1)
    enough = crossed + 1 + norm.ppf(confidence) * sd * np.sqrt(bins) <= rate * months
    level = math.inf
    for edge, passes in zip(reversed(reached.grid.edges), reversed(enough), strict=True):
        if not passes:
            break
        level = edge
    # A course that reaches an edge exactly is counted below it.
    return math.nextafter(level, math.inf)
