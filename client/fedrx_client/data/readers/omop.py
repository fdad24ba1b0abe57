"""Reads the OMOP common data model, version 5.4, as records; a database or a folder gives the rows.

It reads the tables person, death, measurement, observation, drug_exposure and condition_occurrence,
of these the columns named here, and the records whose concept a mapping names. It never reads
notes, names or addresses. See https://ohdsi.github.io/CommonDataModel/cdm54.html.
"""

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from types import MappingProxyType

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.concepts import (
    CdmTables,
    Concepts,
    concept_id,
    concepts_of,
    units_of,
)
from fedrx_client.data.readers.records import Code, Event, Person, RecordKind, Records, When
from fedrx_client.data.readers.selection import Selection
from fedrx_common.errors import DataError
from fedrx_common.text import quoted

# Standard concepts: https://athena.ohdsi.org, domains Gender and Meas Value Operator.
_SEX: Mapping[int, str] = MappingProxyType(
    {8507: "male", 8532: "female", 8521: "other", 8570: "other"}
)
_OPERATORS: Mapping[int, str] = MappingProxyType(
    {0: "", 4172703: "", 4171756: "<", 4171754: "<=", 4172704: ">", 4171755: ">="}
)
_LONGEST_TEXT = 60  # characters of a value that is text: a code or a result, no sentence
_SPACE_BEFORE_ZONE = re.compile(r"\s+(?=[+-]\d{2}(:?\d{2})?\Z)")


@dataclass(frozen=True)
class _Layout:
    """Where a table has what all records have; the rest of its columns may be missing.

    Attributes:
        kind: of the records.
        table: its name.
        key: the column of the record's own id.
        concept: columns of its concept, standard and of the source, without `_concept_id`.
        begin: columns of its moment and day, the first one that is filled counts.
        end: the same of its end; empty where a record is of one moment.
        more: other columns.
    """

    kind: RecordKind
    table: str
    key: str
    concept: tuple[str, str]
    begin: tuple[str, str]
    end: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @property
    def concepts(self) -> tuple[str, str]:
        one, other = self.concept
        return f"{one}_concept_id", f"{other}_concept_id"

    @property
    def columns(self) -> tuple[str, ...]:
        needed = (self.key, "person_id", *self.concepts)
        return (*needed, *self.begin, *self.end, *self.more)


_VALUE = ("value_as_number", "value_as_concept_id", "value_source_value")
_UNIT = ("unit_concept_id", "unit_source_value")
_LAYOUTS = (
    _Layout(
        "measurement",
        "measurement",
        "measurement_id",
        ("measurement", "measurement_source"),
        ("measurement_datetime", "measurement_date"),
        more=(*_VALUE, *_UNIT, "operator_concept_id"),
    ),
    # What FHIR calls an observation may be in either table, as the vocabulary decides.
    _Layout(
        "measurement",
        "observation",
        "observation_id",
        ("observation", "observation_source"),
        ("observation_datetime", "observation_date"),
        more=(*_VALUE, *_UNIT, "value_as_string"),
    ),
    _Layout(
        "drug",
        "drug_exposure",
        "drug_exposure_id",
        ("drug", "drug_source"),
        ("drug_exposure_start_datetime", "drug_exposure_start_date"),
        ("drug_exposure_end_datetime", "drug_exposure_end_date"),
        more=("quantity", "days_supply", "dose_unit_source_value"),
    ),
    _Layout(
        "condition",
        "condition_occurrence",
        "condition_occurrence_id",
        ("condition", "condition_source"),
        ("condition_start_datetime", "condition_start_date"),
        ("condition_end_datetime", "condition_end_date"),
    ),
)


def read_omop(tables: CdmTables, mapping: TableMapping, wanted: Container[str]) -> Records:
    """Read the persons, and the records that a mapping's columns are made of.

    Args:
        tables: where the tables are.
        mapping: with the codes of each column.
        wanted: names of the columns that are used.

    Raises:
        DataError: a table or column that is needed is not there, or a row cannot be used.
    """
    selection = Selection.of(mapping, wanted)
    persons = _persons(tables)
    events, skipped = list[Event](), dict[str, int]()
    for kind in ("measurement", "drug", "condition"):
        chosen = [one for one in selection.all_chosen if one.kind == kind]
        layouts = [one for one in _LAYOUTS if one.kind == kind and tables.columns(one.table)]
        if not chosen:
            continue
        if not layouts:
            table = next(one.table for one in _LAYOUTS if one.kind == kind)
            raise DataError(
                f"{tables.name}: there is no table '{table}', which {mapping.source} needs for "
                f"its columns of {kind}s; if it is in another schema, name it in [sql] schema."
            )
        concepts = concepts_of(tables, kind, chosen)
        for layout in layouts:
            reader = _Events(tables, layout, concepts, skipped)
            events += reader.read()
    return Records(tables.name, persons, tuple(events), skipped)


