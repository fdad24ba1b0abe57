"""A report's HTML: one file, no request to anywhere, every text from outside escaped."""

import math
from collections.abc import Iterable, Sequence
from importlib import resources

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from fedrx_common.text import escaped_html
from fedrx_models.metrics.registry import Measure
from fedrx_protocol.privacy.figures import HIDDEN, Figure
from fedrx_server.report import text
from fedrx_server.report.data import PrivacyStatement, ReportData, ResultRow, RunCost
from fedrx_server.report.figures import all_figures, block_figures, dropouts_by_round
from fedrx_server.report.forecast_figures import course_figures, summary_figures
from fedrx_server.report.plotting import NamedFigure

# The browser itself refuses whatever would leave this page, should anything ever try.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
_PLOT_OPTIONS = {"displaylogo": False, "responsive": True, "displayModeBar": False}

# Metrics that stand large at the top, with a longer name where there is room for it.
_TILES = {
    "mae": "",
    "within_20_percent": "Within 20 % of the dose",
    "auc": "",
    "average_precision": "",
    "concordance": "",
    "correlation": "",
    "ratio": "",
    "coverage": "",
}

# A plot follows the width of its place; a printed page is narrower than any screen.
_FIT_SCRIPT = """
(function () {
  var printing = false;
  var figures = document.querySelectorAll('figure');
  function plot(figure) { return figure.querySelector('.js-plotly-plot'); }
  var fit = new ResizeObserver(function (changes) {
    if (printing) { return; }
    changes.forEach(function (change) { Plotly.Plots.resize(plot(change.target)); });
  });
  figures.forEach(function (figure) { fit.observe(figure); });
  window.addEventListener('beforeprint', function () {
    printing = true;
    figures.forEach(function (figure) {
      var width = figure.closest('.pairs') ? 295 : 630;
      figure.dataset.height = plot(figure).layout.height;
      var height = figure.dataset.height - 40;
      Plotly.relayout(plot(figure), {width: width, height: height, autosize: false});
    });
  });
  window.addEventListener('afterprint', function () {
    printing = false;
    figures.forEach(function (figure) {
      var height = Number(figure.dataset.height);
      Plotly.relayout(plot(figure), {width: null, height: height, autosize: true});
    });
  });
})();
"""


def page(data: ReportData) -> str:
    """The whole document."""
    figures = [_plot(*plot) for plot in _grid_figures(data)]
    drops = _dropouts(data.cost)
    body = "\n".join(
        part
        for part in (
            _header(data),
            _tiles(data),
            _results(data),
            _grid(figures),
            _courses(data),
            _privacy(data.privacy) if data.privacy else "",
            _cost(data.cost, drops) if data.cost else "",
            _consortium(data.consortium),
            _details(data),
        )
        if part
    )
    style = resources.files("fedrx_server.report").joinpath("report.css").read_text("utf-8")
    script = f"<script>{get_plotlyjs()}</script>" if figures or drops else ""
    fit = f"<script>{_FIT_SCRIPT}</script>" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped_html(data.title)} – FedRx report</title>\n"
        f"<style>{style}</style>\n{script}\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n{fit}\n"
        "</body>\n</html>\n"
    )


def report_figures(data: ReportData) -> list[NamedFigure]:
    """Every plot of the page but the last, in order."""
    return [*_grid_figures(data), *course_figures(data.forecast)]


def _grid_figures(data: ReportData) -> list[NamedFigure]:
    """Those that stand side by side."""
    blocks = block_figures(data.blocks, data.headline)
    return [*all_figures(data), *blocks, *summary_figures(data.forecast)]


def _header(data: ReportData) -> str:
    badges = []
    if data.simulation:
        badges.append('<li class="warn">simulation on one machine</li>')
    if data.privacy:
        kind = ' class="warn"' if data.privacy.mode == "none" else ""
        badges.append(f"<li{kind}>privacy mode: {escaped_html(data.privacy.mode)}</li>")
    return (
        f'<header><p class="eyebrow">FedRx report · {escaped_html(data.finished)}</p>'
        f"<h1>{escaped_html(data.title)}</h1>"
        + (f"<p>{escaped_html(data.description)}</p>" if data.description else "")
        + (f'<ul class="badges">{"".join(badges)}</ul>' if badges else "")
        + f'<p class="note">{escaped_html(text.DISCLAIMER)}</p>'
        + f'</header>\n<div class="outcome"><p>{escaped_html(text.outcome(data))}</p></div>'
    )


def _tiles(data: ReportData) -> str:
    tiles = [*_accuracy_tiles(data), *_privacy_tile(data.privacy), *_cost_tiles(data.cost)]
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""


