"""`fedrx data`: what a hospital's own files hold, read where they are; nothing is sent."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

_help = "Read a hospital's own files, and say what of them will be used."
app = typer.Typer(help=_help, no_args_is_help=True, suggest_commands=False)

_example = "fedrx data genotypes patients.vcf.gz --output calls.csv"


# With one command and no callback, Typer would leave the command's name out.
@app.callback()
def _data() -> None:
    """Read a hospital's own files, and say what of them will be used."""


@app.command(epilog=f"Example: {_example}")
def genotypes(
    files: Annotated[
        list[Path], typer.Argument(help="VCFs, plain or packed, of one or many samples.")
    ],
    *,
    build: Annotated[
        str | None,
        typer.Option(help="Genome build that the files are of; GRCh38, if no header says another."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write a table too, as CSV, one row a sample.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Call named alleles: diplotype, phenotype, what else fits, and which positions are missing."""
    from fedrx.views.genotypes import calls_document, calls_page
    from fedrx.views.terminal import say
    from fedrx_client.data.readers.genotypes import call_genotypes, write_calls
    from fedrx_common.errors import MisuseError

    if output is not None and output.exists():
        raise MisuseError(f"{output}: exists already; name another file.")
    calls = call_genotypes(files, build)
    if output is not None:
        write_calls(output, calls)
    if as_json:
        sys.stdout.write(json.dumps(calls_document(calls)) + "\n")
    else:
        say(calls_page(calls))
