"""`fedrx explain`: why a finished model predicts what it does; nothing is sent or stored."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from fedrx.cli.clinic import AnyPatients, MappingFile, ModelPlace, open_model
from fedrx_common.errors import MisuseError

if TYPE_CHECKING:
    from fedrx.views.explanation import Picture
    from fedrx_models.explain.attribution import Method

_PICTURES = ("png", "svg")
_example = "fedrx explain runs/warfarin --patient patient.json --figure why.svg"


def register(app: typer.Typer) -> None:
    """Add this command to the front door."""
    app.command(epilog=f"Example: {_example}")(explain)


def explain(
    model: ModelPlace,
    *,
    patient: AnyPatients,
    mapping: MappingFile = None,
    study: Annotated[
        Path | None, typer.Option(help="Study file; a model of another study is refused.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="auto, exact, kernel_shap, shapley_sampling, lime or integrated_gradients."
        ),
    ] = "auto",
    drug: Annotated[str | None, typer.Option(help="Which drug of a panel.")] = None,
    marker: Annotated[str | None, typer.Option(help="Which marker of a forecast.")] = None,
    horizon: Annotated[
        float | None, typer.Option(help="How far ahead, in the study's time unit.")
    ] = None,
    cohort: Annotated[
        bool, typer.Option("--cohort", help="Mean effects over all patients; they stay here.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(help="Draw it to this new file, .png or .svg.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say which of a patient's values raise or lower the prediction, and by how much."""
    picture = None if figure is None else picture_of(figure)
    from fedrx.views.reasons import show, show_cohort
    from fedrx_client.clinic.explaining import STAYS, explain_cohort, explain_patients
    from fedrx_client.clinic.patients import load_patients
    from fedrx_client.clinic.predict import describe
    from fedrx_client.data.mapping import TableMapping
    from fedrx_models.explain.outcome import Question

    found = open_model(model, study)
    found.require_usable()
    described = None if mapping is None else TableMapping.load(mapping)
    patients = load_patients(patient, found.model.schema, described).cohort
    if picture is not None and len(patients) > 1 and not cohort:
        raise MisuseError(
            f"{patient}: holds {len(patients)} patients, and a figure shows one: give one of them, "
            "or --cohort."
        )
    question = Question(drug, marker, horizon)
    whys = explain_patients(found, patients, method=cast("Method", method), question=question)
    summed = explain_cohort(whys) if cohort else None
    if figure is not None and picture is not None:
        from fedrx.views.explanation import draw_cohort, draw_explanation
        from fedrx_common.files import write_file

        schema = found.model.schema
        drawn = (
            draw_explanation(whys[0].explanation, schema, picture)
            if summed is None
            else draw_cohort(summed, picture)
        )
        write_file(figure, drawn)
    if as_json:
        told = (
            {"explanations": [one.to_json(found) for one in whys]}
            if summed is None
            else {"cohort": summed.to_dict(), "stays": STAYS, "model": describe(found)}
        )
        sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")
    elif summed is not None:
        show_cohort(summed, found)
    else:
        show(whys, found)


def picture_of(figure: Path) -> "Picture":
    """Give a figure's kind by its name, and refuse a file that is there."""
    kind = figure.suffix.lower().removeprefix(".")
    if kind not in _PICTURES:
        raise MisuseError(f"{figure}: a figure ends in .png or .svg; name it so.")
    if figure.exists():
        raise MisuseError(f"{figure}: is already there; name a new file, or remove it.")
    if not figure.parent.is_dir():
        raise MisuseError(f"{figure}: its folder is not there; make it first.")
    return cast("Picture", kind)
