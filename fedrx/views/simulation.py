"""What a person sees: progress on standard error, a short table at the end."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedrx.views.run import headline
from fedrx.views.terminal import PlainConsole
from fedrx_client.clinic.patient_file import EXAMPLE_PATIENT
from fedrx_common.errors import counted
from fedrx_models.metrics.registry import measures_of
from fedrx_server.report.promise import in_a_sentence
from fedrx_server.report.text import seen_in_words
from fedrx_simulation.evaluation.result import SimulationResult
from fedrx_simulation.simulate import Observer
from fedrx_simulation.simulate import Progress as Step

_ROWS = {
    "pooled": "Pooled, no privacy",
    "federated": "Federated",
    "published": "Published equation (IWPC 2009)",
}

_DRUGS_SHOWN = 5
_LARGE = 100  # held-out patients from which a site's coverage says something
_FILE_WIDTH = 120  # columns


@contextmanager
def progress(*, quiet: bool) -> Iterator[Observer]:
    """Show a study's rounds live on standard error; `quiet` shows nothing.

    Where standard error is not a terminal, every evaluation is a line of its own.
    """
    console = PlainConsole(err=True)
    if quiet:
        yield lambda _: None
    elif not console.is_terminal:
        yield lambda step: _line(console, step)
    else:
        with _live(console) as observer:
            yield observer


def _line(console: PlainConsole, step: Step) -> None:
    record = step.record
    if record is None:
        console.print(step.stage)
    elif record.metrics:
        console.print(
            f"round {record.round}/{step.rounds}, {record.survivors} sites: "
            f"{_shown(record.metrics, step.tells)}",
        )


@contextmanager
def _live(console: PlainConsole) -> Iterator[Observer]:
    columns = (
        SpinnerColumn("line"),  # which every encoding has
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[done]}", markup=False),
        TextColumn("{task.fields[metric]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("preparing", total=None, metric="", done="")

        def observe(step: Step) -> None:
            bar.update(task, description=step.stage, total=step.rounds)
            record = step.record
            if record is None:
                return
            done = f"{record.round}/{step.rounds} rounds"
            bar.update(task, completed=record.round, done=done)
            if record.metrics:
                bar.update(task, metric=_shown(record.metrics, step.tells))
            if record.dropped:
                text = f"{record.survivors}/{record.participants} sites"
                bar.update(task, description=f"{step.stage}, {text}")

        try:
            yield observe
        except BaseException:
            # What went wrong is one sentence; half a bar above it says nothing.
            bar.update(task, visible=False)
            raise


def _shown(metrics: Mapping[str, float], tells: float) -> str:
    """A round's headline, in a few words."""
    told = headline(metrics, tells=tells)
    return f"reported {told}" if told else "noise left nothing to report"


def print_result(result: SimulationResult) -> None:
    """The table, the privacy spent, the bytes, and where the report is."""
    out = PlainConsole()
    if not out.is_terminal:  # a file has no edge at which a cell would have to be folded
        out.width = max(out.width, _FILE_WIDTH)
    measures = measures_of(result.study.target)
    table = Table(title=f"{result.study.title or result.study.name}: {result.sites} sites")
    table.add_column("Model")
    for measure in measures:
        table.add_column(measure.heading, justify="right", no_wrap=measure is measures[0])
    for row in result.report.rows:
        cells = [_ROWS.get(row.key, row.label)]
        for measure in measures:
            figure, digits = row.figure(measure), measure.digits
            cell = "–" if figure.value is None else f"{figure.value:.{digits}f}"
            if figure.value is not None and figure.confidence is not None:
                low, high = figure.confidence
                cell += f" ({low:.{digits}f}–{high:.{digits}f})"
            cells.append(cell)
        table.add_row(*cells, style="bold" if row.key == "federated" else None)
    if result.quality is not None:
        out.print(result.quality.text(), markup=False)
    for note in result.notes:
        out.print(note, markup=False)
    out.print(table)
    _print_intervals(out, result)
    seen = ""
    if result.reported:
        figure = measures[0].figure(result.reported)
        seen = " " + seen_in_words("A coordinator would have seen", measures[0], figure)
    out.print(
        f"Exact, on {result.metrics['federated'].n:.0f} held-out patients, because a simulation "
        f"owns them; intervals (95 %) are for the choice of patients.{seen}"
    )
    out.print(in_a_sentence(result.privacy))
    out.print(
        f"Sent: {_size(result.bytes_up)} up, {_size(result.bytes_down)} down, in "
        f"{len(result.rounds)} rounds and {result.seconds:.1f} s."
    )
    out.print(f"Report: {result.folder / 'report.html'}")
    patient = result.folder / EXAMPLE_PATIENT
    if patient.is_file():
        out.print(f"Ask the model: fedrx predict {result.folder} --patient {patient}")


