"""The same synthetic patients as CSV, FHIR and OMOP, and the study and mapping for each.

`patients` draws them; `csv_text`, `bundle` and `cdm` write them. Nothing here uses a reader.
"""

import csv
import io
import random
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone

from fedrx_client.data.harmonise.units import conversion
from fedrx_protocol.study.schema import FeatureSchema

ZONE = timezone(timedelta(hours=1))
WARFARIN, TABLET, AMIODARONE, FIBRILLATION = 1310149, 40163554, 1309944, 313217
CREATININE, WEIGHT, CYP2C9, CRP = 3016723, 3025315, 3042605, 3020460
MG, MG_DL, UMOL_L, KG, MG_L = 8576, 8840, 8749, 9529, 2000000001
CREATININE_G_PER_MOL = 113.12  # C4H7N3O
MOLAR = conversion("umol/L", "mg/dL", "creatinine")
SEX = {"male": 8507, "female": 8532}
GENOTYPES = ("*1/*1", "*1/*2", "*1/*3", "*2/*3")


@dataclass(frozen=True)
class Measured:
    """One value: when, how much, in which unit; `at` is None where only the day is known."""

    day: date
    at: datetime | None
    value: str
    unit: str

    @property
    def moment(self) -> datetime:
        return self.at or datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC)


@dataclass(frozen=True)
class Synthetic:
    """One patient, who takes warfarin from `start`."""

    id: str
    sex: str
    birth: date
    start: date
    dose: str
    weight: str
    creatinine: Measured
    amiodarone: date | None
    fibrillation: date | None
    genotype: str | None
    crp: tuple[Measured, ...] = ()
    given: tuple[tuple[datetime, datetime], ...] = field(default=())

    @property
    def age(self) -> int:
        birthday = (self.start.month, self.start.day) >= (self.birth.month, self.birth.day)
        return self.start.year - self.birth.year - (not birthday)


def patients(count: int, seed: int = 0) -> list[Synthetic]:
    """Draw patients; half of the creatinines are in µmol/L, some values are missing."""
    dice = random.Random(seed)
    found = []
    for number in range(1, count + 1):
        start = date(2021, 1, 1) + timedelta(days=dice.randrange(700))
        measured = start - timedelta(days=dice.randrange(1, 20))
        molar = dice.random() < 0.5
        amount = str(dice.randrange(50, 160)) if molar else f"{dice.uniform(0.5, 2.0):.2f}"
        first = datetime(2022, 3, 1, dice.randrange(24), dice.randrange(60), tzinfo=ZONE)
        times = sorted(dice.sample(range(1, 240), dice.randrange(3, 9)))
        moments = [first, *(first + timedelta(hours=hours) for hours in times)]
        crp = tuple(Measured(m.date(), m, f"{dice.uniform(1, 80):.1f}", "mg/L") for m in moments)
        begin = first + timedelta(hours=dice.randrange(0, 60))
        given = ((begin, begin + timedelta(hours=dice.randrange(1, 90))),)
        found.append(
            Synthetic(
                id=str(number),
                sex=dice.choice(("male", "female")),
                birth=date(
                    dice.randrange(1930, 1995), dice.randrange(1, 13), dice.randrange(1, 28)
                ),
                start=start,
                dose=f"{dice.randrange(10, 100) / 10:g}",
                weight=f"{dice.uniform(45, 120):.1f}",
                creatinine=Measured(measured, None, amount, "umol/L" if molar else "mg/dL"),
                amiodarone=start - timedelta(days=5) if dice.random() < 0.3 else None,
                fibrillation=start - timedelta(days=90) if dice.random() < 0.6 else None,
                genotype=dice.choice(GENOTYPES) if dice.random() < 0.9 else None,
                crp=crp,
                given=given if dice.random() < 0.7 else (),
            )
        )
    return found


DOSE_SCHEMA = FeatureSchema.model_validate(
    {
        "features": [
            {"name": "age", "kind": "number", "unit": "year", "minimum": 18, "maximum": 110,
             "mean": 60, "scale": 15},
            {"name": "female", "kind": "flag"},
            {"name": "weight", "kind": "number", "unit": "kg", "minimum": 30, "maximum": 200,
             "mean": 75, "scale": 15},
            {"name": "creatinine", "kind": "number", "unit": "mg/dL", "minimum": 0.1,
             "maximum": 20, "mean": 1, "scale": 0.5},
            {"name": "amiodarone", "kind": "flag"},
            {"name": "fibrillation", "kind": "flag"},
            {"name": "cyp2c9", "kind": "category", "values": list(GENOTYPES)},
        ],
        "target": {"kind": "continuous", "name": "dose", "unit": "mg/week", "minimum": 1,
                   "maximum": 200, "mean": 35, "scale": 15},
    }
)  # fmt: skip

