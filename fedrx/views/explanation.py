"""Explanations as pictures, PNG or SVG: what lifts and what lowers one patient's prediction.

Drawn by matplotlib without a display, on a figure of its own: no global state, and the same
explanation gives the same bytes. Colours differ in lightness too, and every bar has its number, so
that a picture can be read without colours.
"""

import io
from collections.abc import Sequence
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedrx_models.explain.explanation import CohortExplanation, Explanation
from fedrx_models.explain.outcome import Outcome
from fedrx_models.explain.words import outcome_in_words, reason_in_words
from fedrx_protocol.study.schema import FeatureSchema

Picture = Literal["png", "svg"]

MOST_BARS = 10
_RAISES, _LOWERS, _REST = "#b2182b", "#2166ac", "#666666"
_LONGEST = 44  # characters of a label
_WIDTH, _BAR, _AROUND = 8.0, 0.36, 1.7  # inches
_DPI = 150
# Text stays text in SVG, which a screen reader can read; ids do not depend on chance.
_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "fedrx", "font.size": 10}


def draw_explanation(
    explanation: Explanation, schema: FeatureSchema, picture: Picture = "svg", most: int = MOST_BARS
) -> bytes:
    """Draw the way from the reference's prediction to the patient's, one bar for each reason.

    Args:
        explanation: of one patient.
        schema: the study's.
        picture: "png" or "svg".
        most: reasons drawn on their own; all others share one bar.

    Returns:
        The file's bytes.
    """
    drawn = explanation.main(most)
    rest = explanation.prediction - explanation.baseline - sum(one.effect for one in drawn)
    bars = [(reason_in_words(one, schema), one.effect) for one in drawn]
    if abs(rest) > 1e-9 * max(1.0, abs(explanation.prediction)):
        others = sum(bool(one.effect) for one in explanation.reasons) - len(drawn)
        bars.append((f"{others} other reasons" if others else "rounding", rest))
    with rc_context(_SETTINGS):
        figure, axes = _canvas(len(bars) + 2)
        at, unit = explanation.baseline, _factor(explanation.outcome)
        ends = [("study's reference", at), *bars, ("this patient", explanation.prediction)]
        for row, (_, effect) in enumerate(ends):
            if row in (0, len(ends) - 1):
                _bar(axes, row, (0.0, effect * unit), _REST, f"{effect * unit:.3g}")
            else:
                colour = _RAISES if effect > 0 else _LOWERS
                _bar(axes, row, (at * unit, effect * unit), colour, f"{effect * unit:+.3g}")
                at += effect
        _labels(axes, [name for name, _ in ends], explanation.outcome)
        axes.set_title(
            f"Why this prediction ({explanation.model}, {explanation.method})", loc="left"
        )
        return _saved(figure, picture)


def draw_cohort(
    explanation: CohortExplanation, picture: Picture = "svg", most: int = MOST_BARS
) -> bytes:
    """Draw the mean absolute effect of each reason over a cohort, largest first.

    Args:
        explanation: of the patients of a site.
        picture: "png" or "svg".
        most: reasons drawn.

    Returns:
        The file's bytes.
    """
    drawn, unit = explanation.reasons[:most], _factor(explanation.outcome)
    with rc_context(_SETTINGS):
        figure, axes = _canvas(max(len(drawn), 1))
        for row, one in enumerate(drawn):
            size = one.mean_absolute * unit
            _bar(axes, row, (0.0, size), _LOWERS, f"{size:.3g}")
        _labels(axes, [one.key for one in drawn], explanation.outcome)
        axes.set_title(f"Mean size of effects, {explanation.patients} patients", loc="left")
        return _saved(figure, picture)


def _canvas(bars: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, _AROUND + _BAR * bars), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bar(axes: Axes, row: int, span: tuple[float, float], colour: str, number: str) -> None:
    """A bar from a start, so long, with its number at the end."""
    start, length = span
    axes.barh(row, length, left=start, color=colour, height=0.7)
    end = start + length
    away = 4 if length >= 0 else -4
    axes.annotate(
        number,
        (end, row),
        xytext=(away, 0),
        textcoords="offset points",
        va="center",
        ha="left" if length >= 0 else "right",
    )


def _labels(axes: Axes, names: Sequence[str], outcome: Outcome) -> None:
    short = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names]
    # Names come from a study file: "$" must not begin a formula.
    axes.set_yticks(range(len(short)), [name.replace("$", r"\$") for name in short])
    axes.invert_yaxis()
    unit = "percentage points" if outcome.kind == "binary" else outcome.unit
    axes.set_xlabel(f"{outcome_in_words(outcome)}, {unit}".replace("$", r"\$"))
    axes.use_sticky_edges = False  # else a number stands outside the picture
    axes.margins(x=0.12)


def _factor(outcome: Outcome) -> float:
    return 100.0 if outcome.kind == "binary" else 1.0


def _saved(figure: Figure, picture: Picture) -> bytes:
    file = io.BytesIO()
    undated = {"Date": None} if picture == "svg" else {"Software": None}
    figure.savefig(file, format=picture, metadata=undated)
    return file.getvalue()
