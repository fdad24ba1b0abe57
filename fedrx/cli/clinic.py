"""`fedrx predict`: what a finished model says of a patient; nothing is sent or stored."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrx_common.errors import MisuseError

if TYPE_CHECKING:
    from fedrx_client.clinic.guideline.guidance import Guidance
    from fedrx_models.files import ModelFile

ModelPlace = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model file, or the folder of a finished run.")
]
MappingFile = Annotated[
    Path | None, typer.Option("--mapping", help="How the source becomes features (TOML).")
]

_example = "fedrx predict runs/warfarin --patient patient.json"


def register(app: typer.Typer) -> None:
    """Add the commands of the bedside to the front door."""
    app.command(epilog=f"Example: {_example}")(predict)


def predict(
    model: ModelPlace,
    *,
    patient: Annotated[
        str,
        typer.Option(
            help="patient.json in the study's names; with --mapping a table, FHIR, a VCF or a "
            "database, of one patient or many."
        ),
    ],
    mapping: MappingFile = None,
    study: Annotated[
        Path | None, typer.Option(help="Study file; a model of another study is refused.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the predictions as a table (CSV) to this new file.")
    ] = None,
    guideline: Annotated[
        str | None,
        typer.Option(help="A published guideline beside the answer: warfarin, clopidogrel, ..."),
    ] = None,
    disagreement: Annotated[
        float | None,
        typer.Option(help="Share of the guideline's dose by which the model may differ (0.25)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Predict a patient's dose, risk or course, how surely, and from what."""
    from fedrx_client.clinic.patients import load_patients
    from fedrx_client.clinic.predict import as_rows
    from fedrx_client.clinic.predict import predict as ask
    from fedrx_client.data.mapping import TableMapping

    found = open_model(model, study)
    if output is not None and output.exists():
        raise MisuseError(f"{output}: is already there; name a new file, or remove it.")
    described = None if mapping is None else TableMapping.load(mapping)
    guided = _guidance(found, guideline, disagreement)
    loaded = load_patients(patient, found.model.schema, described)
    predictions = ask(found, loaded.cohort)
    beside = [guided(found, loaded.cohort, one) for one in predictions] if guided else []
    if output is not None:
        import csv
        import io

        from fedrx_common.files import write_file

        text, rows = io.StringIO(), as_rows(predictions, found)
        writer = csv.DictWriter(text, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
        write_file(output, text.getvalue().encode())
    if as_json:
        listed = [one.to_json(found) for one in predictions]
        for one, (sentences, disagrees) in zip(listed, beside, strict=False):
            one["guideline"] = {"disagrees": disagrees, "sentences": list(sentences)}
        sys.stdout.write(json.dumps({"predictions": listed}, ensure_ascii=False) + "\n")
    elif output is None:
        from fedrx.views.prediction import show

        show(predictions, found, beside)


def _guidance(
    model: "ModelFile", name: str | None, disagreement: float | None
) -> "Guidance | None":
    """Make what says the guideline that was asked for."""
    if name is None:
        if disagreement is not None:
            raise MisuseError("--disagreement belongs to --guideline: give both, or none.")
        return None
    from fedrx_client.clinic.guideline.guidance import DISAGREEMENT, guideline_for

    share = DISAGREEMENT if disagreement is None else disagreement
    return guideline_for(name, model.model.schema, share)


def open_model(place: Path, study: Path | None) -> "ModelFile":
    """Load a finished model, of the study that was meant."""
    from fedrx.api import read_study
    from fedrx_models.files import load_model

    found = load_model(place)
    if study is not None:
        agreed, _ = read_study(study)
        if agreed.feature_schema != found.model.schema:
            raise MisuseError(
                f"{found.path}: is no model of {study}: its features, markers or target differ."
            )
    return found
