"""Turns records into the table that a CSV file would give: a row for each patient, or each time.

Rows come by patient in natural order ("2" before "10") and then by time; no cell depends on the
order of the records in their source. Four sources of the same records therefore give one table.
"""

import math
import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby

from fedrx_client.data.column_sources import RecordColumn, RecordsSource
from fedrx_client.data.harmonise.codes.value_sets import analyte_of
from fedrx_client.data.harmonise.dates import years_between
from fedrx_client.data.harmonise.units import conversion, same_unit
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.records import Code, Event, Person, RecordKind, Records, When
from fedrx_client.data.readers.selection import Chosen, Selection
from fedrx_client.data.table import Table
from fedrx_common.errors import DataError, counted

TIME = "time"
"""The column of rows of times that says when, in `records.time_unit` after the index."""

_NUMBER = re.compile(r"(<=?|>=?)?\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)")
_DAY = timedelta(days=1)
_TICK = timedelta(microseconds=1)
_SIDE = {"<": -2, "<=": -1, "": 0, ">=": 1, ">": 2}


def pivot(records: Records, mapping: TableMapping, wanted: Container[str]) -> Table:
    """Make the columns of a mapping from records.

    The column `table.patient` holds the patient's id, unless the mapping makes it otherwise. Rows
    of times have the column `time` too.

    Args:
        records: what a reader found.
        mapping: the columns to make, and whether rows are patients or times.
        wanted: names of the columns that are used.

    Raises:
        DataError: naming record and column, if a value cannot be used; or if there is no row.
    """
    selection = Selection.of(mapping, wanted)
    work = _Pivoting(records.source, mapping.records, selection)
    own = _by_patient(records, selection, work.notes)
    make = _patient_row if mapping.records.rows == "patients" else _time_rows
    rows: list[_MadeRow] = []
    for patient in sorted(records.persons, key=natural_key):
        rows += make(work, records.persons[patient], own.get(patient, {}))
    if not rows:
        raise DataError(
            f"{records.source}: no patient has a record that makes a row; check the codes of "
            f"columns and records.index in {mapping.source}."
        )
    names = [name for name in (mapping.table.patient, TIME) if name not in selection.columns]
    if mapping.records.rows == "patients":
        names = [name for name in names if name != TIME]
    names += selection.columns
    made = [name for name, one in mapping.columns.items() if isinstance(one, RecordColumn)]
    told = [f"{counted(n, 'record')} not read: {why}" for why, n in records.skipped.items() if n]
    told += [f"{counted(n, what)} {why}" for (what, why), n in work.notes.items()]
    return Table(
        source=records.source,
        unit="row",
        places=tuple(range(1, len(rows) + 1)),
        columns={name: tuple(row.cell(name, mapping)[0] for row in rows) for name in names},
        header=tuple(dict.fromkeys((*names, *made))),
        typed=frozenset(names) - {mapping.table.patient},
        origins={name: tuple(row.cell(name, mapping)[1] for row in rows) for name in names},
        notes=tuple(f"{records.source}: {text}." for text in sorted(told)),
    )


