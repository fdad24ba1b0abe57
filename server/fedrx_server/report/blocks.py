"""A report's plot of what a model is worth to patients who lack omics blocks."""

import plotly.graph_objects as go

from fedrx_common.text import escaped_html
from fedrx_models.metrics.registry import Measure
from fedrx_server.report.data import BlockCurve
from fedrx_server.report.plotting import BLUE, NamedFigure, blank_figure

_CAPTION = (
    "{better} is better. Each block of each held-out patient is dropped with the chance given, on "
    "top of what is missing anyway; bars are 95 % intervals over draws of blocks and patients."
)


def block_figures(curve: BlockCurve | None, measure: Measure) -> list[NamedFigure]:
    """The headline as blocks are dropped, where that is known."""
    if curve is None:
        return []
    better = "Higher" if measure.higher_is_better else "Lower"
    return [("Blocks dropped", _CAPTION.format(better=better), _drawn(curve, measure))]


def _drawn(curve: BlockCurve, measure: Measure) -> go.Figure:
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
    return figure
