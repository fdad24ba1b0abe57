"""What the page of one patient shows: a prediction and its reasons, as the templates need them."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedrx_client.clinic.page.drawing import (
    Course,
    Scale,
    Shown,
    courses,
    curve,
    in_words,
    scale,
)
from fedrx_client.clinic.page.looks import Look
from fedrx_client.clinic.predict import DECIDES, PatientPrediction, Point, digits, predict
from fedrx_client.clinic.reasons import why
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import visits_section
from fedrx_models.explain.explanation import Explanation
from fedrx_models.explain.words import label, outcome_in_words, sentence
from fedrx_models.files import ModelFile
from fedrx_protocol.study.schema import (
    BinaryTarget,
    FeatureSchema,
    ForecastTarget,
    NumberFeature,
    PanelTarget,
    SurvivalTarget,
)

_BAR = 100.0  # half of the width of the bars
_MOST_ROWS = 40  # of a panel of drugs, that are drawn


@dataclass(frozen=True)
class ReasonBar:
    """One reason.

    Attributes:
        words: the sentence.
        x: where its bar begins, from 0 to twice `_BAR`.
        width: of the bar.
        rises: whether it raises the outcome.
    """

    words: str
    x: float
    width: float
    rises: bool


@dataclass(frozen=True)
class Reasons:
    """Why the model says so.

    Attributes:
        bars: the main reasons, the weightiest first.
        opening: the prediction against that of the reference, in a sentence.
        rest: what all others together add, in a sentence; empty where there is none.
        method: how the effects were found.
    """

    bars: tuple[ReasonBar, ...]
    opening: str
    rest: str
    method: str


@dataclass(frozen=True)
class Answer:
    """A prediction, drawn.

    Attributes:
        headline: the number, or the first of several, in large letters.
        unit: its unit.
        span: its interval, in words; empty without one.
        what: what the number is.
        scales: values with intervals.
        courses: curves.
        rows: all numbers as a table: what, when, value, interval.
    """

    headline: str
    unit: str
    span: str
    what: str
    scales: tuple[Scale, ...]
    courses: tuple[Course, ...]
    rows: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class PatientPage:
    """Everything that the page shows of one look."""

    patient: str
    found: PatientPrediction
    answer: Answer
    reasons: Reasons
    missing: tuple[tuple[str, str], ...]
    guideline: tuple[str, ...]
    disagrees: str
    facts: tuple[tuple[str, str], ...]
    intended_use: str


@dataclass(frozen=True)
class WhatIfAnswer:
    """The answer to a what-if.

    Attributes:
        asked: what is different, in words.
        difference: in a sentence.
        answer: both answers, drawn on one scale.
        warnings: what makes the second answer less sure.
    """

    asked: tuple[str, ...]
    difference: str
    answer: Answer
    warnings: tuple[str, ...]


def patient_page(look: Look) -> PatientPage:
    """Predict for the patient of a look, and say why.

    Raises:
        ModelUnusable: the model is withdrawn or expired, or its file was changed.
        DataError: the patient does not fit the model.
    """
    model, patient = look.service.watched.current(), look.patient
    (found,) = predict(model, patient)
    guideline, disagrees = look.service.guideline(model, patient, found)
    card, schema, reasons = model.card, model.model.schema, why(model, patient)
    units = {one.name: one.unit for one in schema.features if isinstance(one, NumberFeature)}
    return PatientPage(
        patient=found.patient,
        found=found,
        answer=answer([("now", found)], patient, reference=reasons.baseline),
        reasons=_reasons(reasons, schema),
        missing=tuple(
            (label(one.feature, units.get(one.feature, "")), one.how) for one in found.filled
        ),
        guideline=tuple(guideline),
        disagrees=disagrees,
        facts=_facts(model),
        intended_use=card.intended_use if card else DECIDES,
    )


def compare(look: Look, other: Cohort, asked: Sequence[str]) -> WhatIfAnswer:
    """Predict for the patient of a look, and for the same patient with other values.

    Raises:
        ModelUnusable: as `patient_page`.
    """
    model = look.service.watched.current()
    (now,), (then,) = predict(model, look.patient), predict(model, other)
    both = answer([("now", now), ("then", then)], look.patient)
    one, two = _main(now), _main(then)
    if one.value is None or two.value is None:
        difference = "Nothing can be said of the difference."
    else:
        change, scaled = two.value - one.value, _percent(two)
        size = f"{digits(abs(change) * (100 if scaled else 1))} "
        size += "percentage points" if scaled else two.unit
        more = f"{size} {'more' if change > 0 else 'less'} than as recorded"
        same = abs(change) < 5e-4 * max(abs(one.value), abs(two.value))
        difference = f"{_told(two)}, {'as recorded' if same else more}"
    return WhatIfAnswer(tuple(asked), difference, both, then.warnings)


def answer(
    predictions: Sequence[tuple[str, PatientPrediction]],
    patient: Cohort,
    *,
    reference: float | None = None,
) -> Answer:
    """Draw one prediction, or two of the same patient on the same axes.

    Args:
        predictions: each with its kind, `now` or `then`.
        patient: the cohort of one, for the course before.
        reference: what is predicted for the study's reference patient, to compare with.
    """
    target, newest = patient.schema.target, predictions[-1][1]
    scales: tuple[Scale, ...] = ()
    drawn: tuple[Course, ...] = ()
    if isinstance(target, ForecastTarget):
        time_unit = visits_section(patient.schema).time_unit
        usual = predictions[0][1].points if len(predictions) > 1 else ()
        drawn = courses(patient, newest.points, time_unit, usual)
    elif isinstance(target, SurvivalTarget):
        drawn = (curve(newest.points, label(newest.points[0].of), target.time_unit),)
    else:
        panel = target if isinstance(target, PanelTarget) else None
        scales = _scales(predictions, panel, None if panel else reference)
    main = _main(newest)
    value = None if main.value is None else main.value * (100 if _percent(main) else 1)
    unit = "%" if _percent(main) else main.unit
    level = "" if newest.level is None else f"{100 * newest.level:.0f} % interval "
    has_span = main.low is not None and main.high is not None
    return Answer(
        headline="–" if value is None else digits(value),
        unit=unit,
        span=f"{level}{digits(main.low or 0.0)} to {digits(main.high or 0.0)}" if has_span else "",
        what=_what(main, patient.schema),
        scales=scales,
        courses=drawn,
        rows=tuple(_row(one, patient.schema) for one in newest.points),
    )


def _main(found: PatientPrediction) -> Point:
    """The number in large letters: the first marker's farthest, or the first of all."""
    first = found.points[0]
    same = [one for one in found.points if one.of == first.of and one.value is not None]
    return same[-1] if same else first


