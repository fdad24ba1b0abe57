"""The form of "what if": a patient's values as fields, and changed fields as the same patient."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedrx_client.clinic.patient_file import read_patients, write_patient
from fedrx_common.errors import DataError
from fedrx_common.text import quoted
from fedrx_models.calibration.support import public_support
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.explain.words import label
from fedrx_protocol.study.schema import CategoryFeature, Feature, NumberFeature, Treatment

UNKNOWN = ""
"""What a field says where nothing is known."""
_YES, _NO = "yes", "no"
_FLAG = ((_YES, "yes"), (_NO, "no"))
_NOT_KNOWN = (UNKNOWN, "not known")
_LONGEST_VALUE = 300


@dataclass(frozen=True)
class NumberField:
    """A number, moved by a slider.

    Attributes:
        key: name in the form.
        name: for a person.
        unit: its unit.
        value: as text; empty where it is not known.
        minimum: of the study's range.
        maximum: likewise.
        step: of the slider.
        resting: where the slider is while nothing is known.
    """

    key: str
    name: str
    unit: str
    value: str
    minimum: float
    maximum: float
    step: float
    resting: float


@dataclass(frozen=True)
class ChoiceField:
    """One of a few values.

    Attributes:
        key: name in the form.
        name: for a person.
        value: the one that is chosen.
        choices: pairs of a value and what a person reads.
        flag: whether the values are yes and no.
    """

    key: str
    name: str
    value: str
    choices: tuple[tuple[str, str], ...]
    flag: bool = False


Field = NumberField | ChoiceField


def fields(cohort: Cohort, given: Mapping[str, str] | None = None) -> tuple[Field, ...]:
    """List what can be changed of a cohort of one: features, and what is given at the last visit.

    Args:
        cohort: the patient.
        given: values of a form that was sent; they are shown instead.
    """
    schema, document = cohort.schema, write_patient(cohort, 0)
    sent = given or {}
    own = [_feature(one, document["features"][one.name], sent) for one in schema.features]
    if schema.visits is None:
        return tuple(own)
    last = document["visits"][-1]
    return (*own, *(_treatment(one, last.get(one.name), sent) for one in schema.treatments))


def _feature(one: Feature, value: Any, given: Mapping[str, str]) -> Field:  # noqa: ANN401
    key = f"feature.{one.name}"
    if isinstance(one, NumberFeature):
        text = given.get(key, _text(value))
        name, step = label(one.name, one.unit), _step(one.minimum, one.maximum)
        low, high = one.minimum, one.maximum
        return NumberField(key, name, one.unit, text, low, high, step, one.mean)
    if isinstance(one, CategoryFeature):
        choices, flag, unknown = tuple((text, text) for text in one.values), False, True
    else:
        choices, flag, unknown = _FLAG, True, one.optional
    if unknown:
        choices += (_NOT_KNOWN,)
    return ChoiceField(key, label(one.name), given.get(key, _text(value)), choices, flag)


def _treatment(one: Treatment, value: Any, given: Mapping[str, str]) -> Field:  # noqa: ANN401
    key, text = f"treatment.{one.name}", f"{label(one.name, one.unit)}, from the last visit on"
    told = given.get(key, _text(value))
    if one.kind == "flag":
        return ChoiceField(key, text, told, (*_FLAG, _NOT_KNOWN), flag=True)
    step = _step(0.0, one.maximum)
    return NumberField(key, text, one.unit, told, 0.0, one.maximum, step, 0.0)


def changed(cohort: Cohort, given: Mapping[str, str]) -> tuple[Cohort, tuple[str, ...]]:
    """Make the same patient with the values of a form.

    Returns:
        The patient, and what is different, in words.

    Raises:
        DataError: a value cannot be used or is outside the study's range, or the study's public
            reference supports no answer, as `fedrx whatif` refuses it too.
    """
    before, after = fields(cohort), fields(cohort, given)
    if strange := sorted(given.keys() - {one.key for one in before}):
        raise DataError(f"{quoted(strange[0])} is no field of this form; load the page again.")
    document = copy.deepcopy(write_patient(cohort, 0))
    told, names = [], []
    for old, new in zip(before, after, strict=True):
        if new.value == old.value:
            continue
        unit = f" {new.unit}" if isinstance(new, NumberField) else ""
        group, _, name = new.key.partition(".")
        part = document["features"] if group == "feature" else document["visits"][-1]
        part[name] = _value(new)
        names.append(name)
        told.append(
            f"{new.name} {new.value + unit if new.value else 'not known'} instead of "
            f"{old.value or 'not known'}"
        )
    found = read_patients(document, cohort.schema, source="what is asked", site=cohort.site)
    support = public_support(cohort, found.cohort, 0, names)
    if told and not support.supported:
        raise DataError(
            f"the data cannot support an answer: {support.sentence}; ask for less of a change."
        )
    return found.cohort, tuple(told)


def _value(field: Field) -> float | str | bool | None:
    text = field.value.strip()
    if len(text) > _LONGEST_VALUE:
        raise DataError(f"{field.name}: the value is too long.")
    if text == UNKNOWN:
        return None
    if isinstance(field, ChoiceField):
        if text not in {value for value, _ in field.choices}:
            raise DataError(f"{field.name}: {quoted(text)} is not one of the values.")
        flags = {_YES: True, _NO: False}
        return flags[text] if field.flag else text
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{field.name}: {quoted(text)} is not a number; give one, as 7.5.")
    if not field.minimum <= number <= field.maximum:
        raise DataError(
            f"{field.name}: {number:g} {field.unit} is outside the study's range, "
            f"{field.minimum:g} to {field.maximum:g} {field.unit}; the model "
            "never saw such a value."
        )
    return number


def _text(value: Any) -> str:  # noqa: ANN401 - a number, a word, yes or no, or None
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return _YES if value else _NO
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _step(low: float, high: float) -> float:
    """Choose a slider's step: a round number, about a hundredth of the range."""
    raw = (high - low) / 100 or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * m for m in (5, 2, 1) if power * m <= raw * (1 + 1e-9))
