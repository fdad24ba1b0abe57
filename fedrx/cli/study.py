"""`fedrx study`: write a study file, check it, rehearse it."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedrx.cli.options import LARGEST_SEED, study_there
from fedrx.views.terminal import say
from fedrx_common.errors import MisuseError
from fedrx_common.text import command

app = typer.Typer(help="Write and check study files.", no_args_is_help=True, suggest_commands=False)


@app.command(
    epilog="Example: fedrx study new --model genomic_cnn --task toxicity --output study.toml"
)
def new(
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


@app.command(epilog="Example: fedrx study check study.toml --sites 21")
def check(
    study: Annotated[Path, typer.Argument(help="Study file.", callback=study_there)],
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


@app.command(epilog="Example: fedrx study schema > study.schema.json")
def schema(
    *,
    mapping: Annotated[
        bool, typer.Option("--mapping", help="Print the mapping file's schema instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of the study file, by which editors complete and check it."""
    from fedrx.file_schemas import shipped_schema

    sys.stdout.write(shipped_schema("mapping" if mapping else "study"))


@app.command(epilog="Example: fedrx study patients study.toml --sites 3 --output rehearsal")
def patients(
    study: Annotated[Path, typer.Argument(help="Study file.", callback=study_there)],
    *,
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    sites: Annotated[int, typer.Option(help="Number of sites.", min=1)] = 3,
    patients: Annotated[
        str | None, typer.Option(help="Patients a site, e.g. 80..200; else what the study expects.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes what is drawn.", min=0, max=LARGEST_SEED)] = 0,
) -> None:
    """Draw synthetic patients as tables, to rehearse a live study with its own commands."""
    from fedrx import api

    agreed, _ = api.read_study(study)
    tables = api.write_patients(agreed, output, sites=sites, patients=patients, seed=seed)
    names = ", ".join(str(path.relative_to(output)) for path in tables)
    say(f"{output}: {names}, and their mapping.toml.")