def _scales(
    predictions: Sequence[tuple[str, PatientPrediction]],
    panel: PanelTarget | None,
    reference: float | None,
) -> tuple[Scale, ...]:
    rows = []
    for place, point in enumerate(predictions[0][1].points[:_MOST_ROWS]):
        for kind, found in predictions:
            one = found.points[place]
            if one.value is None:
                continue
            factor = 100.0 if _percent(one) else 1.0
            name = "this patient" if panel is None else point.of
            if len(predictions) > 1:
                name = f"{'' if panel is None else f'{name}, '}{_ARMS[kind]}"
            low = None if one.low is None else one.low * factor
            high = None if one.high is None else one.high * factor
            rows.append(Shown(name, one.value * factor, low, high, kind))
    if not rows:
        return ()
    first = predictions[0][1].points[0]
    if reference is not None:
        factor = 100.0 if _percent(first) else 1.0
        rows.append(Shown("the reference patient", reference * factor, None, None, "reference"))
    if _percent(first):
        return (scale(rows, "%", whole=(0.0, 100.0)),)
    return (scale(rows, first.unit),)


_ARMS = {"now": "as recorded", "then": "with these values"}


def _percent(point: Point) -> bool:
    return point.unit == "probability"


def _told(point: Point) -> str:
    factor, unit = (100.0, "%") if _percent(point) else (1.0, point.unit)
    low = None if point.low is None else point.low * factor
    high = None if point.high is None else point.high * factor
    return in_words((point.value or 0.0) * factor, low, high, unit)