def natural_key(patient: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key by which "p2" is before "p10"; digits of any length are numbers."""
    parts = re.findall(r"[0-9]+|[^0-9]+", patient)
    numbers = [part.lstrip("0") if part[0] in "0123456789" else None for part in parts]
    keys = [
        (1, 0, part) if number is None else (0, len(number), number)
        for part, number in zip(parts, numbers, strict=True)
    ]
    return (*keys, (2, 0, patient))


_Notes = Counter[tuple[str, str]]
_Own = Mapping[str, Sequence[Event]]
"""A patient's records by column; those of the index under ""."""


@dataclass(frozen=True)
class _MadeRow:
    person: Person
    cells: Mapping[str, tuple[str, str]]

    def cell(self, name: str, mapping: TableMapping) -> tuple[str, str]:
        """Return text and origin."""
        if name not in self.cells and name == mapping.table.patient:
            return self.person.patient, self.person.place
        return self.cells[name]


@dataclass(frozen=True)
class _Measured:
    """A value of a record in the column's unit: as text, and as a number where it is one."""

    text: str
    number: float
    side: int
    event: Event


@dataclass(frozen=True)
class _RowSpan:
    """When a row is: `time` after the origin in the mapping's unit, its first and last moment."""

    time: float
    first: datetime
    last: datetime
    origin: When


@dataclass
class _Pivoting:
    """What one pivot carries along: where it is, and what it met.

    Attributes:
        units: by column without a unit of its own, the unit of its first record, and its place.
        notes: by what and why, how many were not used.
    """

    source: str
    options: RecordsSource
    selection: Selection
    units: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: _Notes = field(default_factory=Counter)

    def where(self, event: Event, name: str) -> str:
        return f"{self.source}, {event.place}, column '{name}'"


def _by_patient(
    records: Records, selection: Selection, notes: _Notes
) -> dict[str, dict[str, list[Event]]]:
    """Sort records by patient and by the columns that they belong to."""
    parts: list[tuple[str, Chosen]] = [*selection.chosen.items()]
    parts += [] if selection.index is None else [("", selection.index)]
    known: dict[tuple[RecordKind, tuple[Code, ...]], list[str]] = {}
    found: dict[str, dict[str, list[Event]]] = {}
    for event in records.events:
        key = (event.kind, event.codes)
        if key not in known:
            known[key] = [n for n, one in parts if one.kind == event.kind and one.has(event.codes)]
        if known[key] and event.patient not in records.persons:
            notes["record", "of patients who are not in the source"] += 1
            continue
        for name in known[key]:
            found.setdefault(event.patient, {}).setdefault(name, []).append(event)
    return found


def _patient_row(work: _Pivoting, person: Person, own: _Own) -> list[_MadeRow]:
    index = _index(work, own)
    if index is None and work.selection.index is not None:
        return []
    used = {
        name: [event for event in own.get(name, ()) if _counts(work, name, event, index)]
        for name in work.selection.chosen
    }
    dated = [event.start for events in used.values() for event in events if event.start is not None]
    at = index or min(dated, key=lambda when: when.moment, default=None)
    cells = {
        name: _person_cell(work, column, person, name, at)
        if column.person is not None
        else _cell(work, name, used[name], person)
        for name, column in work.selection.columns.items()
    }
    return [_MadeRow(person, cells)]


def _time_rows(work: _Pivoting, person: Person, own: _Own) -> list[_MadeRow]:
    """Make a row for each time at which one of the columns was measured."""
    index = _index(work, own)
    if index is None and work.selection.index is not None:
        return []
    measured = []
    for name, one in work.selection.chosen.items():
        for event in own.get(name, ()) if one.kind == "measurement" else ():
            if event.start is None or event.start.precision in ("year", "month"):
                work.notes["record", "without a date to the day, so without a row"] += 1
            elif _counts(work, name, event, index):
                measured.append((event.start, name, event))
    if not measured:
        return []
    origin = index or min((when for when, _, _ in measured), key=lambda when: when.moment)
    day = 24.0 if work.options.time_unit == "h" else 1.0
    every = work.options.every
    timed = []
    for when, name, event in measured:
        time = _days(when, origin)[0] * day
        step = time if every is None else math.floor(time / every + 1e-9) * every
        timed.append((step, natural_key(event.place), name, event))
    timed.sort(key=lambda one: one[:3])
    rows = []
    for step, group in groupby(timed, key=lambda one: one[0]):
        here = [(name, event) for _, _, name, event in group]
        starts = [event.start for _, event in here if event.start is not None]
        first = min(when.moment for when in starts)
        last = max(_latest(when) for when in starts)
        if every is not None:
            begin = origin.moment + timedelta(days=step / day)
            first, last = min(begin, first), max(begin + timedelta(days=every / day) - _TICK, last)
        rows.append(_time_row(work, person, own, here, _RowSpan(step, first, last, origin)))
    return rows


def _time_row(
    work: _Pivoting,
    person: Person,
    own: _Own,
    here: Sequence[tuple[str, Event]],
    span: _RowSpan,
) -> _MadeRow:
    """Make one row: what was measured `here`, and the drugs and conditions of its span of time."""
    index = None if work.selection.index is None else span.origin
    cells = {TIME: (_written(span.time), here[0][1].place)}
    for name, column in work.selection.columns.items():
        if column.person is not None:
            cells[name] = _person_cell(work, column, person, name, span.origin)
        elif work.selection.chosen[name].kind == "measurement":
            cells[name] = _cell(work, name, [e for n, e in here if n == name], person)
        else:
            given = [
                event
                for event in own.get(name, ())
                if _covers(event, span.first, span.last) and _counts(work, name, event, index)
            ]
            cells[name] = _cell(work, name, given, person)
    return _MadeRow(person, cells)


def _index(work: _Pivoting, own: _Own) -> When | None:
    """Return the first record of the index that is dated to the day, if one is named."""
    if work.selection.index is None:
        return None
    dated = [event.start for event in own.get("", ()) if event.start is not None]
    exact = [when for when in dated if when.precision in ("day", "time")]
    if not exact:
        work.notes["patient", "without a dated record of the index, so without a row"] += 1
        return None
    return min(exact, key=lambda when: when.moment)


def _counts(work: _Pivoting, name: str, event: Event, index: When | None) -> bool:
    """Return whether a record is surely within the days that its column names."""
    within = work.selection.columns[name].within
    if within is None or index is None:
        return True
    if event.start is None:
        work.notes["record", f"of column '{name}' without a date, so not within its days"] += 1
        return False
    first, last = _days(event.start, index)
    return within[0] <= first and last <= within[1]


def _cell(work: _Pivoting, name: str, events: Sequence[Event], person: Person) -> tuple[str, str]:
    """Return text and origin of what a column takes from a patient's records."""
    column = work.selection.columns[name]
    take = column.take or ("last" if column.measurement else "any")
    place = min((event.place for event in events), key=natural_key, default=person.place)
    if take in ("any", "count"):
        return str(len(events) if take == "count" else int(bool(events))), place
    values = [one for event in events if (one := _value(work, name, column, event)) is not None]
    if not values:
        return "", place
    if take == "mean":
        return _mean(work, name, column, values)
    if take in ("lowest", "highest"):
        text = next((one for one in values if math.isnan(one.number)), None)
        if text is not None:
            raise DataError(
                f"{work.where(text.event, name)}: {text.text!r} is not a number, so that there is "
                f"no {take} one; take first or last."
            )
        pick = min if take == "lowest" else max
        chosen = pick(values, key=lambda one: (one.number, one.side, one.event.place))
        return chosen.text, chosen.event.place
    dated = [one for one in values if one.event.start is not None]
    if len(dated) < len(values):
        undated = len(values) - len(dated)
        work.notes["record", f"of column '{name}' without a date, so not its {take}"] += undated
    moments = [one.event.start.moment for one in dated if one.event.start is not None]
    if not moments:
        return "", place
    moment = min(moments) if take == "first" else max(moments)
    same = [one for one, m in zip(dated, moments, strict=True) if m == moment]
    return _middle(work, name, same)


def _middle(work: _Pivoting, name: str, values: Sequence[_Measured]) -> tuple[str, str]:
    """Choose among values of one moment the middle one, the lower of two, in any order of source.

    It is a value that was recorded, and neither the order of a file nor one wrong value decides.
    """
    ordered = sorted(values, key=lambda one: (_rank(one.number), one.side, one.text))
    if len({one.text for one in ordered}) > 1:
        others = len(ordered) - 1
        why = f"of column '{name}' at the same moment as another; the middle value counts"
        work.notes["record", why] += others
    chosen = ordered[(len(ordered) - 1) // 2]
    return chosen.text, chosen.event.place


def _mean(
    work: _Pivoting, name: str, column: RecordColumn, values: Sequence[_Measured]
) -> tuple[str, str]:
    known = []
    for one in values:
        if not math.isnan(one.number) and one.side == 0:
            known.append(one)
        elif column.unknown == "error":
            raise DataError(
                f"{work.where(one.event, name)}: {one.text!r} has no mean; take first or last, or "
                f'set columns.{name}.unknown = "missing" in the mapping.'
            )
    if not known:
        return "", values[0].event.place
    if len({one.text for one in known}) == 1:
        return known[0].text, known[0].event.place
    mean = math.fsum(one.number for one in known) / len(known)
    return _written(mean), min((one.event.place for one in known), key=natural_key)


def _value(work: _Pivoting, name: str, column: RecordColumn, event: Event) -> _Measured | None:
    """Read a record's value in the column's unit; `None` where it has none, or one to ignore.

    Raises:
        DataError: a unit that cannot be converted, or two units in a column that names none.
    """
    if not event.value:
        return None
    match = _NUMBER.fullmatch(event.value.strip())
    number = float(match[2]) if match else math.nan
    side = _SIDE[match[1] or ""] if match else 0
    if column.unit is None:
        unit, place = work.units.setdefault(name, (event.unit, event.place))
        if match and unit != event.unit and not same_unit(unit, event.unit):
            raise DataError(
                f"{work.where(event, name)}: the unit is {event.unit!r}, but {unit!r} in {place}; "
                f"name the unit that is meant in columns.{name}.unit of the mapping."
            )
        return _Measured(event.value, number, side, event)
    convert = conversion(event.unit or "1", column.unit, analyte_of(column.measurement))
    if match is None or convert is None or not math.isfinite(number):
        if column.unknown == "missing":
            work.notes["record", f"of column '{name}' not understood, taken as missing"] += 1
            return None
        why = (
            f"{event.value!r} is not a number"
            if match is None or not math.isfinite(number)
            else f"the value has no unit, but columns.{name}.unit is {column.unit!r}"
            if not event.unit
            else f"{event.unit!r} cannot be converted to {column.unit!r}"
        )
        raise DataError(
            f"{work.where(event, name)}: {why}; correct the record or the mapping, or set "
            f'columns.{name}.unknown = "missing" there.'
        )
    if convert(1.0) == 1.0 and convert(0.0) == 0.0:
        return _Measured(event.value, number, side, event)
    sign = match[1] or ""
    return _Measured(f"{sign}{_written(convert(number))}", convert(number), side, event)


def _person_cell(
    work: _Pivoting, column: RecordColumn, person: Person, name: str, at: When | None
) -> tuple[str, str]:
    text = ""
    if column.person == "id":
        text = person.patient
    elif column.person == "sex":
        text = person.sex
    elif column.person == "died":
        text = str(int(person.died or person.death is not None))
    elif column.person == "birth_year" and person.birth is not None:
        text = str(person.birth.moment.year)
    elif column.person == "age" and person.birth is not None and at is not None:
        age = _age(person.birth, at)
        if age < 0:
            raise DataError(
                f"{work.source}, {person.place}, column '{name}': the birth date is after the "
                "first record that counts; correct it."
            )
        text = str(age)
    return text, person.place


def _age(birth: When, at: When) -> int:
    """Count whole years, by as much as is known of both: by years alone where no month is."""
    known = min(_KNOWN[birth.precision], _KNOWN[at.precision])
    first, last = (
        datetime(of.year, of.month if known > 1 else 1, of.day if known > 2 else 1)  # noqa: DTZ001 - its own calendar
        for of in (birth.moment, at.moment)
    )
    return math.floor(years_between(first, last))


_KNOWN = {"year": 1, "month": 2, "day": 3, "time": 3}


def _days(when: When, origin: When) -> tuple[float, float]:
    """Return the earliest and latest days from one moment to another, by calendar without times."""
    if when.precision == "time" and origin.precision == "time":
        exact = (when.moment - origin.moment) / _DAY
        return exact, exact
    first = float((when.moment.date() - origin.moment.date()).days)
    if when.precision in ("day", "time"):
        return first, first
    return first, float((_latest(when).date() - origin.moment.date()).days)


def _latest(when: When) -> datetime:
    """Return the latest moment that it may be."""
    moment = when.moment
    if when.precision == "time":
        return moment
    last = datetime.max.replace(tzinfo=UTC)
    if when.precision == "day":
        return moment + _DAY - _TICK if moment < last - 2 * _DAY else last
    year = moment.year + (when.precision == "year" or moment.month == 12)
    month = 1 if when.precision == "year" else moment.month % 12 + 1
    return moment.replace(year=year, month=month, day=1) - _TICK if year <= 9999 else last


def _covers(event: Event, first: datetime, last: datetime) -> bool:
    """Return whether a drug or condition is surely there at some moment of a span."""
    if event.start is None:
        return False
    vague = event.start.precision in ("year", "month")
    begin = _latest(event.start) if vague else event.start.moment
    return begin <= last and (event.end is None or _latest(event.end) >= first)


def _rank(number: float) -> float:
    return -math.inf if math.isnan(number) else number


def _written(number: float) -> str:
    """Write a number as a table would: 3 rather than 3.0, and every digit that it has."""
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
