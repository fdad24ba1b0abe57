"""`fedrx model`: questions to a finished model, asked where its file is; nothing is sent."""

import json
import sys
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrx.cli import responders
from fedrx_common.errors import MisuseError

if TYPE_CHECKING:
    from fedrx_models.cohort.cohort import Cohort
    from fedrx_models.contract import PatientModel
    from fedrx_models.flux.ripple import Ripple
    from fedrx_protocol.study.schema import FeatureSchema

app = typer.Typer(help="Ask a finished model.", no_args_is_help=True, suggest_commands=False)
responders.register(app)

_SYNTHETIC_PATIENTS = 500
_STILL = 1e-6  # of a marker's scale; less is rounding

_example = "fedrx model ripple model.safetensors --marker creatinine --by 0.5"


# With one command and no callback, Typer would leave the command's name out.
@app.callback()
def _model() -> None:
    """Ask a finished model."""


@app.command(epilog=f"Example: {_example}")
def ripple(
    model: Annotated[Path, typer.Argument(help="A finished pathway_gnn's model.safetensors.")],
    *,
    marker: Annotated[str, typer.Option(help="The marker that moves.")],
    by: Annotated[float, typer.Option(help="How far, in the marker's unit; may be negative.")],
    study: Annotated[
        Path | None, typer.Option(help="Study file; a model of another study is refused.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", "--source", help="Patients to ask about, in any source; else synthetic ones."
        ),
    ] = None,
    mapping: Annotated[Path | None, typer.Option(help="How its columns become features.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """If one marker moves: which follow, when, how much and how surely, as the model expects."""
    from fedrx_models.cohort.encoding import encode
    from fedrx_models.flux import ripple as asking

    network = _network(model, study)
    cohort = _patients(network.schema, data, mapping)
    moved = asking.ripple(network, encode(cohort, network.schema), marker, by)
    if as_json:
        sys.stdout.write(json.dumps(_as_json(moved, network.schema)) + "\n")
    else:
        _show(moved, network.schema, synthetic=data is None)


def _network(path: Path, study: Path | None) -> "PatientModel":
    """Load a finished model that can be asked, of the study that was meant."""
    from fedrx.api import read_study
    from fedrx_models.files import load_model

    found = load_model(path).model
    if study is not None:
        agreed, _ = read_study(study)
        if agreed.feature_schema != found.schema or agreed.model.name != found.name:
            raise MisuseError(
                f"{path}: is no model of {study}: its features, markers, target or model differ."
            )
    if found.name != "pathway_gnn":
        raise MisuseError(
            f"{path}: holds a model '{found.name}', which has no network of markers: train a "
            "'pathway_gnn' to ask which markers follow."
        )
    return found


def _patients(schema: "FeatureSchema", data: str | None, mapping: Path | None) -> "Cohort":
    """Load the patients of a table, or draw synthetic ones."""
    from fedrx.api import SyntheticSites, load_cohorts
    from fedrx_client.data.load import load_cohort
    from fedrx_client.data.mapping import TableMapping

    if data is not None and mapping is not None:
        return load_cohort(data, TableMapping.load(mapping), schema, site="here").cohort
    if data is not None or mapping is not None:
        raise MisuseError("a table of patients needs --data and --mapping: give both, or neither.")
    some = SyntheticSites(sites=1, patients=(_SYNTHETIC_PATIENTS, _SYNTHETIC_PATIENTS))
    (cohort,) = load_cohorts(some, schema, seed=0).values()
    return cohort


def _as_json(moved: "Ripple", schema: "FeatureSchema") -> dict[str, Any]:
    """Describe each marker at each horizon, in its unit; null where there is no forecast."""
    parts = {
        "mean": moved.mean,
        "lower": moved.lower,
        "upper": moved.upper,
        "agreement": moved.agreement,
        "forecast_band": moved.band,
    }
    follows: list[dict[str, Any]] = []
    # Markers as in the study, the one that moves first; each with its horizons.
    for m in sorted(range(len(moved.markers)), key=lambda m: moved.markers[m] != moved.marker):
        for h, horizon in enumerate(moved.horizons):
            values = {name: float(part[h, m]) for name, part in parts.items()}
            known = {name: None if isnan(value) else value for name, value in values.items()}
            place = {"marker": moved.markers[m], "unit": moved.units[m], "horizon": horizon}
            follows.append({**place, **known})
    return {
        "marker": moved.marker,
        "by": moved.amount,
        "unit": next(one.unit for one in schema.markers if one.name == moved.marker),
        "patients": moved.patients,
        "time_unit": None if schema.visits is None else schema.visits.time_unit,
        "follows": follows,
    }


def _show(moved: "Ripple", schema: "FeatureSchema", *, synthetic: bool) -> None:
    from rich.table import Table

    from fedrx.views.terminal import PlainConsole

    out = PlainConsole()
    told = _as_json(moved, schema)
    way = "higher" if moved.amount > 0 else "lower"
    title = f"If {moved.marker} is measured {abs(moved.amount):g} {told['unit']} {way}"
    table = Table(title=f"{title}, so many {told['time_unit']}s later")
    for name in ("marker", f"{told['time_unit']}s", "moves", "80 % of patients", "agree", "band"):
        table.add_column(name, justify="left" if name == "marker" else "right", no_wrap=True)
    still = [  # no path of the graph leads to them
        marker.name
        for m, marker in enumerate(schema.forecast_markers)
        if (abs(moved.mean[:, m]) < _STILL * marker.unit_scale).all()
    ]
    for cell in told["follows"]:
        if cell["marker"] in still:
            continue
        row = ["–", "–", "–", "–"]
        if cell["mean"] is not None:
            row = [
                f"{cell['mean']:+.3g}",
                f"{cell['lower']:+.2g} to {cell['upper']:+.2g}",
                f"{100 * cell['agreement']:.0f} %",
                f"± {cell['forecast_band']:.2g}",
            ]
        table.add_row(f"{cell['marker']} ({cell['unit']})", f"{cell['horizon']:g}", *row)
    out.print(table)
    if still:
        out.print(f"No path of the network is long enough to move: {', '.join(still)}.")
    whom = "synthetic patients; give --data and --mapping for others" if synthetic else "patients"
    out.print(
        f"Asked of {moved.patients} {whom}. What the model expects to see, not what an "
        "intervention would cause. The band is that of a forecast, which holds 80 % of outcomes."
    )


@app.command(epilog="Example: fedrx model published pharmacogenetic --output iwpc.safetensors")
def published(
    equation: Annotated[str, typer.Argument(help="pharmacogenetic, clinical or fixed.")],
    *,
    output: Annotated[Path, typer.Option(help="Model file to make.")],
    study: Annotated[
        Path | None, typer.Option(help="Study of a warfarin dose; the built-in one if left out.")
    ] = None,
) -> None:
    """Write a published dosing equation as a model, to predict with and to compare with."""
    from datetime import UTC, datetime

    from fedrx.api import read_study
    from fedrx.views.terminal import say
    from fedrx_models.card import ModelCard
    from fedrx_models.files import save_model
    from fedrx_models.pharmacogenomic.published_model import SOURCE, published_model

    if output.exists():
        raise MisuseError(f"{output}: is already there; name a new file, or remove it.")
    agreed, _ = read_study(study)
    model = published_model(equation, agreed.feature_schema)
    card = ModelCard(
        study=agreed.name,
        title=f"Warfarin dose, IWPC {equation} equation ({SOURCE})",
        made=datetime.now(UTC).date(),
    )
    save_model(output, model, agreed.digest, card)
    say(f"{output}: made. Ask it with `fedrx predict {output} --patient patient.json`.")


@app.command(epilog="Example: fedrx model card runs/warfarin --expires 2027-12-31")
def card(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a finished run.")],
    *,
    expires: Annotated[
        str | None, typer.Option(help="First day on which it predicts no more (YYYY-MM-DD).")
    ] = None,
    withdraw: Annotated[
        str | None, typer.Option(metavar="REASON", help="It predicts no more from now on.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a model's card; set its end date, or withdraw it with a reason."""
    from datetime import date

    from fedrx.views.terminal import PlainConsole
    from fedrx_models.files import change_card, load_model

    changes: dict[str, object] = {}
    if expires is not None:
        try:
            changes["expires"] = date.fromisoformat(expires)
        except ValueError:
            raise MisuseError(f"--expires is '{expires}': give a day as YYYY-MM-DD.") from None
    if withdraw is not None:
        if not withdraw.strip():
            raise MisuseError("--withdraw needs a reason, which whoever predicts with it will see.")
        changes["withdrawn"] = withdraw.strip()
    found = change_card(model, **changes) if changes else load_model(model)
    if found.card is None:
        raise MisuseError(f"{found.path}: has no card; an older version of FedRx made it.")
    values = {"id": found.name, "digest": found.digest, **found.card.model_dump(mode="json")}
    if as_json:
        sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
        return
    out = PlainConsole()
    out.print(f"Model {found.name}; {found.card.promise}.")
    for name, value in values.items():
        if value not in (None, ""):
            out.print(f"  {name}: {value}")


@app.command(epilog="Example: fedrx model export runs/warfarin --onnx warfarin.onnx")
def export(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a finished run.")],
    *,
    onnx: Annotated[Path, typer.Option(help="ONNX file to make.")],
) -> None:
    """Write a model as ONNX, for a program without FedRx; checked against the model first."""
    from fedrx.views.terminal import say
    from fedrx_common.files import write_file
    from fedrx_models.files import load_model
    from fedrx_models.onnx_export import TOLERANCE, export_onnx, input_names, output_names

    if onnx.exists():
        raise MisuseError(f"{onnx}: is already there; name a new file, or remove it.")
    found = load_model(model)
    write_file(onnx, export_onnx(found))
    schema = found.model.schema
    say(
        f"{onnx}: made, and equal to the model within {TOLERANCE:g}. It reads "
        f"{', '.join(input_names(schema))} and gives {', '.join(output_names(schema))}; its "
        "metadata (fedrx.inputs) say what each column is. A card's end date does not hold in it: "
        "who runs it must check."
    )
