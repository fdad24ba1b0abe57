"""The `fedrx` command: parses, calls, prints. Whatever it does, a notebook can do too.

Progress and messages go to standard error, results to standard output. A mistake in what was
given is one sentence and exit code 2; a run that could not finish exits with 3, one that was
interrupted with 130.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NoReturn

# Before Flower or Ray is imported: neither may call home from a hospital.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import click
import typer

from fedrx.cli import coordinator as coordinator_commands
from fedrx.cli import model as model_commands
from fedrx.cli import simulate as simulate_command
from fedrx.cli import site as site_commands
from fedrx.views.terminal import prepare, say
from fedrx_common.errors import FedRxError, MisuseError
from fedrx_common.text import command

# What a shell expects after Control-C; Typer turns the interrupt into this number.
_INTERRUPTED = 130

app = typer.Typer(
    name="fedrx",
    help="Federated pharmacogenomics for hospitals: patients stay, only masked sums leave.",
    no_args_is_help=True,
    suggest_commands=False,  # Click itself does
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
study_app = typer.Typer(
    help="Write and check study files.", no_args_is_help=True, suggest_commands=False
)
simulate_command.register(app)
app.add_typer(study_app, name="study")
app.add_typer(model_commands.app, name="model")
app.add_typer(coordinator_commands.app, name="coordinator")
app.add_typer(site_commands.app, name="site")


@app.callback()
def _root() -> None:
    """Federated pharmacogenomics for hospitals: patients stay, only masked sums leave."""


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
    from fedrx import api

    text = api.new_study(model, task)
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise MisuseError(f"{output}: exists already; name another file.") from None
    except OSError as error:
        raise MisuseError(f"{output}: cannot be written ({error.strerror}).") from None
    say(f"{output}: change it, then run `{command('fedrx', 'study', 'check', output)}`.")


@study_app.command("check", epilog="Example: fedrx study check study.toml --sites 21")
def study_check(
    study: Annotated[Path, typer.Argument(help="Study file.")],
    *,
    sites: Annotated[int, typer.Option(help="Number of sites that will take part.")] = 21,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say whether a study file can be used, and what its privacy and its rounds will cost."""
    from fedrx import api
    from fedrx.views import simulation as simulation_view

    agreed, _ = api.read_study(study)
    cost = api.study_cost(agreed, sites)
    if as_json:
        sys.stdout.write(json.dumps(cost) + "\n")
    else:
        simulation_view.print_cost(study, cost)


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
    seed: Annotated[
        int, typer.Option(help="Fixes what is drawn.", min=0, max=simulate_command.LARGEST_SEED)
    ] = 0,
) -> None:
    """Draw synthetic patients as tables, to rehearse a live study with its own commands."""
    from fedrx import api

    agreed, _ = api.read_study(study)
    tables = api.write_patients(agreed, output, sites=sites, patients=patients, seed=seed)
    names = ", ".join(str(path.relative_to(output)) for path in tables)
    say(f"{output}: {names}, and their mapping.toml.")


def main() -> NoReturn:
    """Run the command; an error is one sentence and an exit code."""
    prepare()
    try:
        _refuse_empty(sys.argv[1:])
        code = app(standalone_mode=False, prog_name="fedrx")
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        told = error.format_message().rstrip(".")
        stop = "" if told.endswith("?") else "."
        _fail(f"{told}{stop} `{_help(error)}` shows what there is.", 2)
    except MisuseError as error:
        _fail(str(error), 2)
    except FedRxError as error:
        _fail(str(error), 3)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(
            f"{where}a file cannot be read or written ({error.strerror}); look at the disk and the "
            f"permissions, then try again{_how_to_go_on(sys.argv)}.",
            3,
        )
    except MemoryError:
        _fail("this machine has not enough memory for that: ask for fewer patients or sites.", 3)
    except (click.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        _fail(f"interrupted{_how_to_go_on(sys.argv)}.", code)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """An empty path would be taken for the present folder, and an empty name for none."""
    for before, argument in pairwise(("fedrx", *arguments)):
        if not argument or re.fullmatch(r"--[a-z-]+=", argument):
            place = argument.rstrip("=") or before
            raise MisuseError(
                f"an argument is empty, at '{place}': give it a value, or leave it out."
            )


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """What becomes of a simulation that had begun; other commands leave nothing to go on with."""
    if "simulate" not in arguments:
        return ""
    if any(argument.partition("=")[0] == "--compare" for argument in arguments):
        return "; a comparison that had begun goes on when the same command is given again"
    return "; a run that had begun can be continued with --resume FOLDER"


def _help(error: click.ClickException) -> str:
    """The command that explains the one that was mistyped."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{context.command_path if context else 'fedrx'} --help"


def _fail(sentence: str, code: int) -> NoReturn:
    say(f"fedrx: {sentence}", err=True)
    sys.exit(code)