def _accuracy_tiles(data: ReportData) -> list[str]:
    row = data.row("federated") or data.reported
    tiles = []
    for measure in data.measures if row is not None else ():
        figure = row.figure(measure) if row is not None else Figure(None)
        name, value = _TILES.get(measure.key, "") or measure.name, figure.shown
        if figure.hidden:
            tiles.append(_tile(name, "–", "", HIDDEN))
        elif value is not None and measure.key in _TILES:
            shown = text.number(value) if measure.key == "mae" else f"{value:.{measure.digits}f}"
            below = figure.interval_words(measure.digits) or "federated model"
            tiles.append(_tile(name, shown, measure.unit, below))
    return tiles


def _privacy_tile(privacy: PrivacyStatement | None) -> list[str]:
    if privacy is None:
        return []
    if not privacy.bounded:
        return [_tile("Privacy spent", "no bound", "", "no noise was added")]
    promised = privacy.promised_epsilon
    below = f"promised ε ≤ {text.number(promised)}" if promised is not None else "whole study"
    return [_tile("Privacy spent", f"ε {text.number(privacy.epsilon)}", "", below)]


def _cost_tiles(cost: RunCost | None) -> list[str]:
    if cost is None:
        return []
    below = f"{cost.rounds:,} rounds in {text.duration(cost.seconds)}"
    return [_tile("Sites", f"{cost.sites:,}", "", below)]


def _tile(name: str, value: str, unit: str, below: str) -> str:
    small = f" <small>{escaped_html(unit)}</small>" if unit else ""
    return (
        f'<div class="tile"><dt>{escaped_html(name)}</dt>'
        f"<dd>{escaped_html(value)}{small}<span>{escaped_html(below)}</span></dd></div>"
    )


def _results(data: ReportData) -> str:
    if not data.rows and data.reported is None:
        return ""
    values = [row.value(data.headline) for row in data.rows]
    longest = max([v for v in values if v is not None and math.isfinite(v)], default=1.0)
    lines = "".join(_result_row(row, data.measures, longest) for row in data.rows)
    first, *more = (_column(measure) for measure in data.measures)
    table = (
        '<div class="scroll"><table><thead><tr><th scope="col">Model</th>'
        f'{first}<th class="bar" aria-hidden="true"></th>{"".join(more)}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )
    notes = escaped_html(_results_note(data))
    return (
        '<section aria-labelledby="results"><h2 id="results">Results on held-out patients</h2>'
        f'{table if data.rows else ""}<p class="note">{notes}</p></section>'
    )


def _column(measure: Measure) -> str:
    unit = f"<br>({escaped_html(measure.unit)})" if measure.unit else ""
    return f'<th scope="col">{escaped_html(measure.name)}{unit}</th>'


def _results_note(data: ReportData) -> str:
    notes = []
    if data.simulation and data.rows:
        notes.append(
            "The table is exact, because a simulation owns its patients; intervals say how far "
            "other patients might have moved it."
        )
    if data.reported is not None:
        notes.append(_reported_note(data, data.reported))
    return " ".join(notes)


def _reported_note(data: ReportData, row: ResultRow) -> str:
    measure, value = data.headline, row.value(data.headline)
    would = "would have seen" if data.simulation else "saw"
    name, figure = text.in_sentence(measure.name), row.figure(measure)
    if figure.hidden:
        return f"The coordinator {would} a {name} that is {HIDDEN}: {text.WHAT_HELPS}."
    if value is None:
        return f"The coordinator {would} no {name}: the noise left nothing to compute."
    seen = figure.words(measure.digits, measure.unit)
    return f"The coordinator {would} a {name} of {seen}{_reported_rest(row)}."


def _reported_rest(row: ResultRow) -> str:
    parts = []
    if "r2" in row.values:
        parts.append(f"R² {row.values['r2']:.2f}")
    if "within_20_percent" in row.values:
        parts.append(f"{row.values['within_20_percent']:.1f} % within 20 %")
    return f" ({', '.join(parts)})" if parts else ""


def _result_row(row: ResultRow, measures: Sequence[Measure], longest: float) -> str:
    main = ' class="main"' if row.key == "federated" else ""
    detail = f"<span>{escaped_html(row.detail)}</span>" if row.detail else ""
    value = row.value(measures[0])
    drawn = value is not None and math.isfinite(value) and longest > 0
    width = 100 * max(value or 0.0, 0.0) / longest if drawn else 0
    first, *more = (_cell(row.figure(measure), measure) for measure in measures)
    return (
        f'<tr{main}><th scope="row">{escaped_html(row.label)}{detail}</th>{first}'
        f'<td class="bar" aria-hidden="true"><div style="width:{width:.1f}%"></div></td>'
        f"{''.join(more)}</tr>"
    )


def _cell(figure: Figure, measure: Measure) -> str:
    if figure.shown is None:
        return f"<td>{escaped_html(HIDDEN) if figure.hidden else '–'}</td>"
    interval = figure.interval_words(measure.digits)
    small = f"<span>{escaped_html(interval)}</span>" if interval else ""
    return f"<td>{figure.shown:.{measure.digits}f}{small}</td>"


def _plot(title: str, caption: str, figure: go.Figure, *, wide: bool = False) -> str:
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, config=_PLOT_OPTIONS)
    if wide:  # too much for a phone's width
        drawn = f'<div class="scroll"><div class="wide">{drawn}</div></div>'
    return (
        f'<figure role="group" aria-label="{escaped_html(title)}: {escaped_html(caption)}">'
        f"<h3>{escaped_html(title)}</h3>{drawn}<figcaption>{escaped_html(caption)}</figcaption></figure>"
    )


