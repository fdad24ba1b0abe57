"""Checks a FHIR resource by the models of `fhir.resources` R4B, and reads the parts of one.

Only the elements of `_READ` are looked at, and the models see nothing else: a name, an address, a
note, a narrative or a display text cannot get any further, not even into an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from os.path import commonprefix
from types import MappingProxyType
from typing import Any

from fhir.resources.R4B.condition import Condition
from fhir.resources.R4B.medication import Medication
from fhir.resources.R4B.medicationadministration import MedicationAdministration
from fhir.resources.R4B.medicationrequest import MedicationRequest
from fhir.resources.R4B.medicationstatement import MedicationStatement
from fhir.resources.R4B.observation import Observation
from fhir.resources.R4B.patient import Patient
from pydantic import BaseModel, ValidationError

from fedrx_client.data.harmonise.codes.value_sets import short_system
from fedrx_client.data.readers.records import Code, Precision, When
from fedrx_common.errors import DataError

Json = dict[str, Any]

_CONCEPT: Json = {"coding": {"system": {}, "code": {}}}
_REFERENCE: Json = {"reference": {}}
_PERIOD: Json = {"start": {}, "end": {}}
_QUANTITY: Json = {"value": {}, "comparator": {}, "unit": {}, "system": {}, "code": {}}
_VALUES = {
    "valueQuantity": _QUANTITY,
    "valueInteger": {},
    "valueBoolean": {},
    "valueCodeableConcept": _CONCEPT,
    "dataAbsentReason": _CONCEPT,
}
_DOSAGE = {
    "asNeededBoolean": {},
    "timing": {
        "repeat": {"boundsPeriod": _PERIOD, "frequency": {}, "period": {}, "periodUnit": {}},
        "code": _CONCEPT,
    },
    "doseAndRate": {"doseQuantity": _QUANTITY},
}
_DRUG = {
    "status": {},
    "medicationCodeableConcept": _CONCEPT,
    "medicationReference": _REFERENCE,
    "subject": _REFERENCE,
}
_EFFECTIVE = {"effectiveDateTime": {}, "effectivePeriod": _PERIOD}
# By type, the elements that are read; lists and single elements alike.
_READ: Mapping[str, Json] = MappingProxyType(
    {
        "Patient": {"gender": {}, "birthDate": {}, "deceasedBoolean": {}, "deceasedDateTime": {}},
        "Observation": {
            "status": {},
            "code": _CONCEPT,
            "subject": _REFERENCE,
            **_EFFECTIVE,
            "effectiveInstant": {},
            **_VALUES,
            "component": {"code": _CONCEPT, **_VALUES},
        },
        "Medication": {"code": _CONCEPT},
        "MedicationAdministration": {
            **_DRUG,
            **_EFFECTIVE,
            "dosage": {"dose": _QUANTITY, "rateQuantity": _QUANTITY},
        },
        "MedicationStatement": {**_DRUG, **_EFFECTIVE, "dosage": _DOSAGE},
        "MedicationRequest": {
            **_DRUG,
            "intent": {},
            "doNotPerform": {},
            "authoredOn": {},
            "dosageInstruction": _DOSAGE,
            "dispenseRequest": {"expectedSupplyDuration": _QUANTITY},
        },
        "Condition": {
            "verificationStatus": _CONCEPT,
            "code": _CONCEPT,
            "subject": _REFERENCE,
            "onsetDateTime": {},
            "onsetPeriod": _PERIOD,
            "abatementDateTime": {},
            "abatementPeriod": _PERIOD,
            "recordedDate": {},
        },
    }
)
TYPES = frozenset(_READ)
"""Types of resources that are read; every other one is passed over."""

_MODELS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "Patient": Patient,
        "Observation": Observation,
        "Medication": Medication,
        "MedicationAdministration": MedicationAdministration,
        "MedicationStatement": MedicationStatement,
        "MedicationRequest": MedicationRequest,
        "Condition": Condition,
    }
)
_COMPARATORS = frozenset({"<", "<=", ">", ">="})
_UCUM = "http://unitsofmeasure.org"
_DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(T\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)|-(\d\d))?)?"
)
_NAMES = re.compile(r"'(\w+)'")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


class Passed(Exception):
    """A resource that is well formed and tells nothing; its text continues "3 records not read"."""


@dataclass(frozen=True)
class Resource:
    """A resource as it came, and where.

    Attributes:
        source: the file or server, for errors.
        place: the entry or line, with the type in brackets.
        kind: its type, one of `TYPES`.
        content: its JSON.
    """

    source: str
    place: str
    kind: str
    content: Json

    def refused(self, element: str, why: str) -> DataError:
        """Make the error that names an element, never its value."""
        return DataError(f"{self.source}, {self.place}, field '{element}': {why}.")

    def checked(self) -> Any:  # noqa: ANN401 - of the model of its kind
        """Return its model, of the elements that are read.

        Raises:
            DataError: naming the element, if it is not as FHIR R4 says.
            Passed: an extension changes what it says.
        """
        if "modifierExtension" in self.content or "implicitRules" in self.content:
            raise Passed(f"a modifier changes what the {self.kind} says")
        pruned = _prune(self.content, _READ[self.kind])
        try:
            return _MODELS[self.kind].model_validate({"resourceType": self.kind, **pruned})
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        # Raised outside, so that it does not keep the model's error, which holds what it was given.
        element = ".".join(str(part) for part in first["loc"] if part)
        missing = first["type"].endswith("missing")
        why = "is missing" if missing else "is not what FHIR R4 allows there"
        if not element:  # of several elements FHIR wants one: the model names them all
            names = _NAMES.findall(first["msg"])
            element = f"{commonprefix(names) or self.kind}[x]"  # noqa: RUF071 - no paths
            why = "is there twice" if "multiple" in first["msg"] else "is missing"
        raise self.refused(element, f"{why}; correct it in the export")


def _prune(value: Any, read: Json) -> Any:  # noqa: ANN401 - JSON
    """Return what is read of an element; what has another shape is left for the model to refuse."""
    if isinstance(value, dict) and read:
        return {key: _prune(value[key], inner) for key, inner in read.items() if key in value}
    if isinstance(value, list):
        return [_prune(one, read) for one in value]
    # A text in the place of an element could be anything: the model refuses its absence as well.
    return value if not read or not isinstance(value, str) else {"": None}


def id_of(resource: Resource) -> str:
    """Return the resource's own id, "" where it has none.

    Raises:
        DataError: it is not an id.
    """
    found = resource.content.get("id", "")
    if found != "" and not (isinstance(found, str) and _ID.fullmatch(found)):
        raise resource.refused("id", "is not an id of letters, digits, '-' and '.'")
    return str(found)


def codes_of(concept: Any) -> tuple[Code, ...]:  # noqa: ANN401 - of a model, or None
    """Return the codes of a CodeableConcept; words are not read."""
    codings = [] if concept is None else concept.coding or []
    found = (Code(short_system(one.system or ""), one.code.strip()) for one in codings if one.code)
    return tuple(dict.fromkeys(found))


def raw_codes(concept: object) -> tuple[Code, ...]:
    """Return the same of JSON that no model has checked; nothing where it is malformed."""
    codings = concept.get("coding") if isinstance(concept, dict) else None
    found = []
    for one in codings if isinstance(codings, list) else ():
        system, code = (one.get("system"), one.get("code")) if isinstance(one, dict) else (None, 0)
        if isinstance(code, str) and isinstance(system, str | None):
            found.append(Code(short_system(system or ""), code.strip()))
    return tuple(found)


def reference_of(resource: Resource, element: str, reference: Any) -> str:  # noqa: ANN401 - a model
    """Return a reference in one form, `Type/id`, `urn:uuid:...` or `#id`; "" for none."""
    text = "" if reference is None else (reference.reference or "")
    if text.startswith("#"):
        return str(text)
    if text.startswith("urn:"):
        return str(text.lower())
    parts = text.partition("?")[0].rstrip("/").split("/")
    if len(parts) >= 4 and parts[-2] == "_history":
        parts = parts[:-2]
    if not text or len(parts) < 2:
        return ""
    if not _ID.fullmatch(parts[-1]):
        raise resource.refused(f"{element}.reference", "is not a reference such as Patient/17")
    return "/".join(parts[-2:])


def quantity_of(resource: Resource, element: str, quantity: Any) -> tuple[str, str]:  # noqa: ANN401
    """Return a Quantity's value, with its comparator, and unit."""
    if quantity.value is None:
        raise Passed("there is no value")
    comparator = quantity.comparator or ""
    if comparator and comparator not in _COMPARATORS:
        raise resource.refused(f"{element}.comparator", "is none of <, <=, >= and >")
    coded = quantity.code if quantity.system == _UCUM else None
    unit = coded or quantity.unit or quantity.code or ""
    return f"{comparator}{quantity.value}", unit.strip()


