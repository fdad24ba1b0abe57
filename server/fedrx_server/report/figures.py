"""A report's plots, as Plotly figures; those of a forecast are in `forecast_figures`."""

from collections.abc import Sequence

import plotly.graph_objects as go

from fedrx_common.text import escaped_html
from fedrx_models.metrics.registry import Measure
from fedrx_server.report.data import (
    BlockCurve,
    DoseGroups,
    EpsilonCurve,
    LearningCurve,
    Predictions,
    ReportData,
)
from fedrx_server.report.plotting import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    NamedFigure,
    blank_figure,
)

# One for each kind of row but the federated one, which is plain blue.
_OTHERS = ((GREY, ""), (ORANGE, "."), (GREEN, "x"), (PURPLE, "-"), (AMBER, "/"))
MOST_POINTS = 2000  # more single patients than this make the file large, and the plot a blot

_CURVE = (
    "{better} is better. Bars show the noise that protects the held-out patients; a round whose "
    "figure its noise hides is left out."
)
_PREDICTIONS = "Each dot is one held-out patient; in the shaded band the dose is within 20 %."
_GROUPS = "Lower is better. Patients who need very low or very high doses are the hardest."
_EPSILON = "Less is safer. No round may lift the line above the promise."
_BLOCKS = (
    "{better} is better. Each block of each held-out patient is dropped with the chance given, on "
    "top of what is missing anyway; bars are 95 % intervals over draws of blocks and patients."
)


def learning_curve(curve: LearningCurve, measure: Measure) -> go.Figure:
    """The headline by round: as reported, with the interval of its noise, and exact if known."""
    unit = f" ({escaped_html(measure.unit)})" if measure.unit else ""
    figure = blank_figure("Round", f"{escaped_html(measure.name)}{unit}")
    if curve.exact:
        figure.add_scatter(
            x=list(curve.exact_rounds),
            y=list(curve.exact),
            name="exact (simulation only)",
            mode="lines",
            line={"color": GREY, "width": 2},
        )
    if not curve.rounds:
        return figure
    bars: dict[str, object] | None = None
    if curve.noise:  # from end to end of each interval, which may reach further to one side
        both = list(zip(curve.reported, curve.noise, strict=True))
        bars = {
            "type": "data",
            "array": [high - value for value, (_, high) in both],
            "arrayminus": [value - low for value, (low, _) in both],
            "color": BLUE,
            "thickness": 1.5,
        }
    figure.add_scatter(
        x=list(curve.rounds),
        y=list(curve.reported),
        name="as reported" + (" (95 % of its noise)" if curve.noise else ""),
        mode="markers" if curve.exact else "lines+markers",
        marker={"color": BLUE, "size": 9},
        line={"color": BLUE, "width": 2},
        error_y=bars,
    )
    return figure


