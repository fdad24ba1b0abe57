"""Places for what is drawn: numbers become positions; the templates write the SVG.

Widths are those of a phone, so that a text in a drawing is never smaller than beside it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedrx_client.clinic.predict import Point, digits
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import FIRST_VALUE, TIME
from fedrx_models.explain.words import label

WIDTH = 340.0
_ROW = 46.0
_SIDE = 8.0  # left and right of a scale
_LEFT, _TOP, _RIGHT, _BOTTOM = 40.0, 10.0, 10.0, 26.0
_HEIGHT = 180.0
_MOST_MEASURED = 200  # newest visits that are drawn


@dataclass(frozen=True)
class Tick:
    """One mark of an axis.

    Attributes:
        at: position.
        text: the number there.
    """

    at: float
    text: str


@dataclass(frozen=True)
class ScaleRow:
    """One value on a scale.

    Attributes:
        name: what it is.
        told: the value with its interval, in words.
        y: position of its line.
        x: position of the value.
        low: of the interval's lower end; None without one.
        high: of its upper end.
        kind: `now`, `then` or `reference`, for its colour.
    """

    name: str
    told: str
    y: float
    x: float
    low: float | None
    high: float | None
    kind: str


@dataclass(frozen=True)
class Scale:
    """Values below each other on one axis."""

    height: float
    rows: tuple[ScaleRow, ...]
    ticks: tuple[Tick, ...]
    unit: str


@dataclass(frozen=True)
class Course:
    """A marker's measured values, and where it goes.

    Attributes:
        name: of the marker.
        unit: its unit.
        time_unit: of the time axis, which is 0 at the last visit.
        measured: positions of the measured values.
        ahead: positions of the forecast.
        band: its band, as an SVG polygon; empty without one.
        line: from the last value through the forecast, as an SVG polyline.
        usual: the same line of another answer, to compare with; empty without one.
        before: the measured values, as an SVG polyline.
        last: where the last visit is.
        across: marks of the time axis.
        up: marks of the value's.
        told: all of it in a sentence, for those who do not see it.
    """

    name: str
    unit: str
    time_unit: str
    measured: tuple[tuple[float, float], ...]
    ahead: tuple[tuple[float, float], ...]
    band: str
    line: str
    usual: str
    before: str
    last: float
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    told: str


@dataclass(frozen=True)
class Shown:
    """One row to put on a scale, before it has a place."""

    name: str
    value: float
    low: float | None
    high: float | None
    kind: str = "now"


def in_words(value: float, low: float | None, high: float | None, unit: str) -> str:
    """Write a value with its interval."""
    span = "" if low is None or high is None else f" ({digits(low)} to {digits(high)})"
    return f"{digits(value)}{span} {unit}"


def scale(shown: Sequence[Shown], unit: str, *, whole: tuple[float, float] | None = None) -> Scale:
    """Put values on one axis.

    Args:
        shown: the rows; at least one.
        unit: of all of them.
        whole: what the axis must hold, as 0 and 1 for a probability.
    """
    every = [x for one in shown for x in (one.value, one.low, one.high) if x is not None]
    first, last, step = _nice(min(every), max(every)) if whole is None else (*whole, 0.0)
    if whole is not None:
        step = (last - first) / 4

    def at(value: float) -> float:
        inner = WIDTH - 2 * _SIDE
        return round(_SIDE + inner * (value - first) / (last - first), 1)

    rows = tuple(
        ScaleRow(
            one.name,
            in_words(one.value, one.low, one.high, unit),
            24 + _ROW * i,
            at(one.value),
            None if one.low is None else at(one.low),
            None if one.high is None else at(one.high),
            one.kind,
        )
        for i, one in enumerate(shown)
    )
    return Scale(_ROW * len(shown) + 26, rows, _ticks(first, last, step, at), unit)


def courses(
    cohort: Cohort, points: Sequence[Point], time_unit: str, usual: Sequence[Point] = ()
) -> tuple[Course, ...]:
    """Draw each forecast marker of a cohort of one: what was measured, and what is predicted.

    Args:
        cohort: the patient.
        points: the predictions.
        time_unit: of the study.
        usual: predictions to compare with.
    """
    schema, visits = cohort.schema, cohort.visits[0]
    rows = visits[~np.isnan(visits[:, TIME])][-_MOST_MEASURED:]
    times = rows[:, TIME] - rows[-1, TIME]
    names = [one.name for one in schema.markers]
    found = []
    for marker in schema.forecast_markers:
        values = rows[:, FIRST_VALUE + names.index(marker.name)]
        known = ~np.isnan(values)
        past = list(zip(times[known].tolist(), values[known].tolist(), strict=True))
        own, other = (
            [one for one in some if one.of == marker.name and one.value is not None]
            for some in (points, usual)
        )
        if own:
            name = label(marker.name, marker.unit)
            found.append(_course(name, marker.unit, time_unit, past, own, usual=other))
    return tuple(found)


def curve(points: Sequence[Point], name: str, time_unit: str) -> Course:
    """Draw one curve from a start that is certain, as of survival."""
    start = Point(points[0].of, 1.0, points[0].unit, at=0.0)
    return _course(name, points[0].unit, time_unit, [], [start, *points])


def _course(
    name: str,
    unit: str,
    time_unit: str,
    past: Sequence[tuple[float, float]],
    ahead: Sequence[Point],
    *,
    usual: Sequence[Point] = (),
) -> Course:
    future = [(p.at or 0.0, p.value or 0.0, p.low, p.high) for p in ahead]
    times = [*(t for t, _ in past), *(t for t, *_ in future), 0.0]
    compared = [(p.at or 0.0, p.value or 0.0) for p in usual]
    heights = [v for _, v in (*past, *compared)]
    heights += [x for _, *some in future for x in some if x is not None]
    start, end = min(times), max(times)
    bottom, top, step = _nice(min(heights), max(heights))

    def place(time: float, value: float) -> tuple[float, float]:
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * (time - start) / (end - start)
        y = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - bottom) / (top - bottom)
        return round(x, 1), round(y, 1)

    measured = tuple(place(*one) for one in past)
    middle = tuple(place(time, value) for time, value, *_ in future)
    sure = [place(*past[-1])] if past else []
    banded = [one for one in future if one[2] is not None and one[3] is not None]
    lows = [place(time, low or 0.0) for time, _, low, _ in banded]
    highs = [place(time, high or 0.0) for time, _, _, high in banded]
    last = place(0.0, bottom)[0]
    told = "; ".join(
        f"in {time:g} {time_unit}s {in_words(value, low, high, unit)}"
        for time, value, low, high in future
    )
    latest = f"last measured {digits(past[-1][1])} {unit}; " if past else ""
    first_t, last_t, step_t = _nice(start, end)
    return Course(
        name=name,
        unit=unit,
        time_unit=time_unit,
        measured=measured,
        ahead=middle,
        band=_path([*sure, *highs, *reversed(lows)]) if banded else "",
        line=_path([*sure, *middle]),
        usual=_path([*sure, *(place(*one) for one in compared)]) if compared else "",
        before=_path(measured),
        last=last,
        across=tuple(
            tick
            for tick in _ticks(first_t, last_t, step_t, lambda t: place(t, bottom)[0])
            if _LEFT - 1 <= tick.at <= WIDTH - _RIGHT + 1
        ),
        up=_ticks(bottom, top, step, lambda v: place(start, v)[1]),
        told=f"{name}: {latest}predicted {told}.",
    )


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)


def _nice(low: float, high: float) -> tuple[float, float, float]:
    """Widen a range to round numbers: its ends, and a step of 1, 2 or 5 times a power of ten."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-3):
        spread = max(abs(high), 1.0) * 0.1
        low, high = low - spread, high + spread
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    return math.floor(low / step) * step, math.ceil(high / step) * step, step


def _ticks(
    first: float, last: float, step: float, at: Callable[[float], float]
) -> tuple[Tick, ...]:
    count = round((last - first) / step)
    values = [first + i * step for i in range(count + 1)]
    return tuple(Tick(at(v), f"{0.0 if abs(v) < step / 1e6 else v:.6g}") for v in values)