COURSE_SCHEMA = FeatureSchema.model_validate(
    {
        "visits": {"time_unit": "hour", "most": 12},
        "features": [{"name": "female", "kind": "flag"}],
        "markers": [
            {"name": "crp", "unit": "mg/L", "minimum": 0.1, "maximum": 500, "mean": 30,
             "scale": 20},
        ],
        "treatments": [{"name": "amiodarone", "kind": "flag"}],
        "target": {
            "kind": "forecast",
            "name": "course",
            "markers": ["crp"],
            "horizons": [{"at": 24, "window": [1, 100], "change": 0.5}],
        },
    }
)  # fmt: skip

_DOSE_MAPPING = """
[table]
patient = "id"

[target]
column = "dose"
unit = "mg/day"

[features.age]
kind = "number"
column = "age"
unit = "year"

[features.female]
kind = "flag"
any_of = ["sex"]
yes = ["female"]
no = ["male"]

[features.weight]
kind = "number"
column = "weight"
unit = "kg"

[features.creatinine]
kind = "number"
column = "creatinine"
unit = "mg/dL"

[features.amiodarone]
kind = "flag"
any_of = ["amiodarone"]

[features.fibrillation]
kind = "flag"
any_of = ["fibrillation"]

[features.cyp2c9]
kind = "category"
column = "cyp2c9"
"""
_DOSE_COLUMNS = """
[records]
index = "drug {warfarin}"

[columns.age]
person = "age"

[columns.sex]
person = "sex"

[columns.dose]
drug = ["{warfarin}"]
take = "dose"
unit = "mg/d"

[columns.weight]
measurement = ["{weight}"]
unit = "kg"

[columns.creatinine]
measurement = ["creatinine"]
unit = "mg/dL"
within = [-30, 0]

[columns.amiodarone]
drug = ["{amiodarone}"]
take = "any"

[columns.fibrillation]
condition = ["{fibrillation}"]
take = "any"

[columns.cyp2c9]
measurement = ["{cyp2c9}"]
"""
_COURSE_MAPPING = """
[table]
patient = "id"

[visits]
time = "time"
unit = "hour"

[features.female]
kind = "flag"
any_of = ["sex"]
yes = ["female"]
no = ["male"]

[markers.crp]
column = "crp"
unit = "mg/L"

[treatments.amiodarone]
column = "amiodarone"
"""
_COURSE_COLUMNS = """
[records]
rows = "times"
time_unit = "h"

[columns.sex]
person = "sex"

[columns.crp]
measurement = ["{crp}"]
unit = "mg/L"

[columns.amiodarone]
drug = ["{amiodarone}"]
take = "any"
"""
FHIR_CODES = {
    "warfarin": "rxnorm:11289",
    "weight": "loinc:29463-7",
    "amiodarone": "rxnorm:703",
    "fibrillation": "snomed:49436004",
    "cyp2c9": "loinc:46724-9",
    "crp": "loinc:1988-5",
}
OMOP_CODES = {
    "warfarin": "rxnorm:11289",  # by the concept table, with its products by concept_ancestor
    "weight": f"omop:{WEIGHT}",
    "amiodarone": f"omop:{AMIODARONE}",
    "fibrillation": "snomed:49436004",
    "cyp2c9": f"omop:{CYP2C9}",
    "crp": "loinc:1988-5",
}


def dose_mapping(codes: dict[str, str] | None = None) -> str:
    """The mapping of the dose study: of a table, or of records by these codes."""
    return _DOSE_MAPPING + ("" if codes is None else _DOSE_COLUMNS.format(**codes))


def course_mapping(codes: dict[str, str] | None = None) -> str:
    """The mapping of the course study, likewise."""
    return _COURSE_MAPPING + ("" if codes is None else _COURSE_COLUMNS.format(**codes))