def _what(point: Point, schema: FeatureSchema) -> str:
    """Say what a number is: 'dose', 'probability of toxicity', 'INR in 3 days'."""
    name = label(point.of, point.unit.replace("/", "_per_"))
    if isinstance(schema.target, BinaryTarget):
        return f"probability of {name}"
    when = _when(point, schema)
    return f"{name} {when}" if when else name


def _when(point: Point, schema: FeatureSchema) -> str:
    if point.at is None:
        return ""
    target = schema.target
    if isinstance(target, SurvivalTarget):
        return f"at {point.at:g} {target.time_unit}s"
    time_unit = visits_section(schema).time_unit
    return f"in {point.at:g} {time_unit}{'' if point.at == 1 else 's'}"


def _row(point: Point, schema: FeatureSchema) -> tuple[str, str, str, str]:
    name = label(point.of, point.unit.replace("/", "_per_"))
    if point.value is None:
        return name, _when(point, schema), "cannot be said", ""
    factor, unit = (100.0, "%") if _percent(point) else (1.0, point.unit)
    span = ""
    if point.low is not None and point.high is not None:
        span = f"{digits(point.low * factor)} to {digits(point.high * factor)}"
    return name, _when(point, schema), f"{digits(point.value * factor)} {unit}", span


def _reasons(found: Explanation, schema: FeatureSchema) -> Reasons:
    """Make bars of an explanation's main reasons."""
    size = max(abs(found.prediction), abs(found.baseline))
    main = [one for one in found.main() if abs(one.effect) >= _LEAST * size]
    longest = max((abs(one.effect) for one in main), default=1.0)
    bars = []
    for one in main:
        width = round(_BAR * abs(one.effect) / longest, 1)
        text = sentence(one, found.outcome, schema)
        x = _BAR if one.effect > 0 else _BAR - width
        bars.append(ReasonBar(f"{text[:1].upper()}{text[1:]}.", x, width, one.effect > 0))
    scaled, unit = (100.0, " %") if found.outcome.kind == "binary" else (1.0, "")
    unit = unit or f" {found.outcome.unit}"
    rest = found.prediction - found.baseline - sum(one.effect for one in main)
    opening = (
        f"{outcome_in_words(found.outcome)}: {digits(found.prediction * scaled)}{unit} for this "
        f"patient, {digits(found.baseline * scaled)}{unit} for the study's reference patient."
    )
    told = ""
    if abs(rest) >= _LEAST * size:
        way = "raises" if rest > 0 else "lowers"
        told = f"Everything else together {way} it by {digits(abs(rest) * scaled)}{unit}."
    return Reasons(
        tuple(bars), f"{opening[:1].upper()}{opening[1:]}", told, found.method.replace("_", " ")
    )


_LEAST = 0.005  # of the larger of prediction and baseline, as in the sentences of a card


def _facts(model: ModelFile) -> tuple[tuple[str, str], ...]:
    """List what a person must know of a model, beside its intended use."""
    card = model.card
    found = [("Model", model.name)]
    if card is not None:
        found += [
            ("Title", card.title or card.study),
            ("Made", card.made.isoformat()),
            ("Privacy", card.promise),
            ("Hospitals", "none" if card.sites is None else f"{card.sites}"),
            ("May be used", f"until {card.expires}" if card.expires else "without an end date"),
        ]
    return (*found, ("Digest", model.digest[:16]), ("Study", model.study_digest[:16]))
