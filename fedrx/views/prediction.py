"""A prediction in the terminal: the value, how sure, what was missing, and who decides."""

from collections.abc import Sequence

from rich.table import Table

from fedrx.views.terminal import PlainConsole
from fedrx_client.clinic.predict import DECIDES, PatientPrediction, Point
from fedrx_models.files import ModelFile


def show(
    predictions: Sequence[PatientPrediction],
    model: ModelFile,
    guided: Sequence[tuple[Sequence[str], str]] = (),
) -> None:
    """Print predictions, one patient after another.

    Args:
        predictions: of each patient.
        model: what predicted.
        guided: of each patient, or empty: the guideline's sentences, and one on how far the model
            differs, which comes first.
    """
    out = PlainConsole()
    for i, one in enumerate(predictions):
        sentences, disagrees = guided[i] if guided else ((), "")
        if disagrees:
            out.print(f"Differs from the guideline: {disagrees}")
        level = "" if one.level is None else f"{100 * one.level:.0f} % interval"
        table = Table(title=f"Patient {one.patient}")
        for name in ("predicted", "at", "value", level or "interval", "unit"):
            table.add_column(name, justify="left" if name == "predicted" else "right", no_wrap=True)
        for point in one.points:
            at = "" if point.at is None else f"{point.at:g}"
            table.add_row(point.of, at, _number(point.value), _interval(point), point.unit)
        out.print(table)
        for filled in one.filled:
            out.print(f"Missing: {filled.feature}; used {filled.how}.")
        for warning in one.warnings:
            out.print(f"Note: {warning}")
        for sentence in sentences:
            out.print(sentence)
    if model.card and model.card.intervals:
        out.print(model.card.intervals)
    promise = f"; {model.card.promise}" if model.card else ""
    out.print(f"Model {model.name}{promise}.")
    out.print(model.card.intended_use if model.card else DECIDES)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _interval(point: Point) -> str:
    if point.low is None or point.high is None:
        return "–"
    return f"{point.low:.3g} to {point.high:.3g}"
