"""A comparison as one HTML file: table and plot for each scheme, no request to anywhere."""

from importlib import resources
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from fedrx_common.errors import counted
from fedrx_common.text import escaped_html
from fedrx_protocol.study.study import Study
from fedrx_simulation.comparison.statistics import ComparedModel, ComparisonTable

_CHANCE = 0.05  # p from which a difference may well be none
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
_TITLES = {"folds": "Patients left out, fold by fold", "sites": "Each site left out once"}


def write_page(
    path: Path, study: Study, tables: tuple[ComparisonTable, ...], trainings: int
) -> Path:
    """Write the page and return its path."""
    path.write_text(page(study, tables, trainings), encoding="utf-8")
    return path


def page(study: Study, tables: tuple[ComparisonTable, ...], trainings: int) -> str:
    """The whole document."""
    style = resources.files("fedrx_server.report").joinpath("report.css").read_text("utf-8")
    title = escaped_html(study.title or study.name)
    body = "\n".join(_section(table) for table in tables)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} – FedRx comparison</title>\n<style>{style}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<main>\n"
        f'<header><p class="eyebrow">FedRx comparison</p><h1>{title}</h1>'
        f"<p>{escaped_html(privacy_in_words(study, trainings))}</p></header>\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )


def privacy_in_words(study: Study, trainings: int) -> str:
    """What each training promises, and what all of them together cost at most."""
    if study.privacy.mode == "none":
        return "Every model was trained without noise."
    epsilon, delta = study.privacy.epsilon, study.privacy.delta
    return (
        f"Every model was trained with ε = {epsilon:g} ({study.privacy.mode}). That is for one "
        f"training. These are {counted(trainings, 'training')} on the same patients, and together "
        f"they cost more: at most ε = {trainings * epsilon:g} at δ = {trainings * delta:g}."
    )


def _section(table: ComparisonTable) -> str:
    heads = [f"<th>{escaped_html(measure.name)}</th>" for measure in table.measures]
    lines = [
        f"<tr><th scope='row'>{escaped_html(one.model)}</th>"
        + "".join(f"<td>{shown(one.means.get(m.key), m.digits)}</td>" for m in table.measures)
        + f"<td>{interval_in_words(one, table)}</td>"
        + f"<td>{escaped_html(in_words(one, table))}</td></tr>"
        for one in table.models
    ]
    drawn = _figure(table).to_html(
        full_html=False, include_plotlyjs=False, config={"displayModeBar": False}
    )
    return (
        f"<section><h2>{_TITLES[table.scheme]}</h2><div class='scroll'><table><thead><tr>"
        f"<th>Model</th>{''.join(heads)}<th>{escaped_html(table.headline.label)}, 95 %</th>"
        f"<th>Against {escaped_html(table.models[0].model)}</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>{_single(table)}"
        f"<figure>{drawn}<figcaption>Mean and 95 % interval.</figcaption></figure></section>"
    )


def _single(table: ComparisonTable) -> str:
    """Of a forecast of several things, each one's error relative to the last value."""
    names = list(table.models[0].single)
    if len(names) < 2:
        return ""
    heads = "".join(f"<th scope='col'>{escaped_html(one.model)}</th>" for one in table.models)
    lines = []
    for name in names:
        cells = "".join(f"<td>{_with_interval(one.single.get(name))}</td>" for one in table.models)
        lines.append(f"<tr><th scope='row'>{escaped_html(name)}</th>{cells}</tr>")
    return (
        "<h3>Error relative to the last value, marker by marker</h3><div class='scroll'><table>"
        f"<thead><tr><th>Marker and horizon</th>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _with_interval(found: tuple[float, tuple[float, float] | None] | None) -> str:
    """A mean with its 95 % interval, e.g. "0.93 (0.90–0.97)"."""
    if found is None:
        return "–"
    mean, ends = found
    return f"{mean:.2f}" + ("" if ends is None else f" ({ends[0]:.2f}–{ends[1]:.2f})")


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
    if one is table.models[0]:
        return "–"
    if not one.pairs:
        return "–"
    if not one.difference:
        return "no difference"
    word = "better" if one.difference < 0 else "worse"
    if one.p is not None and one.p >= _CHANCE:
        word = "no clear difference"
    return f"{word}, {_p_in_words(one.p)} ({one.pairs:,} {table.unit})"


def _p_in_words(p: float | None) -> str:
    if p is None:
        return "too few to test"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _figure(table: ComparisonTable) -> go.Figure:
    """One dot a model, with the interval of its mean."""
    key = table.headline.key
    drawn = [one for one in table.models if key in one.means]
    means = [one.means[key] for one in drawn]
    spans = [(mean, one.interval or (mean, mean)) for mean, one in zip(means, drawn, strict=True)]
    figure = go.Figure()
    figure.add_scatter(
        x=means,
        y=[escaped_html(one.model) for one in drawn],
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
        height=120 + 40 * len(drawn),
        margin={"l": 160, "r": 20, "t": 10, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis_title=escaped_html(table.headline.name),
        yaxis_autorange="reversed",
    )
    return figure
