"""Writes records as FHIR R4: the way back, and the FHIR source of patients made for a test."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedrx_client.data.harmonise.codes.value_sets import addresses_of
from fedrx_client.data.readers.records import Event, Person, Records, When

UCUM = "http://unitsofmeasure.org"


def resources(records: Records) -> list[dict[str, Any]]:
    """Persons first, then events, each with an id of its own."""
    persons = [_patient(one) for one in records.persons.values()]
    return persons + [_event(n, one) for n, one in enumerate(records.events)]


def bundle(records: Records) -> str:
    """A collection whose numbers have the digits of the records."""
    entries = [
        {"fullUrl": f"http://export.test/{one['resourceType']}/{one['id']}", "resource": one}
        for one in resources(records)
    ]
    return _json({"resourceType": "Bundle", "type": "collection", "entry": entries})


def write_ndjson(records: Records, folder: Path) -> None:
    """A bulk export: a file for each type, a line for each resource."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for one in resources(records):
        lines.setdefault(one["resourceType"], []).append(_json(one))
    for kind, text in lines.items():
        (folder / f"{kind}.ndjson").write_text("\n".join(text) + "\n", encoding="utf-8")


class _Number(float):
    """A number that is written as its text."""

    def __new__(cls, text: str) -> "_Number":
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __repr__(self) -> str:
        return self.text


def _json(value: object) -> str:
    """JSON with each number as the records have it: json asks floats for their repr."""
    return "".join(_pieces(value))


def _pieces(value: object) -> Iterable[str]:
    if isinstance(value, dict):
        inner = (f"{json.dumps(k)}: {_json(v)}" for k, v in value.items() if v is not None)
        yield "{" + ", ".join(inner) + "}"
    elif isinstance(value, list):
        yield "[" + ", ".join(map(_json, value)) + "]"
    else:
        yield repr(value) if isinstance(value, _Number) else json.dumps(value)


def _patient(one: Person) -> dict[str, Any]:
    death = {"deceasedDateTime": _date(one.death)} if one.death else {"deceasedBoolean": one.died}
    return {
        "resourceType": "Patient",
        "id": one.patient,
        "gender": one.sex or None,
        "birthDate": _date(one.birth),
        **death,
    }


def _event(number: int, one: Event) -> dict[str, Any]:
    concept = {"coding": [{"system": addresses_of(c.system)[0], "code": c.code} for c in one.codes]}
    base = {"id": f"e{number}", "subject": {"reference": f"Patient/{one.patient}"}}
    if one.kind == "condition":
        onset, abatement = _date(one.start), _date(one.end)
        times = {"onsetDateTime": onset, "abatementDateTime": abatement}
        return {"resourceType": "Condition", **base, "code": concept, **times}
    effective: dict[str, Any] = {"effectivePeriod": {"start": _date(one.start)}}
    if one.start == one.end:
        effective = {"effectiveDateTime": _date(one.start)}
    elif one.end is not None:
        effective["effectivePeriod"]["end"] = _date(one.end)
    if one.kind == "measurement":
        return {
            "resourceType": "Observation",
            **base,
            "status": "final",
            "code": concept,
            **effective,
            **_value(one),
        }
    drug = {"medicationCodeableConcept": concept, **effective}
    given = one.start is not None and one.start == one.end and not one.unit.endswith("/d")
    if given:
        dose = {"dosage": {"dose": _quantity(one)}} if one.value else {}
        kind = "MedicationAdministration"
        return {"resourceType": kind, **base, "status": "completed", **drug, **dose}
    dosage: dict[str, Any] = {}
    if one.value:
        dosage["doseAndRate"] = [{"doseQuantity": _quantity(one)}]
        if one.unit.endswith("/d"):
            dosage["timing"] = {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}}
    doses = {"dosage": [dosage]} if dosage else {}
    kind = "MedicationStatement"
    return {"resourceType": kind, **base, "status": "active", **drug, **doses}


def _quantity(one: Event) -> dict[str, Any]:
    text = one.value.lstrip("<>=")
    unit = one.unit.removesuffix("/d") if one.kind == "drug" else one.unit
    return {
        "value": _Number(text),
        "comparator": one.value[: len(one.value) - len(text)] or None,
        **({"unit": unit, "system": UCUM, "code": unit} if unit else {}),
    }


def _value(one: Event) -> dict[str, Any]:
    try:
        float(one.value.lstrip("<>="))
    except ValueError:
        return {"valueCodeableConcept": {"coding": [{"code": one.value}]}}
    return {"valueQuantity": _quantity(one)} if one.unit else {"valueCodeableConcept": _code(one)}


def _code(one: Event) -> dict[str, Any]:
    return {"coding": [{"code": one.value}]}


def _date(when: When | None) -> str | None:
    if when is None:
        return None
    text = when.moment.isoformat()
    return {"year": text[:4], "month": text[:7], "day": text[:10], "time": text}[when.precision]
