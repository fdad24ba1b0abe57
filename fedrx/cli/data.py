"""`fedrx data`: what a hospital's own files hold, read where they are; nothing is sent."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

_help = "Read a hospital's own files, and say what of them will be used."
app = typer.Typer(help=_help, no_args_is_help=True, suggest_commands=False)

_example = "fedrx data genotypes patients.vcf.gz --output calls.csv"


StudyFile = Annotated[Path, typer.Argument(help="Study file.")]
SourceText = Annotated[
    str, typer.Option("--source", "--data", help="File, folder, database URL or FHIR base URL.")
]
Mapping = Annotated[Path, typer.Option(help="Mapping file for it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_RED = 1  # a finding is red; 2 is a mistake in what was given, as everywhere


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


@app.command(
    epilog="Example: fedrx data cohort study.toml --source patients.csv --mapping mapping.toml"
)
def cohort(
    study: StudyFile, *, source: SourceText, mapping: Mapping, as_json: AsJson = False
) -> None:
    """Read patients as a study would: rows kept and dropped and why, columns, fingerprint."""
    from fedrx.api import read_cohort
    from fedrx.views.cohort import cohort_document, cohort_page
    from fedrx.views.terminal import say
    from fedrx_client.data.mapping import TableMapping
    from fedrx_client.data.privacy.pipeline import pipeline_digest

    loaded = read_cohort(source, mapping, study)
    pipeline = pipeline_digest(TableMapping.load(mapping), loaded.cohort.schema)
    if as_json:
        document = {**cohort_document(loaded), "pipeline": pipeline}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        say(f"{cohort_page(loaded)}\nPipeline: {pipeline}")


@app.command(
    epilog="Example: fedrx data quality study.toml --source patients.csv --mapping mapping.toml"
)
def quality(
    study: StudyFile,
    *,
    source: SourceText,
    mapping: Mapping,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write a page (HTML), for this site.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="The consortium's private summary (JSON), if there is one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold a site's data against a study: exit code 1 where a finding is red, else 0."""
    from fedrx.views.terminal import say
    from fedrx_client.checks.quality import quality_of
    from fedrx_client.data.mapping import TableMapping
    from fedrx_client.data.quality.page import page
    from fedrx_client.data.readers.source import Source
    from fedrx_common.files import write_private
    from fedrx_protocol.study.study import Study

    if output is not None:
        _refuse_output(output)
    report = quality_of(
        Study.load(study),
        TableMapping.load(mapping),
        Source.parse(source),
        today=datetime.now(UTC).date(),
        reference=reference,
    )
    if output is not None:
        write_private(output, page(report).encode())
    if as_json:
        sys.stdout.write(json.dumps(report.to_dict()) + "\n")
    else:
        say(report.text())
    if report.red:
        raise typer.Exit(_RED)


_map_example = "fedrx data map patients.csv study.toml --output mapping.toml"


@app.command("map", epilog=f"Example: {_map_example}")
def map_(
    table: Annotated[Path, typer.Argument(help="CSV, TSV, Parquet or Excel file of patients.")],
    study: StudyFile,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Mapping file to write.")],
    rows: Annotated[int, typer.Option(help="Rows to look at.", min=1, max=100_000)] = 200,
) -> None:
    """Propose a mapping of a table: a comment for each guess, `# ?` where a person must decide."""
    from fedrx.views.terminal import say
    from fedrx_client.data.proposal.propose import propose
    from fedrx_common.errors import counted
    from fedrx_common.files import write_file
    from fedrx_protocol.study.study import Study

    _refuse_output(output)
    found = propose(table, Study.load(study), rows)
    write_file(output, found.text.encode())
    left = counted(found.open, "decision")
    say(
        f"{output}: looked at {counted(found.rows, 'row')}, found columns for "
        f"{counted(len(found.guessed), 'thing')} of the study; {left} left to you (# ?)."
    )


def _refuse_output(path: Path) -> None:
    """Refuse a file that is there already, or whose folder is not."""
    from fedrx_common.errors import MisuseError

    if path.exists():
        raise MisuseError(f"{path}: exists already; name another file.")
    if not path.parent.is_dir():
        raise MisuseError(f"{path.parent}: is no folder; make it, or name another file.")
