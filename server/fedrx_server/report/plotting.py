"""What all plots of a report share: colours, an empty figure, and labels that are safe to show.

Colours are the Okabe-Ito set, which colour-blind readers can tell apart, with a blue that shows
on light and on dark; shape or dash always says the same again.
"""

from typing import Any

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, GREY, PURPLE = "#2185C9", "#D55E00", "#009E73", "#8A8F98", "#CC79A7"
AMBER = "#E69F00"
AXIS = {"gridcolor": "rgba(128,128,128,0.22)", "zeroline": False, "automargin": True}
_FONT = {"family": "system-ui, sans-serif", "size": 12}

NamedFigure = tuple[str, str, go.Figure]
"""Title, caption, figure."""


def styled(figure: go.Figure, **layout: Any) -> go.Figure:  # noqa: ANN401 - plotly's own
    """A figure with transparent ground, so that the page's theme shows; it is changed in place."""
    figure.update_layout(
        template="none",
        height=330,
        margin={"l": 58, "r": 14, "t": 12, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font=_FONT,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
        showlegend=True,
        hoverlabel={"font": {"family": "system-ui, sans-serif"}},
    )
    figure.update_layout(**layout)
    figure.update_xaxes(**AXIS)
    figure.update_yaxes(**AXIS)
    return figure


def blank_figure(x: str, y: str) -> go.Figure:
    """A figure of one plot; the names of its axes must be escaped already."""
    figure = styled(go.Figure())
    figure.update_xaxes(title=axis_title(x))
    figure.update_yaxes(title=axis_title(y))
    return figure


def axis_title(text: str) -> dict[str, Any]:
    """An axis's name, already escaped."""
    return {"text": text, "standoff": 8, "font": {"size": 13}}