def _written(number: float) -> str:
    return str(int(number)) if number.is_integer() else repr(number)


def dose_csv(drawn: list[Synthetic]) -> str:
    """A row for each patient."""
    out = io.StringIO()
    sheet = csv.writer(out)
    sheet.writerow(
        ["id", "age", "sex", "weight", "creatinine", "amiodarone", "fibrillation", "cyp2c9", "dose"]
    )
    for one in drawn:
        amount = one.creatinine.value
        if one.creatinine.unit == "umol/L":  # µmol/L * g/mol = µg/L; 10,000 µg/L = 1 mg/dL
            independent = float(amount) * CREATININE_G_PER_MOL / 10_000
            # The last bit depends on the order of the factors, and is the product's own.
            amount = _written(MOLAR(float(amount)))
            assert abs(float(amount) - independent) < 1e-12
        sheet.writerow(
            [one.id, one.age, one.sex, one.weight, amount, int(one.amiodarone is not None),
             int(one.fibrillation is not None), one.genotype or "", one.dose]
        )  # fmt: skip
    return out.getvalue()


def course_csv(drawn: list[Synthetic]) -> str:
    """A row for each measurement."""
    out = io.StringIO()
    sheet = csv.writer(out)
    sheet.writerow(["id", "time", "sex", "crp", "amiodarone"])
    for one in drawn:
        first = one.crp[0].moment
        for measured in one.crp:
            hours = (measured.moment - first) / timedelta(days=1) * 24
            on = any(begin <= measured.moment <= end for begin, end in one.given)
            sheet.writerow([one.id, _written(hours), one.sex, measured.value, int(on)])
    return out.getvalue()


_SYSTEMS = {
    "loinc": "http://loinc.org",
    "rxnorm": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "snomed": "http://snomed.info/sct",
}


def _concept(code: str) -> dict[str, object]:
    system, _, own = code.partition(":")
    return {"coding": [{"system": _SYSTEMS[system], "code": own}]}


def bundle(drawn: list[Synthetic]) -> dict[str, object]:
    """A bundle of FHIR R4."""
    entries: list[dict[str, object]] = []

    def add(kind: str, one: Synthetic, **rest: object) -> None:
        identity = f"{kind[0].lower()}{len(entries)}"
        subject = {"subject": {"reference": f"Patient/{one.id}"}}
        entries.append({"resource": {"resourceType": kind, "id": identity, **subject, **rest}})

    def observe(one: Synthetic, code: str, measured: Measured, unit: str) -> None:
        add(
            "Observation",
            one,
            status="final",
            code=_concept(code),
            effectiveDateTime=measured.day.isoformat() if measured.at is None
            else measured.at.isoformat(),
            valueQuantity={"value": float(measured.value), "unit": unit, "code": unit,
                           "system": "http://unitsofmeasure.org"},
        )  # fmt: skip

    for one in drawn:
        entries.append(
            {"resource": {"resourceType": "Patient", "id": one.id, "gender": one.sex,
                          "birthDate": one.birth.isoformat()}}
        )  # fmt: skip
        add(
            "MedicationRequest",
            one,
            status="active",
            intent="order",
            medicationCodeableConcept=_concept(FHIR_CODES["warfarin"]),
            authoredOn=one.start.isoformat(),
            dosageInstruction=[
                {"timing": {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}},
                 "doseAndRate": [{"doseQuantity": {
                     "value": float(one.dose), "unit": "mg", "code": "mg",
                     "system": "http://unitsofmeasure.org"}}]}
            ],
        )  # fmt: skip
        weighed = Measured(one.start, None, one.weight, "kg")
        observe(one, FHIR_CODES["weight"], weighed, "kg")
        # LOINC has two codes of creatinine, by mass and by amount of substance.
        by_mass = one.creatinine.unit == "mg/dL"
        code = "loinc:2160-0" if by_mass else "loinc:14682-9"
        observe(one, code, one.creatinine, one.creatinine.unit)
        if one.genotype is not None:
            add(
                "Observation",
                one,
                status="final",
                code=_concept(FHIR_CODES["cyp2c9"]),
                effectiveDateTime=one.start.isoformat(),
                valueCodeableConcept={"coding": [
                    {"system": "http://www.pharmvar.org", "code": one.genotype}]},
            )  # fmt: skip
        for measured in one.crp:
            observe(one, FHIR_CODES["crp"], measured, "mg/L")
        if one.amiodarone is not None:
            add("MedicationStatement", one, status="active",
                medicationCodeableConcept=_concept(FHIR_CODES["amiodarone"]),
                effectiveDateTime=one.amiodarone.isoformat())  # fmt: skip
        if one.fibrillation is not None:
            add("Condition", one, code=_concept(FHIR_CODES["fibrillation"]),
                onsetDateTime=one.fibrillation.isoformat())  # fmt: skip
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def for_course(drawn: list[Synthetic]) -> dict[str, object]:
    """A bundle of the course study: amiodarone has its hours."""
    whole = bundle(drawn)
    entries = [
        entry
        for entry in whole["entry"]
        if entry["resource"]["resourceType"] in ("Patient", "Observation")
    ]
    for one in drawn:
        for begin, end in one.given:
            entries.append(
                {"resource": {"resourceType": "MedicationStatement", "id": f"given{one.id}",
                              "status": "completed", "subject": {"reference": f"Patient/{one.id}"},
                              "medicationCodeableConcept": _concept(FHIR_CODES["amiodarone"]),
                              "effectivePeriod": {"start": begin.isoformat(),
                                                  "end": end.isoformat()}}}
            )  # fmt: skip
    return {**whole, "entry": entries}


