"""Cards: a prediction as a record system shows it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from fedrx_client.clinic.predict import DECIDES, PatientPrediction, Point, digits
from fedrx_client.clinic.service.hooks import LONGEST_SUMMARY, OVERRIDE_REASONS, REASON_SYSTEM
from fedrx_models.files import ModelFile

MOST_REASONS = 3


def prediction_card(
    found: PatientPrediction,
    model: ModelFile,
    *,
    uuid: UUID,
    reasons: Sequence[str] = (),
    guideline: Sequence[str] = (),
    disagrees: str = "",
    link: str | None = None,
) -> dict[str, Any]:
    """Make the card of one prediction.

    Args:
        found: what the model says of the patient.
        model: the model.
        uuid: name of the card, by which feedback refers to it.
        reasons: sentences, the weightiest first; three are shown.
        guideline: sentences of the guideline that applies, with its version.
        disagrees: a sentence where model and guideline differ by more than is allowed; it comes
            first.
        link: address of the page that shows this patient.
    """
    detail = [disagrees] if disagrees else []
    detail += [f"**{_line(point)}**" for point in found.points[:20]]
    detail += [f"- {reason}" for reason in reasons[:MOST_REASONS]]
    detail += [f"Missing: {one.feature}; used {one.how}." for one in found.filled]
    detail += [f"Note: {warning}" for warning in found.warnings]
    detail += list(guideline)
    card = model.card
    detail += [card.intervals] if card and card.intervals else []
    detail.append(
        f"Model {model.name}{f' ({card.title})' if card and card.title else ''}"
        f"{f'; {card.promise}' if card else ''}. {card.intended_use if card else DECIDES}"
    )
    alarming = bool(disagrees or found.warnings)
    made: dict[str, Any] = {
        "uuid": str(uuid),
        "summary": _summary(found, disagrees),
        "indicator": "warning" if alarming else "info",
        "detail": "\n\n".join(_markdown(line) for line in detail),
        "source": {"label": f"FedRx {model.name}"},
        "overrideReasons": [
            {"code": code, "system": REASON_SYSTEM, "display": shown}
            for code, shown in OVERRIDE_REASONS
        ],
    }
    if link is not None:
        made["links"] = [{"label": "Course, reasons and what-if", "url": link, "type": "absolute"}]
    return made


def refusal_card(sentence: str, model: ModelFile, *, uuid: UUID) -> dict[str, Any]:
    """Make a card that says why there is no prediction for this patient."""
    return {
        "uuid": str(uuid),
        "summary": "No prediction for this patient",
        "indicator": "info",
        "detail": _markdown(sentence),
        "source": {"label": f"FedRx {model.name}"},
    }


def _summary(found: PatientPrediction, disagrees: str) -> str:
    first = found.points[0]
    more = f" and {len(found.points) - 1} more" if len(found.points) > 1 else ""
    text = f"{'Differs from the guideline: ' if disagrees else ''}{_line(first)}{more}"
    return text if len(text) <= LONGEST_SUMMARY else f"{text[: LONGEST_SUMMARY - 1]}…"


def _line(point: Point) -> str:
    """Write a predicted number with its interval."""
    name = point.of.replace("_", " ")
    at = "" if point.at is None else f" at {point.at:g}"
    if point.value is None:
        return f"{name}{at}: cannot be said"
    if point.low is None or point.high is None:
        return f"{name}{at}: {digits(point.value)} {point.unit}"
    span = f"{digits(point.low)} to {digits(point.high)}"
    return f"{name}{at}: {digits(point.value)} ({span}) {point.unit}"


_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\`[]<>#|"})


def _markdown(line: str) -> str:
    """Keep a line from being read as a link, a heading, or HTML."""
    return line.translate(_MARKDOWN)
