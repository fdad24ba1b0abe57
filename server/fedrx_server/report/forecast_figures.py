"""A forecast's plots: patients' courses, calibration, error by horizon, and what ripples."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fedrx_common.text import escaped_html
from fedrx_server.report.forecast_data import (
    ForecastPictures,
    MarkerCourse,
    PairResult,
    PatientCourse,
    QuantileShares,
    RippleRow,
)
from fedrx_server.report.plotting import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    NamedFigure,
    axis_title,
    blank_figure,
    styled,
)

_BAND = "rgba(33,133,201,0.20)"
_COLUMNS, _ROW_HEIGHT, _HEAD = 3, 225, 110  # of the courses' panels; pixels
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY, "#B8860B")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down")
_SPREAD = 0.4  # of the way from one horizon to the next, over which markers are set apart
_CELL = 34  # of a ripple's row; pixels, for two lines of text
_STILL = 0.005  # of a scale; less is not worth a number
# Weak enough for text to be read on it, on light and on dark.
_FALL_TO_RISE = ((0.0, "rgba(213,94,0,0.6)"), (0.5, "rgba(128,128,128,0)"), (1.0, BLUE + "99"))

_ERROR = (
    "Below 1 the forecast is better than the last value. Exact, on {judged}; the bars are 95 % "
    "intervals for the patients who happened to be judged."
)
_COVERAGE = "A band that can be trusted holds {level:g} % of the outcomes; bars as above."
_CALIBRATION = (
    "How often an outcome lay below the forecast's 10 %, 50 % and 90 % quantile: on the diagonal "
    "the band says how sure it is. Mean over horizons and patients."
)
_RIPPLE = (
    "The marker on the left is measured one scale higher; the cell says how many of its own scales "
    "another one moves where it moves most, and when. What the model expects, not what causes what."
)
_COURSES = (
    "The forecast is made at 0, from what was known then. The band should hold {level:g} % of what "
    "is measured at its horizons."
)


def summary_figures(pictures: ForecastPictures | None) -> list[NamedFigure]:
    """Draw what concerns all held-out patients, as far as there are data for it."""
    if pictures is None:
        return []
    unit, level = pictures.time_unit, pictures.level
    judged = f"{pictures.held_out:,} held-out patients, each counted once"
    found = []
    if pictures.pairs:
        figure = error_by_horizon(pictures.pairs, unit)
        found.append(("Error by horizon", _ERROR.format(judged=judged), figure))
        figure = coverage_by_horizon(pictures.pairs, unit, level)
        found.append(("Outcomes within the band", _COVERAGE.format(level=level), figure))
    if pictures.quantiles:
        found.append(("Calibration", _CALIBRATION, calibration(pictures.quantiles)))
    if pictures.ripple:
        found.append(("Which markers follow", _RIPPLE, ripple_map(pictures.ripple, unit)))
    return found


def course_figures(pictures: ForecastPictures | None) -> list[NamedFigure]:
    """Draw one wide figure for each chosen patient."""
    if pictures is None:
        return []
    return [
        (one.title, _COURSES.format(level=pictures.level), patient_courses(one, pictures))
        for one in pictures.patients
    ]


def error_by_horizon(pairs: Sequence[PairResult], time_unit: str) -> go.Figure:
    """Error relative to the last value's, 1, for every marker at every horizon."""
    values = [(pair.ratio, pair.ratio_reach) for pair in pairs]
    figure = _by_horizon(pairs, time_unit, "Error ÷ the last value's", values)
    _reference(figure, 1.0, "last value")
    return figure


def coverage_by_horizon(pairs: Sequence[PairResult], time_unit: str, level: float) -> go.Figure:
    """Share of outcomes within the band, for every marker at every horizon."""
    values = [(pair.coverage, pair.coverage_reach) for pair in pairs]
    figure = _by_horizon(pairs, time_unit, "Outcomes within the band (%)", values)
    _reference(figure, level, f"{level:g} %")
    return figure


def _by_horizon(
    pairs: Sequence[PairResult],
    time_unit: str,
    name: str,
    values: Sequence[tuple[float | None, float | None]],
) -> go.Figure:
    """A line for each marker over the horizons, set apart a little so that none hides another.

    Args:
        pairs: marker and horizon of each value.
        time_unit: of the horizons.
        name: of the values.
        values: with half their intervals.
    """
    horizons = sorted({pair.horizon for pair in pairs})
    markers = list(dict.fromkeys(pair.marker for pair in pairs))
    figure = blank_figure(f"Horizon ({escaped_html(time_unit)}s)", name)
    figure.update_xaxes(tickvals=list(range(len(horizons))), ticktext=[f"{h:g}" for h in horizons])
    for i, marker in enumerate(markers):
        aside = _SPREAD * (i / max(1, len(markers) - 1) - 0.5)
        here = [k for k, pair in enumerate(pairs) if pair.marker == marker]
        figure.add_scatter(
            x=[horizons.index(pairs[k].horizon) + aside for k in here],
            y=[values[k][0] for k in here],
            error_y={"array": [values[k][1] for k in here], "thickness": 1, "width": 3},
            name=escaped_html(marker),
            mode="lines+markers",
            **_style(i),
            hovertemplate="%{y:.3g}",
        )
    return figure


