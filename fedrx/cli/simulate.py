"""`fedrx simulate`: a whole federated study on this machine."""

import json
import sys
from collections.abc import Set
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedrx.cli import compare as compare_command
from fedrx.cli import options
from fedrx.views.terminal import say
from fedrx_common.errors import MisuseError

if TYPE_CHECKING:
    from fedrx.api import SimulationResult

# Repeated from fedrx_simulation.simulate, whose import would make `--help` wait for torch.
EngineName = Literal["inprocess", "flower"]

# Hidden options of one release more: what belongs to `--compare`, and what to a single run only.
_COMPARING = frozenset({"--folds", "--leave-one-site-out", "--repeats", "--personalised"})
_ONE_RUN = frozenset(
    {
        "--resume",
        "--model",
        "--engine",
        "--dropout",
        "--delay",
        "--no-baselines",
        "--start-from",
    }
)


def register(app: typer.Typer) -> None:
    """Add the command to `fedrx`."""
    example = "fedrx simulate --sites 50 --patients 40..400 --heterogeneity 0.7 --seed 3"
    app.command(epilog=f"Example: {example}")(simulate)


def simulate(
    context: typer.Context,
    study: options.StudyFile = None,
    *,
    data: options.Data = None,
    mapping: options.Mapping = None,
    split_by: options.SplitBy = None,
    sites: options.Sites = None,
    patients: options.Patients = None,
    heterogeneity: options.Heterogeneity = 0.7,
    missingness: options.Missingness = 0.2,
    shift: options.Shift = 0.1,
    dropout: Annotated[
        float,
        typer.Option(
            help="Chance that a site drops out of a round, at any stage.",
            rich_help_panel=options.RUN,
        ),
    ] = 0.0,
    delay: Annotated[
        float,
        typer.Option(
            help="Mean reply time in simulated seconds; late replies are lost.",
            rich_help_panel=options.RUN,
        ),
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Makes the whole simulation repeatable.",
            min=0,
            max=options.LARGEST_SEED,
            rich_help_panel=options.RUN,
        ),
    ] = None,
    epsilon: options.Epsilon = None,
    privacy: options.Privacy = None,
    model: Annotated[
        str | None, typer.Option(help="Overrides model.name.", rich_help_panel=options.STUDY)
    ] = None,
    rounds: options.Rounds = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="inprocess, or flower (Flower's simulation on Ray).", rich_help_panel=options.RUN
        ),
    ] = "inprocess",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Run folder to make; runs/STUDY-TIME if left out.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of a simulation that was cut off.", rich_help_panel=options.RUN
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            help=r"Model file of the study that \[transfer] names.", rich_help_panel=options.STUDY
        ),
    ] = None,
    no_baselines: Annotated[
        bool,
        typer.Option(
            "--no-baselines",
            help="Skip the pooled and site-alone models.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    compare: Annotated[str | None, typer.Option(hidden=True)] = None,
    folds: Annotated[int | None, typer.Option(hidden=True)] = None,
    leave_one_site_out: Annotated[bool, typer.Option("--leave-one-site-out", hidden=True)] = False,
    repeats: Annotated[int, typer.Option(hidden=True)] = 1,
    personalised: Annotated[bool, typer.Option("--personalised", hidden=True)] = False,
    as_json: options.AsJson = False,
) -> None:
    """Run a whole federated study on this machine and compare it with pooled data."""
    _refuse_ignored(options.given(context))
    # Imported here so that `fedrx --help` does not wait for torch.
    from fedrx import api
    from fedrx.views import simulation as simulation_view

    if resume is not None:
        with simulation_view.progress(quiet=as_json) as observer:
            result = api.resume(resume, study=study, observer=observer)
        _show(result, as_json=as_json)
        return
    agreed, text, source = options.study_and_patients(
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
    agreed = api.override(agreed, epsilon=epsilon, privacy=privacy, model=model, rounds=rounds)
    if compare is not None:
        say("fedrx: --compare is now a command of its own: use `fedrx compare --models`.", err=True)
        compare_command.run_and_print(
            agreed,
            source,
            models=compare,
            folds=folds,
            leave_one_site_out=leave_one_site_out,
            repeats=repeats,
            personalised=personalised,
            seed=seed,
            output=output,
            as_json=as_json,
        )
        return
    with simulation_view.progress(quiet=as_json) as observer:
        result = api.simulate(
            agreed,
            source=source,
            seed=seed,
            engine=engine,
            dropout=dropout,
            delay_s=delay,
            baselines=not no_baselines,
            output=output or api.new_run_folder(agreed, datetime.now(UTC)),
            study_text=text,
            start_from=start_from,
            observer=observer,
        )
    _show(result, as_json=as_json)


def _show(result: "SimulationResult", *, as_json: bool) -> None:
    from fedrx.views import simulation as simulation_view

    if as_json:
        sys.stdout.write(json.dumps(result.to_json()) + "\n")
    else:
        simulation_view.print_result(result)


def _refuse_ignored(given: Set[str]) -> None:
    """Refuse options that would be ignored."""
    options.refuse_together("--resume", given, allowed={"study", "--resume", "--json"})
    options.refuse_shapes_of_a_file(given)
    options.refuse_together("--compare", given, allowed=given - _ONE_RUN)
    if "--compare" not in given and given & _COMPARING:
        useless = " and ".join(sorted(given & _COMPARING))
        raise MisuseError(f"{useless} belongs to `fedrx compare`: leave it out here.")
