"""A hospital's record for the warfarin study: one patient's FHIR resources, and their mapping."""

from pathlib import Path
from typing import Any

MAPPING = (Path(__file__).parents[2] / "examples" / "warfarin" / "record.toml").read_text()
LOINC, RXNORM = "http://loinc.org", "http://www.nlm.nih.gov/research/umls/rxnorm"
ON = "2026-03-01T08:00:00Z"
PATIENT = {
    "patient": "p1",
    "features": {
        "age_decade": 6,
        "height_cm": {"value": 66, "unit": "in"},
        "weight_kg": 80,
        "vkorc1": "A/G",
        "cyp2c9": "*3/*1",
        "race": "White",
        "asian_population": None,
        "gender": "female",
        "enzyme_inducer": False,
        "amiodarone": False,
        "smoker": None,
        "valve_replacement": False,
        "thromboembolism": False,
    },
}


def person(patient: str = "p1", **changes: Any) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": patient,
        "gender": "female",
        "birthDate": "1961-02-03",
        "name": [{"family": "Zquortmann", "given": ["Ottilie"]}],
        **changes,
    }


def observation(number: str, code: str, patient: str = "p1", **value: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": number,
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": code}]},
        "subject": {"reference": f"Patient/{patient}"},
        "effectiveDateTime": ON,
        **value,
    }


def quantity(value: float, unit: str) -> dict[str, Any]:
    return {
        "valueQuantity": {
            "value": value,
            "unit": unit,
            "system": "http://unitsofmeasure.org",
            "code": unit,
        }
    }


def coded(code: str) -> dict[str, Any]:
    return {"valueCodeableConcept": {"coding": [{"system": "urn:hospital:results", "code": code}]}}


def order(code: str, patient: str = "p1", status: str = "active") -> dict[str, Any]:
    return {
        "resourceType": "MedicationRequest",
        "id": f"m{code}",
        "status": status,
        "intent": "order",
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": code}]},
        "subject": {"reference": f"Patient/{patient}"},
        "authoredOn": ON,
    }


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "entry": [{"resource": one} for one in resources],
    }


def measurements(patient: str = "p1", weight: float = 80.0) -> list[dict[str, Any]]:
    return [
        observation("o1", "8302-2", patient, **quantity(170, "cm")),
        observation("o2", "29463-7", patient, **quantity(weight, "kg")),
        observation("o3", "50722-8", patient, **coded("A/G")),
        observation("o4", "46724-1", patient, **coded("*1/*3")),
        observation("o5", "32624-9", patient, **coded("White")),
    ]
