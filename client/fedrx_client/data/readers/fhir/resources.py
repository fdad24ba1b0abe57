"""Turns one FHIR resource into a person or events."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal, DecimalException
from types import MappingProxyType
from typing import Any

from fedrx_client.data.readers.fhir.elements import (
    Json,
    Passed,
    Resource,
    codes_of,
    effective_of,
    period_of,
    quantity_of,
    reference_of,
    when_of,
)
from fedrx_client.data.readers.records import Code, Event, Person, RecordKind, When

KIND_OF: Mapping[str, RecordKind] = MappingProxyType(
    {
        "Observation": "measurement",
        "MedicationAdministration": "drug",
        "MedicationStatement": "drug",
        "MedicationRequest": "drug",
        "Condition": "condition",
    }
)
# By type: the states it may be in, and those in which it tells nothing (hl7.org/fhir/R4).
_STATES: Mapping[str, tuple[frozenset[str], frozenset[str]]] = MappingProxyType(
    {
        name: (frozenset(f"{use} {skip}".split()), frozenset(skip.split()))
        for name, use, skip in (
            (
                "Observation",
                "registered preliminary final amended corrected unknown",
                "cancelled entered-in-error",
            ),
            (
                "MedicationAdministration",
                "in-progress on-hold completed stopped unknown",
                "not-done entered-in-error",
            ),
            (
                "MedicationStatement",
                "active completed stopped on-hold unknown",
                "entered-in-error intended not-taken",
            ),
            (
                "MedicationRequest",
                "active on-hold completed stopped unknown",
                "cancelled entered-in-error draft",
            ),
        )
    }
)
_NOT_ORDERED = frozenset({"proposal", "plan", "option"})
_NOT_SO = frozenset({"refuted", "entered-in-error"})
# Times a day that a repeated dose is given, by the unit of its period; a month is 30.4375 days.
_PERIODS_A_DAY = MappingProxyType(
    {
        "s": Decimal(86_400),
        "min": Decimal(1_440),
        "h": Decimal(24),
        "d": Decimal(1),
        "wk": 1 / Decimal(7),
        "mo": 1 / Decimal("30.4375"),
        "a": 1 / Decimal("365.25"),
    }
)
_TIMES_A_DAY = MappingProxyType({"QD": 1, "AM": 1, "PM": 1, "BID": 2, "TID": 3, "QID": 4})


def person_of(resource: Resource, patient: str) -> Person:
    """Read a Patient.

    Raises:
        DataError: an element is not as FHIR R4 says.
        Passed: it tells nothing.
    """
    model = resource.checked()
    gender = model.gender or ""
    if gender not in ("", "female", "male", "other", "unknown"):
        raise resource.refused("gender", "is none of female, male, other and unknown")
    death = when_of(resource, "deceasedDateTime", resource.content.get("deceasedDateTime"))
    return Person(
        patient,
        resource.place,
        sex="" if gender == "unknown" else gender,
        birth=when_of(resource, "birthDate", resource.content.get("birthDate")),
        death=death,
        died=death is not None or bool(model.deceasedBoolean),
    )


Keep = Callable[[RecordKind, Sequence[Code]], bool]


def events_of(resource: Resource, keep: Keep) -> list[Event]:
    """Read an Observation, a Condition, or what says that a drug is taken.

    Args:
        resource: of a type in `KIND_OF`.
        keep: whether a record with such codes is wanted.

    Returns:
        Its events; as the patient they have the reference to one, as `reference_of` gives it. A
        drug that only a reference names has no codes.

    Raises:
        DataError: an element is not as FHIR R4 says.
        Passed: it tells nothing.
    """
    model = resource.checked()
    if resource.kind in _STATES:
        states, silent = _STATES[resource.kind]
        if model.status not in states:
            allowed = ", ".join(sorted(states))
            raise resource.refused("status", f"is missing, or none of {allowed}")
        if model.status in silent:
            raise Passed(f"the {resource.kind} is {model.status}")
    patient = reference_of(resource, "subject", model.subject)
    if not patient.startswith(("Patient/", "urn:")):
        raise Passed(f"the {resource.kind} is about no patient that has an id")
    if resource.kind == "Observation":
        return _observed(resource, model, patient, keep)
    if resource.kind == "Condition":
        return [_condition(resource, model, patient)]
    return [_drug(resource, model, patient)]


def _observed(resource: Resource, model: Any, patient: str, keep: Keep) -> list[Event]:  # noqa: ANN401
    """Read an Observation and its components, each of which has a code and a value of its own."""
    start, end = effective_of(resource, model)
    content = resource.content
    parts = [("", model, content, resource.place)]
    for n, (one, raw) in enumerate(
        zip(model.component or (), content.get("component") or (), strict=False), 1
    ):
        where = f"{resource.place.removesuffix(')')}, component {n})"
        parts.append((f"component.{n - 1}.", one, raw, where))
    events, reasons = [], []
    for prefix, one, raw, place in parts:
        codes = codes_of(one.code)
        if codes and not keep("measurement", codes):
            continue
        try:
            value, unit = _value(resource, prefix, one, raw)
        except Passed as passed:
            reasons.append(passed)
            continue
        events.append(Event(patient, "measurement", codes, place, value, unit, start, end))
    # A panel has its values in its components; without any the reason is the first part's.
    if not events and reasons:
        raise reasons[-1] if len(reasons) == len(parts) > 1 else reasons[0]
    return events


def _value(resource: Resource, prefix: str, part: Any, raw: Json) -> tuple[str, str]:  # noqa: ANN401
    """Return value and unit of an Observation or one of its components."""
    if not codes_of(part.code):
        raise Passed("the Observation has no code")
    if part.valueQuantity is not None:
        return quantity_of(resource, f"{prefix}valueQuantity", part.valueQuantity)
    if part.valueInteger is not None:
        return str(part.valueInteger), ""
    if part.valueBoolean is not None:
        return str(part.valueBoolean).lower(), ""
    if part.valueCodeableConcept is not None:
        codes = codes_of(part.valueCodeableConcept)
        if not codes:
            raise Passed("the value is in words, without a code")
        return codes[0].code, ""
    if part.dataAbsentReason is not None:
        raise Passed("the value is absent for a reason that the source names")
    kinds = ("String", "Range", "Ratio", "SampledData", "Time", "DateTime", "Period")
    other = next((one for one in kinds if f"value{one}" in raw), None)
    raise Passed(f"the value is a {other}" if other else "there is no value")


def _condition(resource: Resource, model: Any, patient: str) -> Event:  # noqa: ANN401 - Condition
    if any(code.code in _NOT_SO for code in codes_of(model.verificationStatus)):
        raise Passed("the Condition is refuted or entered in error")
    codes = codes_of(model.code)
    if not codes:
        raise Passed("the Condition has no code")
    raw = resource.content
    start = when_of(resource, "onsetDateTime", raw.get("onsetDateTime"))
    if start is None and model.onsetPeriod is not None:
        start, _ = period_of(resource, "onsetPeriod", raw["onsetPeriod"])
    start = start or when_of(resource, "recordedDate", raw.get("recordedDate"))
    end = when_of(resource, "abatementDateTime", raw.get("abatementDateTime"))
    if end is None and model.abatementPeriod is not None:
        _, end = period_of(resource, "abatementPeriod", raw["abatementPeriod"])
    return Event(patient, "condition", codes, resource.place, start=start, end=end)


def _drug(resource: Resource, model: Any, patient: str) -> Event:  # noqa: ANN401 - one of three
    raw, kind = resource.content, resource.kind
    value, unit = "", ""
    if kind == "MedicationAdministration":
        start, end = effective_of(resource, model)
        for name in ("rateQuantity", "dose"):  # of an infusion with a dose, the dose
            quantity = model.dosage and getattr(model.dosage, name)
            if quantity is not None:
                value, unit = _dose(resource, f"dosage.{name}", quantity)
    elif kind == "MedicationStatement":
        start, end = effective_of(resource, model)
        value, unit = _dosages(resource, "dosage", model.dosage or ())
    else:
        if model.intent in _NOT_ORDERED or model.doNotPerform:
            raise Passed("the MedicationRequest is not an order to take the drug")
        start, end = _ordered(resource, model)
        value, unit = _dosages(resource, "dosageInstruction", model.dosageInstruction or ())
    codes = codes_of(model.medicationCodeableConcept)
    if not codes and "medicationReference" not in raw:
        raise Passed(f"the {kind} has no code of a drug")
    return Event(patient, "drug", codes, resource.place, value, unit, start, end)


def _ordered(resource: Resource, model: Any) -> tuple[When | None, When | None]:  # noqa: ANN401
    """Return from when to when an order holds; one that is over, without an end, holds that day."""
    start = when_of(resource, "authoredOn", resource.content.get("authoredOn"))
    raw: Any = next(iter(resource.content.get("dosageInstruction") or ()), {})
    raw = ((raw.get("timing") or {}).get("repeat") or {}).get("boundsPeriod")
    end = None
    if raw is not None:
        begun, end = period_of(resource, "dosageInstruction.0.timing.repeat.boundsPeriod", raw)
        start = begun or start
    supply = model.dispenseRequest and model.dispenseRequest.expectedSupplyDuration
    if end is None and supply is not None and start is not None and supply.value is not None:
        days = supply.value / _PERIODS_A_DAY.get(supply.code or "", Decimal("NaN"))
        if 0 < days < 36_525:
            try:
                end = When(start.moment + timedelta(days=float(days)), start.precision)
            except OverflowError:
                end = None
    return start, end if end is not None or model.status == "active" else start


def _dosages(resource: Resource, element: str, dosages: Sequence[Any]) -> tuple[str, str]:
    """Return the amount a day of all dosages together, or the one amount without a timing."""
    found = []
    for n, one in enumerate(dosages):
        quantity = one.doseAndRate[0].doseQuantity if one.doseAndRate else None
        if quantity is None or one.asNeededBoolean:
            return "", ""
        value, unit = _dose(resource, f"{element}.{n}.doseAndRate.0.doseQuantity", quantity)
        found.append((value, unit, _times_a_day(one.timing)))
    if not all(value and unit for value, unit, _ in found):
        return "", ""
    if len(found) == 1 and found[0][2] in (None, 1):
        value, unit, times = found[0]
        return value, unit if times is None else f"{unit}/d"
    units, rates = {unit for _, unit, _ in found}, [rate for _, _, rate in found if rate]
    if len(units) != 1 or len(rates) != len(found):
        return "", ""
    try:
        total = sum(Decimal(one[0]) * rate for one, rate in zip(found, rates, strict=True))
    except DecimalException:
        return "", ""
    return f"{float(total):.12g}", f"{units.pop()}/d"


def _dose(resource: Resource, element: str, quantity: Any) -> tuple[str, str]:  # noqa: ANN401
    """Return a dose; one without a unit, or with a comparator, is none."""
    if quantity.value is None or quantity.comparator:
        return "", ""
    value, unit = quantity_of(resource, element, quantity)
    return (value, unit) if unit else ("", "")


def _times_a_day(timing: Any) -> Decimal | None:  # noqa: ANN401 - Timing
    """Return how often a day, if the timing says it."""
    if timing is None:
        return None
    repeat = timing.repeat
    if repeat is not None and repeat.period and repeat.periodUnit in _PERIODS_A_DAY:
        period = Decimal(repeat.period)
        return (repeat.frequency or 1) * _PERIODS_A_DAY[repeat.periodUnit] / period
    for code in codes_of(timing.code):
        if code.code in _TIMES_A_DAY:
            return Decimal(_TIMES_A_DAY[code.code])
    return None