def predicted_against_actual(predictions: Predictions, unit: str) -> go.Figure:
    """One dot a held-out patient; the line is a perfect prediction, the band 20 % around it."""
    figure = blank_figure(f"Actual ({escaped_html(unit)})", f"Predicted ({escaped_html(unit)})")
    step = -(-len(predictions.actual) // MOST_POINTS) or 1
    actual = [float(value) for value in predictions.actual[::step]]
    predicted = [float(value) for value in predictions.predicted[::step]]
    # 99.5 % of the patients are below the axis's end: one extreme dose does not stretch it.
    ordered = sorted(actual) or [1.0]
    top = 1.05 * ordered[min(len(ordered) - 1, int(0.995 * len(ordered)))] or 1.0
    low, high = 0.0, top
    figure.add_scatter(
        x=[low, high, high, low],
        y=[0.8 * low, 0.8 * high, 1.2 * high, 1.2 * low],
        fill="toself",
        mode="none",
        fillcolor="rgba(0,158,115,0.16)",
        name="within 20 %",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        name="perfect",
        line={"color": GREEN, "width": 1.5, "dash": "dash"},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=actual,
        y=predicted,
        mode="markers",
        name="held-out patient",
        marker={"color": BLUE, "size": 5, "opacity": 0.45},
    )
    figure.update_xaxes(range=[low, high])
    figure.update_yaxes(range=[low, min(high, 1.15 * max([*predicted, 1.0]))])
    return figure


def error_by_group(groups: DoseGroups, unit: str) -> go.Figure:
    """Mean absolute error of each model in each dose group."""
    figure = blank_figure(
        f"Actual dose ({escaped_html(unit)})", f"Mean absolute error ({escaped_html(unit)})"
    )
    typeset = (x.replace("<=", "≤ ").replace(">=", "≥ ").replace("-", "–") for x in groups.labels)
    labels = [escaped_html(label) for label in typeset]
    if groups.patients:
        pairs = zip(labels, groups.patients, strict=True)
        labels = [f"{label}<br>{count:,} patients" for label, count in pairs]
    others = iter(_OTHERS * len(groups.models))
    for model in groups.models:
        color, shape = (BLUE, "") if model.key == "federated" else next(others)
        figure.add_bar(
            x=labels,
            y=list(model.mae),
            name=escaped_html(model.label),
            marker={"color": color, "pattern": {"shape": shape, "size": 6}},
        )
    figure.update_layout(barmode="group", bargap=0.3, bargroupgap=0.08)
    return figure


def epsilon_by_round(curve: EpsilonCurve, promised: float | None) -> go.Figure:
    """Privacy spent so far, and the promise it must stay below."""
    figure = blank_figure("Round", "ε spent")
    figure.add_scatter(
        x=list(curve.rounds),
        y=list(curve.epsilon),
        name="spent",
        mode="lines",
        line={"color": BLUE, "width": 2.5},
        fill="tozeroy",
        fillcolor="rgba(33,133,201,0.14)",
    )
    if promised is not None and curve.rounds:
        figure.add_scatter(
            x=[curve.rounds[0], curve.rounds[-1]],
            y=[promised, promised],
            name="promised",
            mode="lines",
            line={"color": ORANGE, "width": 2, "dash": "dash"},
        )
    figure.update_yaxes(rangemode="tozero")
    return figure


def dropouts_by_round(dropped: Sequence[int]) -> go.Figure:
    """Sites that fell out, round by round."""
    figure = blank_figure("Round", "Sites that fell out")
    figure.add_bar(
        x=list(range(1, len(dropped) + 1)),
        y=list(dropped),
        marker={"color": ORANGE},
        name="fell out",
    )
    figure.update_layout(showlegend=False, bargap=0.1)
    figure.update_yaxes(rangemode="tozero", tickformat="d", dtick=max(1, max(dropped) // 5))
    return figure


def all_figures(data: ReportData) -> list[NamedFigure]:
    """(title, caption, figure) of every plot that there are data for."""
    plots: list[NamedFigure] = []
    if data.curve and (data.curve.rounds or data.curve.exact_rounds):
        better = "Higher" if data.headline.higher_is_better else "Lower"
        caption = _CURVE.format(better=better)
        plots.append(("Learning curve", caption, learning_curve(data.curve, data.headline)))
    if data.predictions and data.predictions.actual:
        figure = predicted_against_actual(data.predictions, data.unit)
        plots.append(("Predicted against actual", _PREDICTIONS, figure))
    if data.groups and data.groups.models:
        plots.append(("Error by dose group", _GROUPS, error_by_group(data.groups, data.unit)))
    if data.epsilon_curve and data.epsilon_curve.rounds:
        promised = data.privacy.promised_epsilon if data.privacy else None
        figure = epsilon_by_round(data.epsilon_curve, promised)
        plots.append(("Privacy spent", _EPSILON, figure))
    return plots


def block_figures(curve: BlockCurve | None, measure: Measure) -> list[NamedFigure]:
    """The headline as blocks are dropped, where that is known."""
    if curve is None:
        return []
    unit = f" ({escaped_html(measure.unit)})" if measure.unit else ""
    figure = blank_figure("Blocks dropped (%)", f"{escaped_html(measure.name)}{unit}")
    above = [high - value for high, value in zip(curve.high, curve.value, strict=True)]
    below = [value - low for low, value in zip(curve.low, curve.value, strict=True)]
    figure.add_scatter(
        x=[100 * share for share in curve.dropped],
        y=list(curve.value),
        mode="lines+markers",
        marker={"color": BLUE, "size": 9},
        line={"color": BLUE, "width": 2},
        error_y={"type": "data", "array": above, "arrayminus": below, "thickness": 1.5},
        name="exact (simulation only)",
    )
    better = "Higher" if measure.higher_is_better else "Lower"
    return [("Blocks dropped", _BLOCKS.format(better=better), figure)]
