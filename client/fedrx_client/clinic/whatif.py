"""What if: the same patient under other values, doses or regimens, beside the patient as he is.

Two predictions by one model, and whether the data can carry the second. Where they cannot, the
answer is a refusal that names the distance. The difference is what a model learned from treatments
as they were given; that is said with each answer.
"""

import copy
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrx_client.clinic.patient_file import read_patients, write_patient
from fedrx_client.clinic.predict import PatientPrediction, describe, predict
from fedrx_common.errors import MisuseError
from fedrx_common.text import quoted
from fedrx_models.calibration.support import LocalSupport, Support, public_support
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import forecast_target
from fedrx_models.files import ModelFile
from fedrx_models.twin.inr import SOURCE, TwinForecast, has_twin, twin_forecast
from fedrx_protocol.study.schema import FeatureSchema

LEARNED = (
    "The difference is what the model learned from treatments as they were given, not the effect "
    "seen in a trial."
)
_TOLERANCE = 1e-6  # of times


class NoOverlap(MisuseError):
    """The data cannot support an answer: nobody like the patient was seen with what is asked."""


@dataclass(frozen=True)
class Setting:
    """Another value of a feature.

    Attributes:
        name: the feature's.
        value: as a patient file has it.
    """

    name: str
    value: float | str | bool | None


@dataclass(frozen=True)
class Dose:
    """Another amount of a treatment.

    Attributes:
        treatment: its name.
        amount: in the study's unit; 0 or 1 for one that is given or not.
        since: time from which it is given, in the study's unit, as in the patient's visits; None
            for the last visit.
    """

    treatment: str
    amount: float
    since: float | None = None


@dataclass(frozen=True, eq=False)
class WhatIf:
    """The same patient twice.

    Attributes:
        asked: what is changed, in words.
        now: the prediction as it is.
        then: with what is asked.
        support: how far what is asked lies from what is known.
        twins: a published model's answers to the same, where there is one.
        no_twin: why it has none, of a study that has one; empty otherwise.
        visits: the patient as `patient.json` has it, up to the visit that is asked about.
    """

    asked: tuple[str, ...]
    now: PatientPrediction
    then: PatientPrediction
    support: Support
    twins: tuple[TwinForecast, TwinForecast] | None
    no_twin: str
    visits: tuple[dict[str, Any], ...]

    def to_json(self, model: ModelFile) -> dict[str, Any]:
        """Describe it as a JSON object, with the model's card."""
        told = self.support
        return {
            "patient": self.now.patient,
            "asked": list(self.asked),
            "now": self.now.to_json(model),
            "then": self.then.to_json(model),
            "support": {
                "measure": told.measure,
                "distance": told.distance,
                "chance": told.chance,
                "sentence": told.sentence,
            },
            "twin": None if self.twins is None else _twins_json(*self.twins),
            "no_twin": self.no_twin,
            "learned": LEARNED,
            "model": describe(model),
        }


def _twins_json(now: TwinForecast, then: TwinForecast) -> dict[str, Any]:
    arms = {
        name: [
            {"of": "inr", "at": at, "value": float(value), "low": float(low), "high": float(high)}
            for at, value, low, high in zip(one.at, one.value, one.low, one.high, strict=True)
        ]
        for name, one in (("now", now), ("then", then))
    }
    return {"source": SOURCE, "level": now.level, **arms, "notes": list(now.notes)}


def read_setting(text: str, schema: FeatureSchema) -> Setting:
    """Read `NAME=VALUE`, as a command line has it.

    Raises:
        MisuseError: it is not of that form, or names no feature of the study.
    """
    name, equals, value = text.partition("=")
    known = [one.name for one in schema.features]
    if not equals or not value:
        raise MisuseError(f"--set {quoted(text)}: give NAME=VALUE, as age=70.")
    if name not in known:
        doses = " A treatment is asked by --dose." if _is_treatment(name, schema) else ""
        raise MisuseError(
            f"--set {quoted(text)}: the study has no feature {quoted(name)}, only: "
            f"{', '.join(known) or 'none'}.{doses}"
        )
    return Setting(name, _value(value))


def _is_treatment(name: str, schema: FeatureSchema) -> bool:
    return name in {one.name for one in schema.treatments}


