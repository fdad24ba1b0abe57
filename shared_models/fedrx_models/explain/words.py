"""Explanations in words that a clinician reads: 'CYP2C9 *3/*3 lowers the dose by 9 mg/week'."""

import re
from collections.abc import Sequence

from fedrx_models.explain.explanation import MAIN_REASONS, UNKNOWN, Explanation, Reason
from fedrx_models.explain.outcome import Outcome
from fedrx_protocol.study.schema import Feature, FeatureSchema, NumberFeature

_GENE = re.compile(r"[a-z]{2,}[0-9]+[a-z0-9]*")
"""A name of letters and digits reads as a gene or a test: CYP2C9, VKORC1, HLA."""
_LEAST = 0.005  # of the larger of prediction and baseline: an effect that no one would notice


def sentence(reason: Reason, outcome: Outcome, schema: FeatureSchema) -> str:
    """Say in one sentence, without its full stop, what a reason does to the outcome."""
    subject, number = _subject(reason, schema), _amount(abs(reason.effect), outcome)
    what = outcome_in_words(outcome)
    if outcome.kind == "survival":
        verb = "lengthens" if reason.effect > 0 else "shortens"
    else:
        verb = "raises" if reason.effect > 0 else "lowers"
    return f"{subject} {verb} {what} by {number}"


def main_reasons(
    explanation: Explanation, schema: FeatureSchema, most: int = MAIN_REASONS
) -> tuple[str, ...]:
    """Write the main reasons as sentences, largest effect first.

    Effects below half a percent of the prediction are left out.
    """
    size = max(abs(explanation.prediction), abs(explanation.baseline))
    return tuple(
        sentence(reason, explanation.outcome, schema)
        for reason in explanation.main(most)
        if abs(reason.effect) >= _LEAST * size
    )


def in_words(explanation: Explanation, schema: FeatureSchema) -> str:
    """Write a paragraph: the prediction, the reference's, and the main reasons."""
    outcome = explanation.outcome
    value = _level(explanation.prediction, outcome)
    reference = _level(explanation.baseline, outcome)
    opening = (
        f"The model predicts {value} as {outcome_in_words(outcome)}, against {reference} for the "
        "study's reference patient."
    )
    reasons = main_reasons(explanation, schema)
    if not reasons:
        return f"{opening} No single reason stands out."
    return " ".join([opening, *(f"{reason}." for reason in reasons)])


def label(name: str, unit: str = "") -> str:
    """Write a study's name as words: 'weight_kg' in kg is 'weight', 'cyp2c9' is 'CYP2C9'."""
    if name.isupper():
        return name
    bare = name.removesuffix(f"_{unit.lower()}") if unit else name
    words = bare.split("_")
    return " ".join(word.upper() if _GENE.fullmatch(word) else word for word in words)


def outcome_in_words(outcome: Outcome) -> str:
    """Name the number that is explained: 'the dose', 'the probability of toxicity'."""
    if outcome.kind == "binary":
        return f"the probability of {label(outcome.name)}"
    if outcome.kind == "survival":
        return f"the time without {label(outcome.name)}"
    if outcome.kind == "panel":
        return f"the response to {outcome.name}"
    if outcome.kind == "forecast":
        return f"{label(outcome.name, outcome.unit)} in {outcome.horizon}"
    per_unit = outcome.unit.replace("/", "_per_")
    return f"the {label(outcome.name, per_unit)}"


def reason_in_words(reason: Reason, schema: FeatureSchema) -> str:
    """Name a reason with the patient's value, as a figure's label: 'CYP2C9 *3/*3'."""
    return _subject(reason, schema)


def _subject(reason: Reason, schema: FeatureSchema) -> str:
    if reason.kind == "block":
        return f"the {label(reason.name)} of all genes"
    if reason.kind == "missing_block":
        return f"{label(reason.name)} {'not measured' if reason.value == UNKNOWN else 'measured'}"
    if reason.kind == "gene":
        return f"{reason.name} {label(reason.block)} of {reason.value}"
    return _measured(reason, schema)


def _measured(reason: Reason, schema: FeatureSchema) -> str:
    """A feature, marker or treatment with its value."""
    if reason.kind == "responses":
        return "the known responses to other drugs"
    at = "" if reason.time is None else f" at {reason.time:g} {_time_unit(schema)}"
    if reason.kind in ("marker", "treatment"):
        name = label(reason.name, reason.value.partition(" ")[2])
        return f"{name}{at}" if reason.value == "yes" else f"{name} {reason.value}{at}"
    feature = _feature(schema, reason.name)
    unit = feature.unit if isinstance(feature, NumberFeature) else ""
    name = label(reason.name, unit)
    if reason.value == "yes":
        return name
    return f"no {name}" if reason.value == "no" else f"{name} {reason.value}"


def _feature(schema: FeatureSchema, name: str) -> Feature | None:
    return next((feature for feature in schema.features if feature.name == name), None)


def _time_unit(schema: FeatureSchema) -> str:
    return "" if schema.visits is None else f"{schema.visits.time_unit}s"


def _amount(size: float, outcome: Outcome) -> str:
    if outcome.kind == "binary":
        return f"{_rounded(100 * size)} percentage points"
    unit = (
        outcome.unit if size == 1 or outcome.kind != "survival" else f"{outcome.unit.rstrip('s')}s"
    )
    return f"{_rounded(size)} {unit}".strip()


def _level(value: float, outcome: Outcome) -> str:
    if outcome.kind == "binary":
        return f"{_rounded(100 * value)} %"
    return f"{_rounded(value)} {outcome.unit}".strip()


def _rounded(value: float) -> str:
    """Two digits, and whole numbers from 10 on: 9.2, 0.13, 34, 120."""
    return f"{value:.0f}" if abs(value) >= 10 else f"{float(f'{value:.2g}'):g}"


def bullet_list(sentences: Sequence[str]) -> str:
    """Join sentences as a list of Markdown, for a card."""
    return "\n".join(f"- {text[:1].upper()}{text[1:]}." for text in sentences)