def _persons(tables: CdmTables) -> dict[str, Person]:
    if not tables.columns("person"):
        raise DataError(
            f"{tables.name}: there is no table 'person', so it is not an OMOP database; if the "
            "tables are in another schema, name it in [sql] schema, or write a [sql] query."
        )
    _require(tables, "person", ("person_id", "gender_concept_id", "year_of_birth"))
    deaths = _deaths(tables)
    columns = (
        "person_id",
        "gender_concept_id",
        "year_of_birth",
        "month_of_birth",
        "day_of_birth",
        "birth_datetime",
    )
    found: dict[str, Person] = {}
    for row in tables.rows("person", columns, {}):
        cells = dict(zip(columns, row, strict=True))
        patient = _whole(cells["person_id"])
        if not patient:
            raise DataError(f"{tables.name}, table 'person': a row has no person_id; add it.")
        place = f"person {patient}"
        if patient in found:
            raise DataError(
                f"{tables.name}, {place}: the id is there twice; keep one row per person."
            )
        found[patient] = Person(
            patient=patient,
            place=place,
            sex=_SEX.get(concept_id(cells["gender_concept_id"]), ""),
            birth=_birth(cells, f"{tables.name}, {place}"),
            death=deaths.get(patient),
            died=patient in deaths,
        )
    if not found:
        raise DataError(f"{tables.name}: table 'person' has no rows.")
    return found


def _deaths(tables: CdmTables) -> dict[str, When | None]:
    """Return who has died, and when that is known; a database may have no such table."""
    columns = ("person_id", "death_datetime", "death_date")
    found: dict[str, When | None] = {}
    if "person_id" in tables.columns("death"):
        for person, moment, day in tables.rows("death", columns, {}):
            place = f"{tables.name}, death of person {person}"
            when = _when(moment or day, place, columns[1] if moment else columns[2])
            found[_whole(person)] = found.get(_whole(person)) or when
    return found


def _birth(cells: Mapping[str, str], place: str) -> When | None:
    """Return the birth date, to the year, month or day: only the year must be there."""
    parts = []
    for column in ("year_of_birth", "month_of_birth", "day_of_birth"):
        text = _whole(cells[column])
        if text in ("", "0"):
            break
        if not (text.isascii() and text.isdigit() and len(text) <= 4):
            raise DataError(
                f"{place}, field '{column}': {quoted(text)} is not a number of a date; correct it."
            )
        parts.append(int(text))
    if not parts:
        return _when(cells["birth_datetime"], place, "birth_datetime")
    try:
        year, month, day = [*parts, 1, 1][:3]
        moment = datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        written = "-".join(map(str, parts))
        raise DataError(f"{place}: the birth date {written} does not exist; correct it.") from None
    return When(moment, "year" if len(parts) == 1 else "month" if len(parts) == 2 else "day")