def _value(text: str) -> float | str | bool | None:
    words: dict[str, bool | None] = {"yes": True, "true": True, "no": False, "false": False}
    words |= {"null": None, "unknown": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def read_dose(text: str, schema: FeatureSchema) -> Dose:
    """Read `TREATMENT=AMOUNT` or `TREATMENT=AMOUNT@TIME`.

    Raises:
        MisuseError: it is not of that form, or names no treatment of the study.
    """
    name, equals, rest = text.partition("=")
    given, at, since = rest.partition("@")
    kinds = {one.name: one.kind for one in schema.treatments}
    amount = _value(given) if given else None
    time = _value(since) if at else 0.0
    sound = isinstance(amount, bool) or (isinstance(amount, float) and amount >= 0)
    if not equals or not sound or isinstance(time, bool) or not isinstance(time, float):
        raise MisuseError(
            f"--dose {quoted(text)}: give TREATMENT=AMOUNT, or TREATMENT=AMOUNT@TIME with the time "
            "of a visit."
        )
    if name not in kinds:
        raise MisuseError(
            f"--dose {quoted(text)}: the study has no treatment {quoted(name)}, only: "
            f"{', '.join(kinds) or 'none'}."
        )
    if kinds[name] == "flag" and amount not in {0, 1}:
        raise MisuseError(f"--dose {quoted(text)}: {quoted(name)} is given or not: yes or no.")
    return Dose(name, float(amount or 0), time if at else None)


def what_if(
    model: ModelFile,
    patient: Cohort,
    settings: Sequence[Setting],
    doses: Sequence[Dose],
    known: Cohort | None = None,
) -> WhatIf:
    """Predict for a patient as he is, and with other values or doses.

    Args:
        model: a model of the study that the patient was read for.
        patient: a cohort of one.
        settings: other values of features.
        doses: other treatments, all from one time on.
        known: a site's own patients, against whom the question is held; one with the patient's
            id is left out. Without them only the study's public reference says what can be asked.

    Raises:
        NoOverlap: the data cannot support an answer.
        ModelUnusable: the model is withdrawn or expired.
        DataError: a value cannot be used.
        MisuseError: nothing or not one patient was given, or a time fits no visit.
    """
    schema = model.model.schema
    if len(patient) != 1:
        raise MisuseError(f"a what-if is about one patient, but {len(patient)} were given.")
    if not settings and not doses:
        raise MisuseError("nothing is asked: give --set NAME=VALUE or --dose TREATMENT=AMOUNT.")
    asked = [one.name for one in settings] + [one.treatment for one in doses]
    _refuse_repeated(asked)
    before = write_patient(patient, 0)
    if doses:
        _begin(before, doses, schema)
    after = copy.deepcopy(before)
    after["features"].update({one.name: one.value for one in settings})
    kinds = {one.name: one.kind for one in schema.treatments}
    for one in doses:
        flag = kinds[one.treatment] == "flag"
        after["visits"][-1][one.treatment] = bool(one.amount) if flag else one.amount
    now, then = (
        read_patients(document, schema, source=source).cohort
        for document, source in ((before, "the patient"), (after, "what is asked"))
    )
    support = public_support(now, then, 0, asked)
    if support.supported and known is not None:
        others = [one != patient.patients[0] for one in known.patients]
        support = LocalSupport.of(known.select(np.array(others)), asked).judge(then, 0)
    if not support.supported:
        raise NoOverlap(
            f"{', '.join(_words(before, settings, doses, schema))}: the data cannot support an "
            f"answer: {support.sentence}; ask for less of a change."
        )
    predictions = [predict(model, one)[0] for one in (now, then)]
    twins, no_twin = None, ""
    if has_twin(schema):
        try:
            twins = twin_forecast(now, 0), twin_forecast(then, 0)
        except MisuseError as error:  # the learned model answers all the same
            no_twin = str(error)
    return WhatIf(
        asked=_words(before, settings, doses, schema),
        now=predictions[0],
        then=predictions[1],
        support=support,
        twins=twins,
        no_twin=no_twin,
        visits=tuple(before.get("visits", ())),
    )


def _refuse_repeated(names: Collection[str]) -> None:
    for name in names:
        if sum(one == name for one in names) > 1:
            raise MisuseError(f"'{name}' is asked twice; ask for one value.")


def _begin(document: dict[str, Any], doses: Sequence[Dose], schema: FeatureSchema) -> None:
    """End the patient's course at the visit from which something else is given.

    A later time becomes a visit of its own, at which nothing is measured.
    """
    times = {one.since for one in doses}
    if len(times) > 1:
        raise MisuseError("all doses of a what-if begin at one time; give each the same @TIME.")
    since = times.pop()
    visits = document["visits"]
    last = visits[-1]
    if since is None:
        return
    farthest = last["time"] + forecast_target(schema).horizons[-1].at
    if since > last["time"] + _TOLERANCE:
        if since > farthest:
            raise MisuseError(
                f"@{since:g} is too far ahead: the last visit is at {last['time']:g}, and the "
                f"study forecasts up to {farthest:g}."
            )
        drugs = {one.name for one in schema.treatments}
        goes_on = {name: value for name, value in last.items() if name in drugs}
        visits.append({"time": since, "episode": last["episode"], **goes_on})
        return
    here = [
        place
        for place, visit in enumerate(visits)
        if visit["episode"] == last["episode"] and abs(visit["time"] - since) <= _TOLERANCE
    ]
    if not here:
        raise MisuseError(
            f"@{since:g} is the time of no visit of the latest episode; give one of: "
            + ", ".join(f"{v['time']:g}" for v in visits if v["episode"] == last["episode"])
            + "."
        )
    del visits[here[0] + 1 :]


def _words(
    before: dict[str, Any],
    settings: Sequence[Setting],
    doses: Sequence[Dose],
    schema: FeatureSchema,
) -> tuple[str, ...]:
    """Say what is changed, from what to what."""
    measured = [one for one in (*schema.features, *schema.treatments) if hasattr(one, "unit")]
    units = {one.name: f" {one.unit}" for one in measured if one.unit}
    found = []
    for one in settings:
        usual, unit = _told(before["features"][one.name]), units.get(one.name, "")
        found.append(f"{one.name} {_told(one.value)}{unit} instead of {usual}")
    for dose in doses:
        visit = before["visits"][-1]
        unit = units.get(dose.treatment, "")
        amount: float | bool = dose.amount if unit else bool(dose.amount)
        usual = _told(visit.get(dose.treatment, 0.0 if unit else False))
        found.append(
            f"{dose.treatment} {_told(amount)}{unit} instead of {usual} from {visit['time']:g} on"
        )
    return tuple(found)


def _told(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "unknown" if value is None else str(value)