# Columns of CDM 5.4 in the types of its definition, without those that no test fills.
CDM = {
    "person": {
        "person_id": "integer", "gender_concept_id": "integer", "year_of_birth": "integer",
        "month_of_birth": "integer", "day_of_birth": "integer", "birth_datetime": "timestamp",
        "person_source_value": "varchar(50)",
    },
    "death": {"person_id": "integer", "death_date": "date", "death_datetime": "timestamp"},
    "visit_occurrence": {
        "visit_occurrence_id": "integer", "person_id": "integer", "visit_concept_id": "integer",
        "visit_start_date": "date", "visit_start_datetime": "timestamp",
        "visit_end_date": "date", "visit_end_datetime": "timestamp",
        "care_site_id": "integer",
    },
    "measurement": {
        "measurement_id": "integer", "person_id": "integer", "measurement_concept_id": "integer",
        "measurement_date": "date", "measurement_datetime": "timestamp",
        "operator_concept_id": "integer", "value_as_number": "numeric",
        "value_as_concept_id": "integer", "unit_concept_id": "integer",
        "visit_occurrence_id": "integer", "measurement_source_value": "varchar(50)",
        "measurement_source_concept_id": "integer", "unit_source_value": "varchar(50)",
        "value_source_value": "varchar(50)",
    },
    "observation": {
        "observation_id": "integer", "person_id": "integer", "observation_concept_id": "integer",
        "observation_date": "date", "observation_datetime": "timestamp",
        "value_as_number": "numeric", "value_as_string": "varchar(60)",
        "value_as_concept_id": "integer", "unit_concept_id": "integer",
        "observation_source_concept_id": "integer", "unit_source_value": "varchar(50)",
        "value_source_value": "varchar(50)",
    },
    "drug_exposure": {
        "drug_exposure_id": "integer", "person_id": "integer", "drug_concept_id": "integer",
        "drug_exposure_start_date": "date", "drug_exposure_start_datetime": "timestamp",
        "drug_exposure_end_date": "date", "drug_exposure_end_datetime": "timestamp",
        "quantity": "numeric", "days_supply": "integer", "drug_source_concept_id": "integer",
        "dose_unit_source_value": "varchar(50)",
    },
    "condition_occurrence": {
        "condition_occurrence_id": "integer", "person_id": "integer",
        "condition_concept_id": "integer", "condition_start_date": "date",
        "condition_start_datetime": "timestamp", "condition_end_date": "date",
        "condition_end_datetime": "timestamp", "condition_source_concept_id": "integer",
    },
    "concept": {
        "concept_id": "integer", "concept_name": "varchar(255)", "vocabulary_id": "varchar(20)",
        "concept_code": "varchar(50)", "standard_concept": "varchar(1)",
    },
    "concept_ancestor": {
        "ancestor_concept_id": "integer", "descendant_concept_id": "integer",
        "min_levels_of_separation": "integer", "max_levels_of_separation": "integer",
    },
    "drug_strength": {
        "drug_concept_id": "integer", "ingredient_concept_id": "integer",
        "amount_value": "numeric", "amount_unit_concept_id": "integer",
    },
}  # fmt: skip
Cdm = dict[str, list[dict[str, object]]]