def _grid(figures: Sequence[str]) -> str:
    pairs = " pairs" if len(figures) > 1 else ""
    return f'<div class="plots{pairs}">{"".join(figures)}</div>' if figures else ""


def _courses(data: ReportData) -> str:
    """A few patients' courses, each as wide as the page; what they are, and who may see them."""
    figures = course_figures(data.forecast)
    if data.forecast is None or not figures:
        return ""
    words = escaped_html(text.courses_in_words(invented=data.forecast.invented))
    section = (
        '<section aria-labelledby="courses"><h2 id="courses">Forecasts of single patients</h2>'
        f"<p>{words}</p></section>"
    )
    return section + "".join(_grid([_plot(*figure, wide=True)]) for figure in figures)


def _privacy(privacy: PrivacyStatement) -> str:
    words = "".join(f"<p>{escaped_html(line)}</p>" for line in text.privacy_in_words(privacy))
    return (
        '<section aria-labelledby="privacy"><h2 id="privacy">What is promised to a patient</h2>'
        f"{words}{_collusion(privacy.collusion)}</section>"
    )


def _collusion(rows: Sequence[tuple[int, float]]) -> str:
    if not rows:
        return ""
    lines = "".join(
        f'<tr><th scope="row">{count}</th><td>{escaped_html(text.number(epsilon))}</td></tr>'
        for count, epsilon in rows
    )
    return (
        "<h3>If sites collude with the coordinator</h3>"
        '<p class="note">A colluding site knows its own share of the noise, so the noise of the '
        "others alone protects their patients.</p>"
        '<table class="narrow"><thead><tr><th scope="col">Colluding sites</th>'
        f'<th scope="col">ε against them</th></tr></thead><tbody>{lines}</tbody></table>'
    )


def _dropouts(cost: RunCost | None) -> str:
    if cost is None or not any(cost.dropped_by_round):
        return ""
    caption = "Secure aggregation opens a sum only where enough sites are left."
    return _plot("Sites that fell out", caption, dropouts_by_round(cost.dropped_by_round))


def _cost(cost: RunCost, drops: str) -> str:
    per_round = (cost.bytes_up + cost.bytes_down) / max(1, cost.rounds * cost.sites)
    facts = [
        ("Sent by all sites", text.size(cost.bytes_up)),
        ("Sent by the coordinator", text.size(cost.bytes_down)),
        ("Per site and round", text.size(round(per_round))),
        ("Rounds", f"{cost.rounds:,}"),
        ("Time", text.duration(cost.seconds)),
    ]
    words = escaped_html(text.dropouts_in_words(cost)) if cost.dropped_by_round else ""
    section = (
        '<section aria-labelledby="cost"><h2 id="cost">What the run took</h2>'
        f"{_facts(facts)}" + (f'<p class="note">{words}</p>' if words else "") + "</section>"
    )
    return section + _grid([drops] if drops else [])


def _details(data: ReportData) -> str:
    facts = [
        ("Study", data.study),
        ("Study digest", data.study_digest),
        ("Run", data.run),
        ("Finished", data.finished),
        *data.details,
    ]
    return (
        f'<section aria-labelledby="details"><h2 id="details">Details</h2>{_facts(facts)}</section>'
    )


def _consortium(sites: Sequence[tuple[str, str]]) -> str:
    """Who took part, by the roster: each site's name and id."""
    if not sites:
        return ""
    return (
        '<section aria-labelledby="consortium"><h2 id="consortium">The consortium</h2>'
        f"{_facts([(site, name) for site, name in sites])}</section>"
    )


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    lines = "".join(
        f"<dt>{escaped_html(name)}</dt><dd>{escaped_html(value)}</dd>" for name, value in facts
    )
    return f'<dl class="facts">{lines}</dl>'
