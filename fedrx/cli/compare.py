"""`fedrx compare`: models side by side on the same patients."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrx.cli import options
from fedrx.views.terminal import PlainConsole

if TYPE_CHECKING:
    from fedrx.api import Source, Study
    from fedrx.comparison import Comparison
    from fedrx_simulation.comparison.compare import Cell, CellObserver

_FILE_WIDTH = 200  # columns


def register(app: typer.Typer) -> None:
    """Add the command to `fedrx`."""
    example = "fedrx compare study.toml --models linear,mlp,cnn.toml --folds 5"
    app.command(epilog=f"Example: {example}")(compare)


def compare(
    context: typer.Context,
    study: options.StudyFile = None,
    *,
    models: Annotated[
        str,
        typer.Option(
            help="Models, e.g. linear,mlp, or study files: linear,cnn.toml.",
            rich_help_panel="What is compared",
        ),
    ],
    folds: Annotated[
        int | None,
        typer.Option(help="Parts of each site's patients; 5.", rich_help_panel="What is compared"),
    ] = None,
    leave_one_site_out: Annotated[
        bool,
        typer.Option(
            "--leave-one-site-out",
            help="Leave out each site too.",
            rich_help_panel="What is compared",
        ),
    ] = False,
    repeats: Annotated[
        int, typer.Option(help="How many seeds.", rich_help_panel="What is compared")
    ] = 1,
    personalised: Annotated[
        bool,
        typer.Option(
            "--personalised",
            help="Judge a private head at each site too.",
            rich_help_panel="What is compared",
        ),
    ] = False,
    data: options.Data = None,
    mapping: options.Mapping = None,
    split_by: options.SplitBy = None,
    sites: options.Sites = None,
    patients: options.Patients = None,
    heterogeneity: options.Heterogeneity = 0.7,
    missingness: options.Missingness = 0.2,
    shift: options.Shift = 0.1,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Makes the whole comparison repeatable.",
            min=0,
            max=options.LARGEST_SEED,
            rich_help_panel=options.RUN,
        ),
    ] = None,
    epsilon: options.Epsilon = None,
    privacy: options.Privacy = None,
    rounds: options.Rounds = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder to make or to go on with; runs/STUDY-comparison if left out.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Train models on the same patients of all sites, and say which predicts better."""
    options.refuse_shapes_of_a_file(options.given(context))
    # Imported here so that `fedrx --help` does not wait for torch.
    from fedrx import api

    agreed, _, source = options.study_and_patients(
        study,
        data=data,
        mapping=mapping,
        split_by=split_by,
        sites=sites,
        patients=patients,
        heterogeneity=heterogeneity,
        missingness=missingness,
        shift=shift,
    )
    run_and_print(
        api.override(agreed, epsilon=epsilon, privacy=privacy, rounds=rounds),
        source,
        models=models,
        folds=folds,
        leave_one_site_out=leave_one_site_out,
        repeats=repeats,
        personalised=personalised,
        seed=seed,
        output=output,
        as_json=as_json,
    )


def run_and_print(
    study: "Study",
    source: "Source",
    *,
    models: str,
    folds: int | None,
    leave_one_site_out: bool,
    repeats: int,
    personalised: bool,
    seed: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compare what the options name, and print the outcome."""
    from fedrx import comparison

    request = comparison.Request(
        study=study,
        models=tuple(name.strip() for name in models.split(",") if name.strip()),
        source=source,
        folds=folds,
        leave_one_site_out=leave_one_site_out,
        repeats=repeats,
        personalised=personalised,
        seed=seed,
        output=output or Path("runs") / f"{study.name}-comparison",
    )
    if as_json:
        sys.stdout.write(json.dumps(comparison.run(request).to_json()) + "\n")
    else:
        print_comparison(comparison.run(request, observe(PlainConsole(err=True))))


def observe(console: PlainConsole) -> "CellObserver":
    """Print a line for each training."""

    def told(cell: "Cell", number: int, count: int) -> None:
        folds = cell.scheme == "folds"
        what = f"fold {int(cell.part) + 1}" if folds else f"without site {cell.part}"
        console.print(f"{number}/{count} {cell.model}, {what}, seed {cell.seed}")

    return told


def print_comparison(found: "Comparison") -> None:
    """Print a table for each scheme, and where the page is."""
    from rich.table import Table

    from fedrx.views.comparison import in_words, interval_in_words, privacy_in_words, shown

    out = PlainConsole()
    if not out.is_terminal:  # a file has no edge at which words would have to be cut
        out.width = max(out.width, _FILE_WIDTH)
    for table in found.tables:
        left_out = "folds of patients" if table.scheme == "folds" else "one site at a time"
        shown_table = Table(title=f"{found.study.title or found.study.name}: {left_out} left out")
        shown_table.add_column("Model", no_wrap=True)
        for measure in table.measures:
            shown_table.add_column(measure.heading, justify="right")
        shown_table.add_column(f"{table.headline.label}, 95 %", justify="right", no_wrap=True)
        shown_table.add_column(f"against {table.models[0].model}")
        for one in table.models:
            values = (shown(one.means.get(m.key), m.digits) for m in table.measures)
            against = in_words(one, table).partition(" (")[0]
            shown_table.add_row(one.model, *values, interval_in_words(one, table), against)
        out.print(shown_table)
    for note in found.notes:
        out.print(note, markup=False)
    out.print(privacy_in_words(found.study, found.trainings))
    out.print(f"Page: {found.folder / 'comparison.html'}")
