"""`fedrx simulate`: a whole federated study on this machine, or several side by side."""

import json
import sys
from collections.abc import Set
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from click.core import ParameterSource

from fedrx_common.errors import MisuseError

if TYPE_CHECKING:
    from fedrx.api import PatientFile, SimulationResult

# Repeated from fedrx_simulation.simulate, whose import would make `--help` wait for torch.
EngineName = Literal["inprocess", "flower"]

# Half of what a generator takes, so that the seeds after it, one for each repeat, fit too.
LARGEST_SEED = 2**63 - 1

# What shapes synthetic sites and says nothing about a file of real patients.
_SYNTHETIC = frozenset({"--patients", "--heterogeneity", "--missingness", "--shift"})

# What belongs to a comparison, and what to a single run only.
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
    study: Annotated[
        Path | None, typer.Argument(help="Study file; the built-in warfarin study if left out.")
    ] = None,
    *,
    data: Annotated[Path | None, typer.Option(help="CSV or Parquet file of real patients.")] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="How the file's columns become features (TOML).")
    ] = None,
    split_by: Annotated[
        str | None, typer.Option(help="Column of the file that names each patient's site.")
    ] = None,
    sites: Annotated[
        int | None,
        typer.Option(
            help="Number of synthetic sites (21, or 8 with omics blocks or visits), or of parts "
            "into which the patients of --data are dealt, where it names no sites."
        ),
    ] = None,
    patients: Annotated[
        str | None,
        typer.Option(help="Patients a synthetic site, as LEAST..MOST; 63..789, or 60..240."),
    ] = None,
    heterogeneity: Annotated[
        float, typer.Option(help="0: sites alike; 1: each site has one ancestry.")
    ] = 0.7,
    missingness: Annotated[
        float, typer.Option(help="Mean share of unrecorded clinical values.")
    ] = 0.2,
    shift: Annotated[
        float, typer.Option(help="Measurement shift between sites, in standard deviations.")
    ] = 0.1,
    dropout: Annotated[
        float, typer.Option(help="Chance that a site drops out of a round, at any stage.")
    ] = 0.0,
    delay: Annotated[
        float, typer.Option(help="Mean reply time in simulated seconds; late replies are lost.")
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option(help="Makes the whole simulation repeatable.", min=0, max=LARGEST_SEED),
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Overrides privacy.epsilon.")] = None,
    privacy: Annotated[
        str | None, typer.Option(help="Overrides privacy.mode: distributed, local or none.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Overrides model.name.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Overrides training.rounds.")] = None,
    engine: Annotated[
        EngineName, typer.Option(help="inprocess, or flower (Flower's simulation on Ray).")
    ] = "inprocess",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Run folder to make; runs/STUDY-TIME, or runs/STUDY-comparison, if left out."
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run folder of a simulation that was cut off.")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help=r"Model file of the study that \[transfer] names.")
    ] = None,
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Skip the pooled and site-alone models.")
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Models to compare instead, e.g. linear,mlp, or study files: linear,cnn.toml."
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="With --compare: parts of each site's patients; 5.")
    ] = None,
    leave_one_site_out: Annotated[
        bool, typer.Option("--leave-one-site-out", help="With --compare: leave out each site too.")
    ] = False,
    repeats: Annotated[int, typer.Option(help="With --compare: how many seeds.")] = 1,
    personalised: Annotated[
        bool,
        typer.Option("--personalised", help="With --compare: a private head at each site too."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Run a whole federated study on this machine and compare it with pooled data."""
    _check_options(_given(context))
    # Imported here so that `fedrx --help` does not wait for torch.
    from fedrx import api
    from fedrx.cli import compare as compare_command
    from fedrx.views import simulation as simulation_view

    if resume is not None:
        with simulation_view.progress(quiet=as_json) as observer:
            result = api.resume(resume, study=study, observer=observer)
        _show(result, as_json=as_json)
        return
    from_file = _source(data, mapping, split_by, sites)
    agreed, text = api.read_study(study)
    source = from_file or api.synthetic_sites(
        agreed,
        sites=sites,
        patients=None if patients is None else api.parse_range(patients),
        heterogeneity=heterogeneity,
        missingness=missingness,
        shift=shift,
    )
    agreed = api.override(agreed, epsilon=epsilon, privacy=privacy, model=model, rounds=rounds)
    if compare is not None:
        request = compare_command.Request(
            study=agreed,
            models=tuple(name.strip() for name in compare.split(",") if name.strip()),
            source=source,
            folds=folds,
            leave_one_site_out=leave_one_site_out,
            repeats=repeats,
            personalised=personalised,
            seed=seed,
            output=output or Path("runs") / f"{agreed.name}-comparison",
        )
        compare_command.command(request, as_json=as_json)
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


def _check_options(given: Set[str]) -> None:
    """Refuse options that would be ignored."""
    _refuse_together("--resume", given, allowed={"study", "--resume", "--json"})
    _refuse_together("--data", given, allowed=given - _SYNTHETIC)
    _refuse_together("--compare", given, allowed=given - _ONE_RUN)
    if "--compare" not in given and given & _COMPARING:
        raise MisuseError(f"{' and '.join(sorted(given & _COMPARING))} needs --compare MODELS.")


def _given(context: typer.Context) -> frozenset[str]:
    """What stands on the command line: options by their names, arguments by theirs."""
    return frozenset(
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    )


def _refuse_together(option: str, given: Set[str], *, allowed: Set[str]) -> None:
    """Refuse options that would be ignored beside `option`, if that one was given."""
    useless = sorted(given - allowed)
    if option in given and useless:
        raise MisuseError(
            f"{' and '.join(useless)} cannot be given with {option}: leave one of them out."
        )


def _source(
    data: Path | None, mapping: Path | None, split_by: str | None, sites: int | None
) -> "PatientFile | None":
    from fedrx import api

    if data is None and mapping is None and split_by is None:
        return None
    if data is not None and mapping is not None:
        return api.PatientFile(data, mapping, split_by, sites)
    missing = [name for name, value in (("--data", data), ("--mapping", mapping)) if value is None]
    raise MisuseError(
        "a patient file needs --data and --mapping, and --split-by COLUMN or --sites NUMBER: "
        f"give {' and '.join(missing)} too."
    )