class _Events:
    """One table's reading.

    Args:
        tables: where it is.
        layout: what it holds where.
        concepts: which records are wanted.
        skipped: by reason, records that were not read; added to.
    """

    def __init__(
        self, tables: CdmTables, layout: _Layout, concepts: Concepts, skipped: dict[str, int]
    ) -> None:
        self._tables, self._layout, self._concepts = tables, layout, concepts
        self._skipped = skipped
        self._units = units_of(tables) if layout.more else {}
        self._strengths = _strengths(tables, concepts) if layout.kind == "drug" else {}

    def read(self) -> Iterator[Event]:
        """Give the records whose concept, standard or of the source, is wanted."""
        layout, there = self._layout, set(self._tables.columns(self._layout.table))
        _require(self._tables, layout.table, (layout.key, "person_id", layout.concepts[0]))
        if there.isdisjoint(layout.begin):
            _require(self._tables, layout.table, layout.begin[1:])
        where = {one: self._concepts.keys() for one in layout.concepts if one in there}
        for row in self._tables.rows(layout.table, layout.columns, where):
            cells = dict(zip(layout.columns, row, strict=True))
            found = [concept_id(cells[one]) for one in layout.concepts]
            named = [code for one in found for code in self._concepts.get(one, ())]
            if named:
                yield self._event(cells, (*named, Code("omop", str(found[0]))))

    def _event(self, cells: Mapping[str, str], codes: tuple[Code, ...]) -> Event:
        layout = self._layout
        place = f"{layout.table} {_whole(cells[layout.key])}"
        where = f"{self._tables.name}, {place}"
        start = self._first_filled(cells, layout.begin, where)
        end = self._first_filled(cells, layout.end, where) if layout.end else start
        value, unit = "", ""
        if layout.kind == "measurement":
            value, unit = self._measured(cells)
        elif layout.kind == "drug":
            value, unit = self._dose(cells)
        patient = _whole(cells["person_id"])
        codes = tuple(dict.fromkeys(codes))
        return Event(patient, layout.kind, codes, place, value, unit, start, end)

    def _first_filled(
        self, cells: Mapping[str, str], columns: tuple[str, ...], where: str
    ) -> When | None:
        column = next((one for one in columns if cells[one]), None)
        return None if column is None else _when(cells[column], where, column)

    def _measured(self, cells: Mapping[str, str]) -> tuple[str, str]:
        """Return value and unit: a number, else a concept, else the source's own short text."""
        operator = _OPERATORS.get(concept_id(cells.get("operator_concept_id", "")))
        if operator is None:
            self._skip("the operator of the value is not one of =, <, <=, > and >=")
            return "", ""
        if cells["value_as_number"]:
            return operator + cells["value_as_number"], self._unit(cells)
        if concept_id(cells["value_as_concept_id"]):
            return str(concept_id(cells["value_as_concept_id"])), ""
        text = cells.get("value_as_string") or cells["value_source_value"]
        if len(text) > _LONGEST_TEXT:
            self._skip(f"the value is text of over {_LONGEST_TEXT} characters")
            return "", ""
        return text, self._unit(cells) if text else ""

    def _unit(self, cells: Mapping[str, str]) -> str:
        one = concept_id(cells["unit_concept_id"])
        # A unit that is not known by its concept is named by it, so that nothing is taken for 1.
        return self._units.get(one) or cells["unit_source_value"] or (f"omop:{one}" if one else "")

    def _dose(self, cells: Mapping[str, str]) -> tuple[str, str]:
        """Return what was given: the source's own dose, or the amount in all units of the drug.

        The amount of a product in so many units is its strength times the quantity, for each day
        of the supply where that is known (CDM 5.4, drug_exposure and drug_strength).
        """
        quantity, unit = cells["quantity"], cells["dose_unit_source_value"]
        strength = self._strengths.get(concept_id(cells["drug_concept_id"]))
        if unit or strength is None or not quantity:
            return quantity, unit
        try:
            amount = Decimal(quantity) * strength[0]
            days = Decimal(cells["days_supply"] or 0)
            daily = days.is_finite() and days > 0
            dose = amount / days if daily else amount
        except (InvalidOperation, OverflowError):
            return quantity, unit
        named = self._units.get(strength[1], f"omop:{strength[1]}")
        text = f"{dose:f}" if dose.is_finite() and abs(dose.adjusted()) < 30 else quantity
        return text, f"{named}/d" if daily else named

    def _skip(self, why: str) -> None:
        self._skipped[why] = self._skipped.get(why, 0) + 1


def _strengths(tables: CdmTables, concepts: Concepts) -> dict[int, tuple[Decimal, int]]:
    """Return amount and unit of products with one ingredient of a fixed amount, such as tablets."""
    columns = ("drug_concept_id", "amount_value", "amount_unit_concept_id")
    found: dict[int, list[tuple[Decimal, int]]] = {}
    if set(columns) <= set(tables.columns("drug_strength")):
        where = {"drug_concept_id": concepts.keys()}
        for drug, amount, unit in tables.rows("drug_strength", columns, where):
            try:
                number = Decimal(amount or 0)
            except InvalidOperation:
                continue
            found.setdefault(concept_id(drug), []).append((number, concept_id(unit)))
    return {
        drug: rows[0]
        for drug, rows in found.items()
        if len(rows) == 1 and rows[0][0].is_finite() and rows[0][0] > 0
    }


def _when(text: str, place: str, column: str) -> When | None:
    """Read a date, or a moment with or without a time zone; without one, UTC is taken."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(_SPACE_BEFORE_ZONE.sub("", text))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        moment.astimezone(UTC)  # a zone may put it before the first year or after the last
    except (ValueError, OverflowError):
        raise DataError(
            f"{place}, field '{column}': {quoted(text)} is not a date such as 2024-03-31 or "
            "2024-03-31 08:15:00; correct it."
        ) from None
    # Of a field of CDM that is a date, exports write a moment at midnight.
    if column.endswith("_date"):
        moment = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    dated = column.endswith("_date") or (":" not in text and "T" not in text)
    return When(moment, "day" if dated else "time")


def _whole(text: str) -> str:
    """Write a whole number without the ".0" that a column of floats gives it."""
    digits = text.removesuffix(".0")
    return digits if digits.isascii() and digits.isdigit() else text


def _require(tables: CdmTables, name: str, wanted: tuple[str, ...]) -> None:
    there = set(tables.columns(name))
    for column in wanted:
        if column not in there:
            raise DataError(f"{tables.name}: table '{name}' has no column '{column}'.")
