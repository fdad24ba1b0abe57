"""A hospital's record for the warfarin study: one patient's FHIR resources, and their mapping."""

from typing import Any

MAPPING = """
[table]
patient = "patient"

[columns.patient]
person = "id"
[columns.years]
person = "age"
[columns.sex]
person = "sex"
[columns.height]
measurement = ["loinc:8302-2"]
unit = "cm"
[columns.weight]
measurement = ["loinc:29463-7"]
unit = "kg"
[columns.vkorc1]
measurement = ["loinc:50722-8"]
[columns.cyp2c9]
measurement = ["loinc:46724-1"]
[columns.race]
measurement = ["loinc:32624-9"]
[columns.asian_population]
measurement = ["urn:hospital:ancestry|asian"]
[columns.amiodarone]
drug = ["amiodarone"]
[columns.enzyme_inducer]
drug = ["carbamazepine", "phenytoin", "rxnorm:9384"]
[columns.smoker]
condition = ["snomed:77176002"]
[columns.valve]
condition = ["snomed:161666008"]
[columns.thrombosis]
condition = ["snomed:128053003"]

[features.age_decade]
kind = "number"
column = "years"
unit = "year"
[features.height_cm]
kind = "number"
column = "height"
unit = "cm"
[features.weight_kg]
kind = "number"
column = "weight"
unit = "kg"
[features.vkorc1]
kind = "category"
column = "vkorc1"
[features.cyp2c9]
kind = "category"
column = "cyp2c9"
[features.race]
kind = "category"
column = "race"
[features.asian_population]
kind = "category"
column = "asian_population"
[features.gender]
kind = "category"
column = "sex"
[features.amiodarone]
kind = "flag"
any_of = ["amiodarone"]
[features.enzyme_inducer]
kind = "flag"
any_of = ["enzyme_inducer"]
[features.smoker]
kind = "flag"
any_of = ["smoker"]
[features.valve_replacement]
kind = "flag"
any_of = ["valve"]
[features.thromboembolism]
kind = "flag"
any_of = ["thrombosis"]
"""
LOINC, RXNORM = "http://loinc.org", "http://www.nlm.nih.gov/research/umls/rxnorm"
ON = "2026-03-01T08:00:00Z"


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