VOCABULARY: Cdm = {
    "concept": [
        {"concept_id": one, "concept_name": name, "vocabulary_id": vocabulary, "concept_code": code}
        for one, name, vocabulary, code in (
            (WARFARIN, "warfarin", "RxNorm", "11289"),
            (TABLET, "warfarin sodium 1 MG Oral Tablet", "RxNorm", "855288"),
            (AMIODARONE, "amiodarone", "RxNorm", "703"),
            (FIBRILLATION, "Atrial fibrillation", "SNOMED", "49436004"),
            (CRP, "C reactive protein", "LOINC", "1988-5"),
            (CREATININE, "Creatinine", "LOINC", "2160-0"),
            (MG_L, "milligram per liter", "UCUM", "mg/L"),
        )
    ],
    "concept_ancestor": [
        {"ancestor_concept_id": above, "descendant_concept_id": below}
        for above, below in ((WARFARIN, WARFARIN), (WARFARIN, TABLET), (AMIODARONE, AMIODARONE))
    ],
    "drug_strength": [
        {"drug_concept_id": TABLET, "ingredient_concept_id": WARFARIN, "amount_value": "1",
         "amount_unit_concept_id": MG}
    ],
}  # fmt: skip


def cdm(drawn: list[Synthetic], *, course: bool = False) -> Cdm:
    """The tables of OMOP, by column; a column that is left out is empty."""
    tables: Cdm = {name: [] for name in CDM} | VOCABULARY

    def add(table: str, **cells: object) -> None:
        tables[table].append({f"{table}_id": len(tables[table]) + 1, **cells})

    def measure(one: Synthetic, concept: int, measured: Measured, unit: int) -> None:
        # OMOP has no time zones: the hospital's clock is UTC here.
        at = None if measured.at is None else measured.at.astimezone(UTC)
        add("measurement", person_id=int(one.id), measurement_concept_id=concept,
            measurement_date=str(at.date() if at else measured.day),
            measurement_datetime=at and at.strftime("%Y-%m-%d %H:%M:%S"),
            value_as_number=measured.value, unit_concept_id=unit)  # fmt: skip

    for one in drawn:
        tables["person"].append(
            {"person_id": int(one.id), "gender_concept_id": SEX[one.sex],
             "year_of_birth": one.birth.year, "month_of_birth": one.birth.month,
             "day_of_birth": one.birth.day}
        )  # fmt: skip
        add("drug_exposure", person_id=int(one.id), drug_concept_id=TABLET,
            drug_exposure_start_date=str(one.start),
            drug_exposure_end_date=str(one.start + timedelta(days=28)),
            quantity=_written(round(float(one.dose) * 28, 6)), days_supply=28)  # fmt: skip
        measure(one, WEIGHT, Measured(one.start, None, one.weight, "kg"), KG)
        unit = MG_DL if one.creatinine.unit == "mg/dL" else UMOL_L
        measure(one, CREATININE, one.creatinine, unit)
        if one.genotype is not None:
            add("observation", person_id=int(one.id), observation_concept_id=CYP2C9,
                observation_date=str(one.start), value_as_string=one.genotype)  # fmt: skip
        for measured in one.crp:
            measure(one, CRP, measured, MG_L)
        if one.amiodarone is not None and not course:
            add("drug_exposure", person_id=int(one.id), drug_concept_id=AMIODARONE,
                drug_exposure_start_date=str(one.amiodarone))  # fmt: skip
        for begin, end in one.given if course else ():
            start, stop = (m.astimezone(UTC).replace(tzinfo=None) for m in (begin, end))
            add("drug_exposure", person_id=int(one.id), drug_concept_id=AMIODARONE,
                drug_exposure_start_date=str(start.date()),
                drug_exposure_start_datetime=str(start),
                drug_exposure_end_date=str(stop.date()),
                drug_exposure_end_datetime=str(stop))  # fmt: skip
        if one.fibrillation is not None:
            add("condition_occurrence", person_id=int(one.id), condition_concept_id=FIBRILLATION,
                condition_start_date=str(one.fibrillation))  # fmt: skip
    return tables
