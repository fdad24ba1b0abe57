"""A comparison as one HTML file: table and plot for each scheme, no request to anywhere."""

from pathlib import Path

import plotly.graph_objects as go

from fedrx_common.errors import counted
from fedrx_common.text import escaped_html
from fedrx_protocol.study.study import Study
from fedrx_server.report.rendering import drawn, rendered
from fedrx_simulation.comparison.statistics import ComparedModel, ComparisonTable

_CHANCE = 0.05  # p from which a difference may well be none
_TITLES = {"folds": "Patients left out, fold by fold", "sites": "Each site left out once"}


def write_page(
    path: Path, study: Study, tables: tuple[ComparisonTable, ...], trainings: int
) -> Path:
    """Write the page and return its path."""
    path.write_text(page(study, tables, trainings), encoding="utf-8")
    return path


def page(study: Study, tables: tuple[ComparisonTable, ...], trainings: int) -> str:
    """Write the whole document."""
    sections = []
    for table in tables:
        lines = [
            (
                one.model,
                [
                    *(shown(one.means.get(m.key), m.digits) for m in table.measures),
                    interval_in_words(one, table),
                    in_words(one, table),
                ],
            )
            for one in table.models
        ]
        plot = drawn(_figure(table), {"displayModeBar": False})
        sections.append((table, _TITLES[table.scheme], lines, _single(table), plot))
    return rendered(
        "comparison.html",
        "fedrx.views",
        with_plots=True,
        title=study.title or study.name,
        privacy=privacy_in_words(study, trainings),
        sections=sections,
    )


def privacy_in_words(study: Study, trainings: int) -> str:
    """Say what each training promises, and what all of them together cost at most."""
    if study.privacy.mode == "none":
        return "Every model was trained without noise."
    epsilon, delta = study.privacy.epsilon, study.privacy.delta
    return (
        f"Every model was trained with ε = {epsilon:g} ({study.privacy.mode}). That is for one "
        f"training. These are {counted(trainings, 'training')} on the same patients, and together "
        f"they cost more: at most ε = {trainings * epsilon:g} at δ = {trainings * delta:g}."
    )


def _single(table: ComparisonTable) -> list[tuple[str, list[str]]]:
    """Give each forecast thing's error relative to the last value, by model; none for a lone one.

    A mean with its 95 % interval, e.g. "0.93 (0.90–0.97)".
    """
    names = list(table.models[0].single)
    lines = []
    for name in names if len(names) > 1 else ():
        cells = []
        for one in table.models:
            mean, ends = one.single.get(name, (None, None))
            interval = "" if ends is None else f" ({ends[0]:.2f}–{ends[1]:.2f})"
            cells.append(shown(mean, 2) + interval)
        lines.append((name, cells))
    return lines


def shown(value: float | None, digits: int) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval_in_words(one: ComparedModel, table: ComparisonTable) -> str:
    """The 95 % interval of the headline's mean, e.g. "8.31–8.52"."""
    if one.interval is None:
        return "–"
    return "–".join(shown(end, table.headline.digits) for end in one.interval)


def in_words(one: ComparedModel, table: ComparisonTable) -> str:
    """The paired comparison of one model with the first, e.g. "better, p = 0.002".

    What chance alone brings about once in twenty times is called neither better nor worse.
    """
    if one is table.models[0] or not one.pairs:
        return "–"
    if not one.difference:
        return "no difference"
    word = "better" if one.difference < 0 else "worse"
    if one.p is None:
        chance = "too few to test"
    else:
        word = "no clear difference" if one.p >= _CHANCE else word
        chance = "p < 0.001" if one.p < 0.001 else f"p = {one.p:.3f}"
    return f"{word}, {chance} ({one.pairs:,} {table.unit})"


def _figure(table: ComparisonTable) -> go.Figure:
    """One dot a model, with the interval of its mean."""
    key = table.headline.key
    models = [one for one in table.models if key in one.means]
    means = [one.means[key] for one in models]
    spans = [(mean, one.interval or (mean, mean)) for mean, one in zip(means, models, strict=True)]
    figure = go.Figure()
    figure.add_scatter(
        x=means,
        y=[escaped_html(one.model) for one in models],
        mode="markers",
        marker={"size": 11, "color": "#2185C9"},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - mean for mean, (_, high) in spans],
            "arrayminus": [mean - low for mean, (low, _) in spans],
            "color": "#2185C9",
        },
    )
    figure.update_layout(
        template="none",
        height=120 + 40 * len(models),
        margin={"l": 160, "r": 20, "t": 10, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis_title=escaped_html(table.headline.name),
        yaxis_autorange="reversed",
    )
    return figure
