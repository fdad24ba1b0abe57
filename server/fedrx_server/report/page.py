"""A report's page: the words and numbers that its template shows."""

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from fedrx_protocol.privacy.figures import HIDDEN, Figure
from fedrx_server.report import promise, text
from fedrx_server.report.data import Held, Intervals, ReportData, ResultRow
from fedrx_server.report.figures import all_figures, block_figures, dropouts_by_round
from fedrx_server.report.forecast_figures import course_figures, summary_figures
from fedrx_server.report.plotting import NamedFigure
from fedrx_server.report.rendering import drawn, rendered

# Metrics that are large at the top, with a longer name where there is room for it.
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
_INTERVAL_NOTE = (
    "By site it is exact, because a simulation owns its patients. One width covers all patients "
    "together, not those of each site alone; the smaller the site, the more chance decides."
)
_DROPOUTS = "Secure aggregation opens a sum only where enough sites are left."


def page(data: ReportData) -> str:
    """Write the whole document."""
    plots, drops = _plots(_grid_figures(data)), _plots(())
    forecast, privacy, cost = data.forecast, data.privacy, data.cost
    cost_facts: list[tuple[str, str]] = []
    if cost is not None:
        per_round = (cost.bytes_up + cost.bytes_down) / max(1, cost.rounds * cost.sites)
        cost_facts = [
            ("Sent by all sites", text.size(cost.bytes_up)),
            ("Sent by the coordinator", text.size(cost.bytes_down)),
            ("Per site and round", text.size(round(per_round))),
            ("Rounds", f"{cost.rounds:,}"),
            ("Time", text.duration(cost.seconds)),
        ]
        if any(cost.dropped_by_round):
            figure = dropouts_by_round(cost.dropped_by_round)
            drops = _plots([("Sites that fell out", _DROPOUTS, figure)])
    return rendered(
        "report.html",
        with_plots=bool(plots or drops),
        data=data,
        title=data.title,
        disclaimer=text.DISCLAIMER,
        outcome=text.outcome(data),
        tiles=_tiles(data),
        table=_table(data),
        results_note=_results_note(data),
        interval_tables=_interval_tables(data.intervals),
        interval_note=_INTERVAL_NOTE if data.intervals and data.intervals.exact else "",
        plots=plots,
        courses=_plots(course_figures(forecast)),
        courses_in_words=text.courses_in_words(invented=forecast.invented) if forecast else "",
        promise=promise.in_paragraphs(privacy) if privacy else (),
        collusion=[(n, text.number(epsilon)) for n, epsilon in privacy.collusion]
        if privacy
        else (),
        cost_facts=cost_facts,
        dropouts=text.dropouts_in_words(cost) if cost and cost.dropped_by_round else "",
        drops=drops,
        details=[
            ("Study", data.study),
            ("Study digest", data.study_digest),
            ("Run", data.run),
            ("Finished", data.finished),
            *data.details,
        ],
    )


def report_figures(data: ReportData) -> list[NamedFigure]:
    """List every plot of the page but the last, in order."""
    return [*_grid_figures(data), *course_figures(data.forecast)]


def _grid_figures(data: ReportData) -> list[NamedFigure]:
    """List the plots that are side by side."""
    blocks = block_figures(data.blocks, data.headline)
    return [*all_figures(data), *blocks, *summary_figures(data.forecast)]


def _plots(figures: Iterable[NamedFigure]) -> list[tuple[str, str, Markup]]:
    """Give title, caption and HTML of each figure."""
    options = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    return [(title, caption, drawn(figure, options)) for title, caption, figure in figures]


def _tiles(data: ReportData) -> list[tuple[str, str, str, str]]:
    """Give name, value, unit and note of each large number at the top."""
    tiles = []
    row = data.row("federated") or data.reported
    for measure in data.measures if row is not None else ():
        figure = row.figure(measure) if row is not None else Figure(None)
        name, value = _TILES.get(measure.key, "") or measure.name, figure.shown
        if figure.hidden:
            tiles.append((name, "–", "", HIDDEN))
        elif value is not None and measure.key in _TILES:
            shown = text.number(value) if measure.key == "mae" else f"{value:.{measure.digits}f}"
            below = figure.interval_words(measure.digits) or "federated model"
            tiles.append((name, shown, measure.unit, below))
    privacy, cost = data.privacy, data.cost
    if privacy is not None and not privacy.bounded:
        tiles.append(("Privacy spent", "no bound", "", "no noise was added"))
    elif privacy is not None:
        promised = privacy.promised_epsilon
        below = "whole study" if promised is None else f"promised ε ≤ {text.number(promised)}"
        tiles.append(("Privacy spent", f"ε {text.number(privacy.epsilon)}", "", below))
    if cost is not None:
        below = f"{cost.rounds:,} rounds in {text.duration(cost.seconds)}"
        tiles.append(("Sites", f"{cost.sites:,}", "", below))
    return tiles


def _table(data: ReportData) -> list[tuple[ResultRow, str, list[tuple[str, str]]]]:
    """Give each row, the width of its bar in percent, and (value, interval) of every measure."""
    headlines = [row.value(data.headline) for row in data.rows]
    finite = [v if v is not None and math.isfinite(v) else None for v in headlines]
    longest = max([v for v in finite if v is not None], default=1.0)
    lines = []
    for row, headline in zip(data.rows, finite, strict=True):
        width = 100 * max(headline or 0.0, 0.0) / longest if longest > 0 else 0.0
        cells = []
        for measure in data.measures:
            figure = row.figure(measure)
            if figure.shown is None:
                cells.append((HIDDEN if figure.hidden else "–", ""))
            else:
                interval = figure.interval_words(measure.digits)
                cells.append((f"{figure.shown:.{measure.digits}f}", interval))
        lines.append((row, f"{width:.1f}", cells))
    return lines


def _interval_tables(
    found: Intervals | None,
) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Give heading and lines of the exact coverage by site, if it is known, and of the released."""

    def percent(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:.1f}"

    def lines(rows: Sequence[Held]) -> list[tuple[str, list[str]]]:
        counts = [[] if row.patients is None else [f"{row.patients:,}"] for row in rows]
        return [
            (row.name, [*count, percent(row.plain), percent(row.calibrated)])
            for row, count in zip(rows, counts, strict=True)
        ]

    if found is None:
        return []
    exact = [("Site, exact", lines(found.exact))] if found.exact else []
    return [*exact, ("Outcome, as reported", lines(found.released))]


def _results_note(data: ReportData) -> str:
    """Say what the table rests on, and what the coordinator saw instead."""
    notes = []
    if data.simulation and data.rows:
        notes.append(
            "The table is exact, because a simulation owns its patients; intervals say how far "
            "other patients might have moved it."
        )
    if (row := data.reported) is not None:
        rest = []
        if "r2" in row.values:
            rest.append(f"R² {row.values['r2']:.2f}")
        if "within_20_percent" in row.values:
            rest.append(f"{row.values['within_20_percent']:.1f} % within 20 %")
        saw = f"The coordinator {'would have seen' if data.simulation else 'saw'}"
        figure, more = row.figure(data.headline), f" ({', '.join(rest)})" if rest else ""
        notes.append(text.seen_in_words(saw, data.headline, figure, more))
    return " ".join(notes)