def _print_intervals(out: PlainConsole, result: SimulationResult) -> None:
    """Show what the intervals hold: of all patients, and the range over the larger sites."""
    found = result.report.intervals
    if found is None:
        return
    out.print(found.in_words, markup=False)
    rows = {site: one for site, one in result.coverage.items() if site}
    large = [one for one in rows.values() if one.patients >= _LARGE]
    table = Table(title="Outcomes inside the intervals, exact")
    for name in ("Patients", "Model's own", "Calibrated"):
        table.add_column(name, justify="left" if name == "Patients" else "right")
    if (all_ := result.coverage.get("")) is not None:
        table.add_row(
            f"all {all_.patients:,}", f"{100 * all_.plain:.1f} %", f"{100 * all_.calibrated:.1f} %"
        )
    if large:
        parts = [[one.plain for one in large], [one.calibrated for one in large]]
        ends = [f"{100 * min(part):.1f} to {100 * max(part):.1f} %" for part in parts]
        table.add_row(f"{len(large)} sites of {_LARGE} or more", *ends)
    out.print(table)


def print_cost(path: Path, cost: Mapping[str, Any]) -> None:
    """What a study will cost, for a person."""
    out = PlainConsole()
    privacy = cost["privacy"]
    out.print(f"{path}: fine. Study '{cost['study']}', digest {cost['digest']}.")
    frozen = cost["weights"] - cost["trained_weights"]
    kept = f" ({frozen:,} of them frozen)" if frozen else ""
    out.print(
        f"{cost['model']} with {cost['weights']:,} weights{kept}, {cost['rounds']} rounds, metrics "
        f"after rounds {', '.join(map(str, cost['evaluation_rounds']))}."
    )
    out.print(
        f"{cost['sites']} sites: a sum is opened over at least {cost['threshold']}; up to "
        f"{cost['max_colluding_sites']} may side with the coordinator."
    )
    unseen = cost["targets_in_no_block"]  # of a large panel only the first few are shown
    for drug, genes in list(unseen.items())[:_DRUGS_SHOWN]:
        out.print(f"Drug '{drug}' targets {', '.join(genes)}, which no block measures.")
    if len(unseen) > _DRUGS_SHOWN:
        more = counted(len(unseen) - _DRUGS_SHOWN, "more drug")
        out.print(f"The same holds for {more}; --json lists them all.")
    if privacy["epsilon"] is None:
        out.print("No differential privacy: secure aggregation alone protects each site's sum.")
    else:
        noise = privacy["noise_multiplier"]
        twice = math.ceil(100 * privacy["epsilon_at_two_sites"]) / 100
        out.print(
            f"ε = {privacy['epsilon']:g} at δ = {privacy['delta']:g} ({privacy['mode']})"
            + (f", noise multiplier {noise:.2f} a round." if noise else ".")
            + f" For a patient at two of the sites it is ε = {twice:.2f}."
        )
    if cost["stable_lists_live"]:
        out.print("Live, every sum has one list of sites: a run waits for each site that is away.")
    out.print(
        f"Each site sends about {_size(cost['bytes_up_per_site_and_round'])} and gets "
        f"{_size(cost['bytes_down_per_site_and_round'])} a round, keys and shares aside."
    )
    for warning in cost["warnings"]:
        out.print(f"Warning: {warning}")


def _size(count: int) -> str:
    value, units = float(count), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f} {units[0]}" if units[0] != "B" else f"{count} B"
