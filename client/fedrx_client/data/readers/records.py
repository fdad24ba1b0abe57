"""What FHIR and OMOP have in common: persons, and dated records about them.

A reader gives `Records`; `pivot` turns them into the same `Table` that a CSV file gives. Nothing
after that knows the format.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

RecordKind = Literal["measurement", "drug", "condition"]
Precision = Literal["year", "month", "day", "time"]


@dataclass(frozen=True, slots=True)
class Code:
    """A code of a vocabulary.

    Attributes:
        system: `loinc`, `rxnorm`, `atc`, `snomed`, `icd10`, `omop`, or the system's own address.
        code: as the vocabulary writes it.
    """

    system: str
    code: str


@dataclass(frozen=True, slots=True)
class When:
    """A moment that may be known to the year, month or day only.

    Attributes:
        moment: the earliest moment that it may be, with its time zone (UTC where the source names
            none), by whose calendar days are counted.
        precision: how much of it is known.
    """

    moment: datetime
    precision: Precision = "time"


@dataclass(frozen=True, slots=True)
class Person:
    """One patient.

    Attributes:
        patient: the id in the source.
        place: where in the source, for errors.
        sex: `female`, `male`, `other`, or "" where it is not recorded.
        birth: the birth date, as far as it is known.
        death: the same of the death.
        died: whether the patient has died, also where no date of it is known.
    """

    patient: str
    place: str
    sex: str = ""
    birth: When | None = None
    death: When | None = None
    died: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One dated record of a patient.

    Attributes:
        patient: the id in the source.
        kind: what is recorded.
        codes: all codes by which the source names it.
        place: where in the source, for errors: "bundle.json, entry 12 (Observation a1)".
        value: a number or a code as text, with '<', '<=', '>' or '>=' in front where the source
            compares; of a drug its dose; "" for a record without a value.
        unit: unit of a number, as the source writes it, best in UCUM; a dose that is repeated has
            one of an amount a day ("mg/d"); "" where there is none.
        start: when it was measured, given or began.
        end: when it ended: for what was measured or given at one moment that moment; None where it
            goes on, or no end is known.
    """

    patient: str
    kind: RecordKind
    codes: tuple[Code, ...]
    place: str
    value: str = ""
    unit: str = ""
    start: When | None = None
    end: When | None = None


@dataclass(frozen=True)
class Records:
    """All that a reader found.

    Attributes:
        source: the source in words, without a password, for errors.
        persons: by patient.
        events: in the order in which the source gave them.
        skipped: by reason, records that were not read.
    """

    source: str
    persons: Mapping[str, Person]
    events: tuple[Event, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