def effective_of(resource: Resource, model: Any) -> tuple[When | None, When | None]:  # noqa: ANN401
    """Return when something was measured, given or taken: from and to."""
    for element in ("effectiveDateTime", "effectiveInstant"):
        moment = when_of(resource, element, resource.content.get(element))
        if moment is not None:
            return moment, moment
    if model.effectivePeriod is None:
        return None, None
    return period_of(resource, "effectivePeriod", resource.content["effectivePeriod"])


def period_of(resource: Resource, element: str, raw: Json) -> tuple[When | None, When | None]:
    """Return a Period's start and end."""
    start, end = (when_of(resource, f"{element}.{one}", raw.get(one)) for one in ("start", "end"))
    if start and end and end.moment < start.moment and end.precision == start.precision:
        raise resource.refused(f"{element}.end", "is before its start; correct it in the export")
    return start, end


def when_of(resource: Resource, element: str, raw: object) -> When | None:
    """Read a date of FHIR: to the year, month or day, or a moment with its time zone."""
    if raw is None:
        return None
    match = _DATE.fullmatch(raw) if isinstance(raw, str) else None
    year, month, day, time, fraction, zone, only = match.groups() if match else (None,) * 7
    whole = f"{year}-{month or '01'}-{day or only or '01'}"
    offset = "+00:00" if zone in (None, "Z") else zone
    try:
        moment = datetime.fromisoformat(f"{whole}{time or 'T00:00:00'}{offset}")
        moment += timedelta(microseconds=int((fraction or "0").ljust(6, "0")[:6]))
    except (ValueError, OverflowError):
        why = "is not a date such as 2020-05, 2020-05-17 or 2020-05-17T08:30:00+02:00"
        raise resource.refused(element, f"{why}; correct it in the export") from None
    precision: Precision = "time" if time else "day" if only else "month" if month else "year"
    return When(moment, precision)