def _style(number: int) -> dict[str, object]:
    colour = _COLOURS[number % len(_COLOURS)]
    symbol = _SYMBOLS[number % len(_SYMBOLS)]
    return {
        "line": {"color": colour, "width": 1.5},
        "marker": {"color": colour, "symbol": symbol, "size": 9},
    }


def _reference(figure: go.Figure, value: float, name: str) -> None:
    figure.add_hline(
        y=value,
        line={"color": GREY, "width": 1.5, "dash": "dash"},
        annotation={"text": name, "font": {"size": 11}},
        annotation_position="top right",
    )


def calibration(quantiles: Sequence[QuantileShares]) -> go.Figure:
    """Nominal against actual share of outcomes below a quantile, marker by marker."""
    figure = blank_figure("Outcomes that should lie below (%)", "Outcomes that did (%)")
    figure.add_scatter(
        x=[0, 100],
        y=[0, 100],
        mode="lines",
        name="perfect",
        line={"color": GREY, "width": 1.5, "dash": "dash"},
        hoverinfo="skip",
    )
    for i, one in enumerate(quantiles):
        figure.add_scatter(
            x=list(one.nominal),
            y=list(one.actual),
            name=escaped_html(one.marker),
            mode="lines+markers",
            **_style(i),
        )
    figure.update_xaxes(range=[0, 100])
    figure.update_yaxes(range=[0, 100])
    return figure


def ripple_map(rows: Sequence[RippleRow], time_unit: str) -> go.Figure:
    """Leaders by followers; the colour and the text say how far each moves, and when."""
    figure = blank_figure("follows", "moves")
    unit = escaped_html(time_unit)[:1]
    texts = []
    for row in rows:
        words = []
        for move, horizon in zip(row.moves, row.horizons, strict=True):
            if move is None:
                words.append("")  # the leader itself
            else:
                words.append(f"{move:+.2f}<br>{horizon:g} {unit}" if abs(move) >= _STILL else "0")
        texts.append(words)
    most = max([abs(move) for row in rows for move in row.moves if move is not None], default=1.0)
    figure.add_heatmap(
        x=[escaped_html(name) for name in rows[0].followers],
        y=[escaped_html(row.leader) for row in rows],
        z=[list(row.moves) for row in rows],
        text=texts,
        texttemplate="%{text}",
        textfont={"size": 11},
        colorscale=[list(step) for step in _FALL_TO_RISE],
        zmin=-(most or 1.0),
        zmax=most or 1.0,
        showscale=False,
        xgap=2,
        ygap=2,
        hoverinfo="x+y+text",
    )
    figure.update_layout(showlegend=False, height=max(330, len(rows) * _CELL + _HEAD))
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    return figure


def patient_courses(patient: PatientCourse, pictures: ForecastPictures) -> go.Figure:
    """One panel for each marker: what was measured, before and after, and the forecast."""
    columns = min(_COLUMNS, len(patient.courses))
    rows = -(-len(patient.courses) // columns)
    titles = [escaped_html(f"{one.marker} ({one.unit})") for one in patient.courses]
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.28 / rows)
    for i, course in enumerate(patient.courses):
        for trace in _course_traces(course, pictures.level):
            trace.showlegend = i == 0
            figure.add_trace(trace, i // columns + 1, i % columns + 1)
    height = rows * _ROW_HEIGHT + _HEAD
    legend = {"y": 1 + 34 / (height - _HEAD)}
    styled(figure, height=height, margin={"l": 50, "r": 14, "t": 60, "b": 50}, legend=legend)
    figure.update_annotations(font={"size": 13})
    figure.add_vline(x=0, line={"color": GREY, "width": 1, "dash": "dot"})
    unit = f"{escaped_html(pictures.time_unit.capitalize())}s from the forecast"
    for i in range(len(patient.courses) - columns, len(patient.courses)):
        figure.update_xaxes(title=axis_title(unit), row=i // columns + 1, col=i % columns + 1)
    return figure


def _course_traces(course: MarkerCourse, level: float) -> list[go.Scatter]:
    """Band, median, what was known, what came later; every one is there, so that legends agree."""
    start = [] if course.last is None else [course.last]
    ahead = [*([0.0] * len(start)), *course.ahead] if course.ahead else []
    edges = [[*start, *values] if course.ahead else [] for values in (course.upper, course.lower)]
    pairs = list(zip(course.times, course.values, strict=True))
    known, later = ([p for p in pairs if (p[0] <= 0) == before] for before in (True, False))
    return [
        go.Scatter(
            x=[*ahead, *reversed(ahead)],
            y=[*edges[0], *reversed(edges[1])],
            fill="toself",
            mode="none",
            fillcolor=_BAND,
            name=f"{level:g} % band",
            hoverinfo="skip",
        ),
        go.Scatter(
            x=ahead,
            y=[*start, *course.median] if course.ahead else [],
            mode="lines+markers",
            name="forecast (median)",
            line={"color": BLUE, "width": 2},
            marker={"color": BLUE, "size": [0] * len(start) + [7] * len(course.ahead)},
        ),
        _measured(known, "measured, known to the forecast", GREY, "circle"),
        _measured(later, "measured later", ORANGE, "diamond-open"),
    ]


def _measured(
    pairs: Sequence[tuple[float, float]], name: str, colour: str, symbol: str
) -> go.Scatter:
    return go.Scatter(
        x=[time for time, _ in pairs],
        y=[value for _, value in pairs],
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 1},
        marker={"color": colour, "symbol": symbol, "size": 6},
    )
