"""The `fedrx` command: parses, calls, prints. Whatever it does, a notebook can do too.

Progress and messages go to standard error, results to standard output. A mistake in what was
given is one sentence and exit code 2; a run that could not finish exits with 3, one that was
interrupted with 130.
"""

import json
import os
import sys
from collections.abc import Set
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

# Before Flower or Ray is imported: neither may call home from a hospital.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import click
import typer
from click.core import ParameterSource

from fedrx import cli_coordinator, cli_site
from fedrx_protocol.errors import FedRxError, MisuseError

if TYPE_CHECKING:
    from fedrx import front_door

# Repeated from fedrx_simulation.simulate, whose import would make `--help` wait for torch.
EngineName = Literal["inprocess", "flower"]

# What a shell expects after Control-C; Typer turns the interrupt into this number.
_INTERRUPTED = 130

app = typer.Typer(
    name="fedrx",
    help="Federated pharmacogenomics for hospitals: patients stay, only masked sums leave.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
study_app = typer.Typer(help="Write and check study files.", no_args_is_help=True)
app.add_typer(study_app, name="study")
app.add_typer(cli_coordinator.app, name="coordinator")
app.add_typer(cli_site.app, name="site")


# What shapes synthetic sites and says nothing about a file of real patients.
_SYNTHETIC = frozenset({"--sites", "--patients", "--heterogeneity", "--missingness", "--shift"})


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


@app.callback()
def _root() -> None:
    """Federated pharmacogenomics for hospitals: patients stay, only masked sums leave."""


@app.command(
    epilog="Example: fedrx simulate --sites 50 --patients 40..400 --heterogeneity 0.7 --seed 3"
)
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
        int | None, typer.Option(help="Number of synthetic sites; 21, or 8 with omics blocks.")
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
        int | None, typer.Option(help="Makes the whole simulation repeatable.", min=0)
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
        Path | None, typer.Option(help="Run folder to make; runs/STUDY-TIME if left out.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run folder of a simulation that was cut off.")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Model file of the study that [transfer] names.")
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
    given = _given(context)
    _refuse_together("--resume", given, allowed={"study", "--resume", "--json"})
    _refuse_together("--data", given, allowed=given - _SYNTHETIC)
    _refuse_together("--compare", given, allowed=given - _ONE_RUN)
    if compare is None and given & _COMPARING:
        raise MisuseError(f"{' and '.join(sorted(given & _COMPARING))} needs --compare MODELS.")
    # Imported here so that `fedrx --help` does not wait for torch.
    from fedrx import console, front_door

    if resume is None:
        from_file = _source(data, mapping, split_by)
        agreed, text = front_door.read_study(study)
        source = from_file or front_door.synthetic_sites(
            agreed,
            sites=sites,
            patients=None if patients is None else front_door.parse_range(patients),
            heterogeneity=heterogeneity,
            missingness=missingness,
            shift=shift,
        )
        agreed = front_door.override(
            agreed, epsilon=epsilon, privacy=privacy, model=model, rounds=rounds
        )
    if compare is not None:
        from fedrx import comparing

        request = comparing.Request(
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
        comparing.command(request, as_json=as_json)
        return
    with console.progress(quiet=as_json) as observer:
        if resume is not None:
            result = front_door.resume(resume, study=study, observer=observer)
        else:
            result = front_door.simulate(
                agreed,
                source=source,
                seed=seed,
                engine=engine,
                dropout=dropout,
                delay_s=delay,
                baselines=not no_baselines,
                output=output or front_door.new_run_folder(agreed, datetime.now(UTC)),
                study_text=text,
                start_from=start_from,
                observer=observer,
            )
    if as_json:
        sys.stdout.write(json.dumps(result.to_json()) + "\n")
    else:
        console.print_result(result)


@study_app.command(
    "new", epilog="Example: fedrx study new --model genomic_cnn --task toxicity --output study.toml"
)
def study_new(
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("study.toml"),
    model: Annotated[
        str | None, typer.Option(help="Model, e.g. linear, mlp, genomic_cnn, drug_gene_gnn, tcn.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="What is predicted: dose, response, toxicity, survival, forecast, anticoagulation."
        ),
    ] = None,
) -> None:
    """Write a commented study file to start from."""
    from fedrx import front_door

    text = front_door.new_study(model, task)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise MisuseError(f"{output}: exists already; name another file.") from None
    except OSError as error:
        raise MisuseError(f"{output}: cannot be written ({error.strerror}).") from None
    typer.echo(f"{output}: change it, then run `fedrx study check {output}`.")


@study_app.command("check", epilog="Example: fedrx study check study.toml --sites 21")
def study_check(
    study: Annotated[Path, typer.Argument(help="Study file.")],
    *,
    sites: Annotated[int, typer.Option(help="Number of sites that will take part.")] = 21,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether a study file can be used, and what its privacy and its rounds will cost."""
    from fedrx import console, front_door

    agreed, _ = front_door.read_study(study)
    cost = front_door.study_cost(agreed, sites)
    if as_json:
        sys.stdout.write(json.dumps(cost) + "\n")
    else:
        console.print_cost(study, cost)


@study_app.command(
    "patients", epilog="Example: fedrx study patients study.toml --sites 3 --output rehearsal"
)
def study_patients(
    study: Annotated[Path, typer.Argument(help="Study file.")],
    *,
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    sites: Annotated[int, typer.Option(help="Number of sites.", min=1)] = 3,
    patients: Annotated[
        str | None, typer.Option(help="Patients a site, e.g. 80..200; else what the study expects.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes what is drawn.", min=0)] = 0,
) -> None:
    """Draw synthetic patients as tables, to rehearse a live study with its own commands."""
    from fedrx import front_door

    tables = front_door.write_patients(study, output, sites=sites, patients=patients, seed=seed)
    names = ", ".join(str(path.relative_to(output)) for path in tables)
    typer.echo(f"{output}: {names}, and their mapping.toml.")


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
    data: Path | None, mapping: Path | None, split_by: str | None
) -> "front_door.PatientFile | None":
    from fedrx import front_door

    if data is not None and mapping is not None and split_by is not None:
        return front_door.PatientFile(data, mapping, split_by)
    given = {"--data": data, "--mapping": mapping, "--split-by": split_by}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    raise MisuseError(
        f"a patient file needs --data, --mapping and --split-by: give {' and '.join(missing)} too."
    )


def main() -> NoReturn:
    """Run the command; an error is one sentence and an exit code."""
    try:
        code = app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(f"{error.format_message().rstrip('.')}. `{_help(error)}` shows what there is.", 2)
    except MisuseError as error:
        _fail(str(error), 2)
    except FedRxError as error:
        _fail(str(error), 3)
    except (click.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        _fail("interrupted; a run that had begun can be continued with --resume FOLDER.", code)
    sys.exit(code if isinstance(code, int) else 0)


def _help(error: click.ClickException) -> str:
    """The command that explains the one that was mistyped."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{context.command_path if context else 'fedrx'} --help"


def _fail(sentence: str, code: int) -> NoReturn:
    sys.stderr.write(f"fedrx: {sentence}\n")
    sys.exit(code)
