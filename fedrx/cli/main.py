"""The `fedrx` command: parses, calls, prints. A notebook can do all that it does.

Progress and messages go to standard error, results to standard output. A mistake in what was
given is one sentence and exit code 2; a run that could not finish exits with 3, one that was
interrupted with 130.
"""

import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import Annotated, Any, NoReturn

# Before Flower or Ray is imported: neither may contact its maker from a hospital.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import click
import typer
from typer.core import TyperArgument

from fedrx.cli import clinic as clinic_commands
from fedrx.cli import compare as compare_command
from fedrx.cli import coordinator as coordinator_commands
from fedrx.cli import data as data_commands
from fedrx.cli import explain as explain_command
from fedrx.cli import model as model_commands
from fedrx.cli import simulate as simulate_command
from fedrx.cli import site as site_commands
from fedrx.cli import study as study_commands
from fedrx.views.terminal import prepare, say
from fedrx_common.errors import FedRxError, MisuseError


class _Argument(TyperArgument):
    """An argument that keeps its help.

    Click 8.5 takes the help of an argument itself and empties what Typer 0.20 has set before it;
    Flower allows no newer Typer.
    """

    def __init__(self, *, help: str | None = None, **settings: Any) -> None:  # noqa: A002, ANN401 - Typer's
        super().__init__(help=help, **settings)
        self.help = help


typer.main.TyperArgument = _Argument  # type: ignore[attr-defined]  # Typer has no other way to it

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
simulate_command.register(app)
compare_command.register(app)
clinic_commands.register(app)
explain_command.register(app)
app.add_typer(study_commands.app, name="study")
app.add_typer(model_commands.app, name="model")
app.add_typer(coordinator_commands.app, name="coordinator")
app.add_typer(site_commands.app, name="site")
app.add_typer(data_commands.app, name="data")


def _print_versions(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it so
    if wanted:
        for package in ("fedrx", "flwr", "torch"):
            say(f"{package} {version(package)}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    versions: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print the versions of FedRx, Flower and torch.",
        ),
    ] = False,
) -> None:
    """Federated pharmacogenomics for hospitals: patients stay, only masked sums leave."""


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
        context = error.ctx if isinstance(error, click.UsageError) else None
        mistyped = context.command_path if context else "fedrx"
        _fail(f"{told}{stop} `{mistyped} --help` shows what there is.", 2)
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
    """Refuse an empty path, which would mean the present folder, and an empty name."""
    for before, argument in pairwise(("fedrx", *arguments)):
        if not argument or re.fullmatch(r"--[a-z-]+=", argument):
            place = argument.rstrip("=") or before
            raise MisuseError(
                f"an argument is empty, at '{place}': give it a value, or leave it out."
            )


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """Say how a simulation or a comparison goes on; other commands leave nothing to go on with."""
    name = "".join(arguments[1:2])
    old = any(argument.partition("=")[0] == "--compare" for argument in arguments)
    if name == "compare" or (name == "simulate" and old):
        return "; a comparison that had begun goes on when the same command is given again"
    return "; a run that had begun can be continued with --resume FOLDER" * (name == "simulate")


def _fail(sentence: str, code: int) -> NoReturn:
    say(f"fedrx: {sentence}", err=True)
    sys.exit(code)
