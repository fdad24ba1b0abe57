"""`fedrx predict`, `whatif`, `monitor`: what a model says of a patient; nothing is sent."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrx.cli.options import mapping_there, model_there, study_there
from fedrx_common.errors import MisuseError

if TYPE_CHECKING:
    from fedrx_client.clinic.guideline.guidance import Guidance
    from fedrx_models.cohort.cohort import Cohort
    from fedrx_models.files import ModelFile
    from fedrx_protocol.study.schema import FeatureSchema

ModelPlace = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A model file, or the folder of a finished run.", callback=model_there
    ),
]
MappingFile = Annotated[
    Path | None,
    typer.Option(
        "--mapping", help="How the source becomes features (TOML).", callback=mapping_there
    ),
]

AnyPatients = Annotated[
    str,
    typer.Option(
        "--patient",
        help="patient.json in the study's names; with --mapping a table, FHIR, a VCF or a "
        "database, of one patient or many.",
    ),
]
OnePatient = Annotated[
    str,
    typer.Option("--patient", help="patient.json of one patient; with --mapping another source."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

_example = "fedrx predict runs/warfarin --patient patient.json"
_whatif_example = "fedrx whatif runs/inr --patient patient.json --dose warfarin=7.5"
_monitor_example = "fedrx monitor runs/inr --patient patient.json --threshold inr=4"


def register(app: typer.Typer) -> None:
    """Add the commands of the bedside to the front door."""
    app.command(epilog=f"Example: {_example}")(predict)
    app.command(epilog=f"Example: {_whatif_example}")(whatif)
    app.command(epilog=f"Example: {_monitor_example}")(monitor)


def predict(
    model: ModelPlace,
    *,
    patient: AnyPatients,
    mapping: MappingFile = None,
    study: Annotated[
        Path | None,
        typer.Option(help="Study file; a model of another study is refused.", callback=study_there),
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


def whatif(
    model: ModelPlace,
    *,
    patient: OnePatient,
    mapping: MappingFile = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Another value of a feature."),
    ] = None,
    dose: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TREATMENT=AMOUNT[@TIME]",
            help="Another amount, from the last visit on, or from a time in the study's unit.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Patients of yours, to see if any in the same state had what is asked."),
    ] = None,
    data_mapping: Annotated[
        Path | None, typer.Option(help="Mapping of --data, where it is another than --mapping.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="Study file; a model of another study is refused.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw both answers into this new file, .png or .svg.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask about the same patient under other values, doses or regimens."""
    from fedrx.views.whatif import draw, require_drawable, show
    from fedrx_client.clinic.whatif import read_dose, read_setting, what_if

    if figure is not None:
        require_drawable(figure)
    found = open_model(model, study)
    schema = found.model.schema
    settings = [read_setting(one, schema) for one in setting or ()]
    doses = [read_dose(one, schema) for one in dose or ()]
    asked = _read(patient, mapping, schema)
    known = None if data is None else _read(data, data_mapping or mapping, schema)
    answer = what_if(found, asked, settings, doses, known)
    if figure is not None:
        draw(answer, found, figure)
    if as_json:
        sys.stdout.write(json.dumps(answer.to_json(found), ensure_ascii=False) + "\n")
    else:
        show(answer, found)


def monitor(
    model: ModelPlace,
    *,
    patient: OnePatient,
    mapping: MappingFile = None,
    false_alarms: Annotated[
        float, typer.Option(metavar="RATE", help="False alarms per patient-month that you accept.")
    ] = 0.05,
    threshold: Annotated[
        list[str] | None,
        typer.Option(metavar="MARKER=VALUE", help="Warn before this limit is crossed."),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(help="Patients of yours who did not train the model, to calibrate on."),
    ] = None,
    calibrate_mapping: Annotated[
        Path | None, typer.Option(help="Mapping of --calibrate, where it is another.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Kept calibration: written anew with --calibrate, read without."),
    ] = None,
    study: Annotated[
        Path | None, typer.Option(help="Study file; a model of another study is refused.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say stay or pivot: does a patient's course follow its forecast under therapy?"""
    from fedrx.views.monitor import show
    from fedrx_client.clinic.monitor import MonitorCalibration, read_threshold, watch
    from fedrx_client.clinic.monitor import calibrate as learn
    from fedrx_common.files import write_file

    found = open_model(model, study)
    schema = found.model.schema
    limits = [read_threshold(one, schema) for one in threshold or ()]
    if calibrate is not None and calibration is not None and calibration.exists():
        raise MisuseError(f"{calibration}: is already there; name a new file, or remove it.")
    followed = _read(patient, mapping, schema)
    kept = None
    if calibrate is not None:
        kept = learn(found, _read(calibrate, calibrate_mapping or mapping, schema))
    elif calibration is not None:
        kept = MonitorCalibration.load(calibration, found)
    answer = watch(found, followed, limits, kept, false_alarms)
    if calibrate is not None and calibration is not None and kept is not None:
        write_file(calibration, json.dumps(kept.to_json()).encode())
    if as_json:
        sys.stdout.write(json.dumps(answer.to_json(found), ensure_ascii=False) + "\n")
    else:
        show(answer, found)


def _read(source: str, mapping: Path | None, schema: "FeatureSchema") -> "Cohort":
    from fedrx_client.clinic.patients import load_patients
    from fedrx_client.data.mapping import TableMapping

    described = None if mapping is None else TableMapping.load(mapping)
    return load_patients(source, schema, described).cohort


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
