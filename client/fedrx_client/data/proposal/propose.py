"""Writes the proposed mapping: a comment for each guess, and `# ?` where a person must decide."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from fedrx_client.data.proposal.guess import (
    Candidate,
    Columns,
    Wanted,
    category,
    flag,
    number,
    outcome_flag,
)
from fedrx_client.data.proposal.names import words_of
from fedrx_client.data.proposal.peek import ROWS, Peek, peek
from fedrx_client.data.quality.scale import PublicReference
from fedrx_common.text import escaped
from fedrx_protocol.study.schema import (
    BinaryTarget,
    CategoryFeature,
    ContinuousTarget,
    FeatureSchema,
    FlagFeature,
    NumberFeature,
    PanelTarget,
    SurvivalTarget,
)
from fedrx_protocol.study.study import Study

_ANY = 1e18  # a time of survival has no range
_UNIT_OF_TIME = {"hour": "hour", "day": "day", "month": "month", "year": "year"}


@dataclass(frozen=True)
class Proposal:
    """A proposed mapping.

    Attributes:
        text: the mapping file.
        guessed: things of the study for which a column was found.
        open: how many decisions are left to a person.
        rows: how many rows of the table were read.
    """

    text: str
    guessed: tuple[str, ...]
    open: int
    rows: int


def propose(path: Path, study: Study, rows: int = ROWS) -> Proposal:
    """Propose a mapping of a table for a study.

    Args:
        path: a CSV, TSV, Parquet or Excel file.
        study: the study.
        rows: how many rows to read at most.

    Raises:
        DataError: the table cannot be read.
    """
    head, schema = peek(path, rows), study.feature_schema
    columns = Columns(head)
    patient = columns.patient(once=schema.visits is None)
    time = columns.time(patient) if schema.visits is not None else None
    taken = [name for name in (patient, time) if name is not None]
    wanted = tuple(_wanted(schema))
    found = columns.best(wanted, taken)
    _join_described(schema, columns, wanted, found, taken)
    lines = [*_table(head, patient, columns), *_target(schema, found)]
    if schema.visits is not None:
        lines += _visits(time, schema, columns)
    lines += _parts(schema, found)
    text = "\n".join([*_header(head, study), *lines, ""])
    return Proposal(text, tuple(found), text.count("# ?"), head.rows)


def _wanted(schema: FeatureSchema) -> Iterator[Wanted]:
    yield from _wanted_outcome(schema)
    for feature in schema.features:
        key = f"features.{feature.name}"
        if isinstance(feature, NumberFeature):
            of = PublicReference(feature.unit, feature.mean, feature.scale)
            judge = number(feature.name, of, feature.minimum, feature.maximum, molar=True)
            yield Wanted(key, judge)
        elif isinstance(feature, CategoryFeature):
            yield Wanted(key, category(feature))
        else:
            yield Wanted(key, flag(feature))
    for marker in schema.markers:
        of = PublicReference(marker.unit, marker.mean, marker.scale, marker.transform == "log")
        judge = number(marker.name, of, marker.minimum, marker.maximum, molar=True)
        yield Wanted(f"markers.{marker.name}", judge)
    for treatment in schema.treatments:
        key = f"treatments.{treatment.name}"
        if treatment.kind == "flag":
            yield Wanted(key, flag(treatment))
        else:
            of = PublicReference(treatment.unit, treatment.scale, treatment.scale)
            yield Wanted(key, number(treatment.name, of, 0.0, treatment.maximum))


def _wanted_outcome(schema: FeatureSchema) -> Iterator[Wanted]:
    target = schema.target
    if isinstance(target, ContinuousTarget):
        log = target.transform == "log"
        of = PublicReference(target.unit, target.mean, target.scale, log)
        if target.transform == "sqrt":
            of = PublicReference(target.unit, target.mean**2, 2 * target.mean * target.scale)
        yield Wanted("target", number(target.name, of, target.minimum, target.maximum))
    elif isinstance(target, BinaryTarget):
        yield Wanted("target", outcome_flag(target.name))
    elif isinstance(target, SurvivalTarget):
        middle = target.edges[len(target.edges) // 2]
        of = PublicReference(target.unit, middle, middle)
        yield Wanted("target", number(f"{target.name}_time", of, 0.0, _ANY))
        yield Wanted("target.event", outcome_flag(f"{target.name}_event"))


def _join_described(
    schema: FeatureSchema,
    columns: Columns,
    wanted: tuple[Wanted, ...],
    found: dict[str, Candidate],
    taken: list[str],
) -> None:
    """Give a flag that only its description names all columns of the same codes that it names."""
    judges = {one.key: one.judge for one in wanted}
    used = {one.column for one in found.values()} | set(taken)
    for feature in schema.features:
        key = f"features.{feature.name}"
        first = found.get(key)
        if first is None or not isinstance(feature, FlagFeature) or first.sure:
            continue
        if columns.names[first.column].resembles(words_of(feature.name)) > 0:
            continue  # its name says it
        others = []
        for name in columns.seen:
            other = judges[key](columns.names[name], columns.seen[name])
            codes = {code for _, value in first.settings for code in value}
            if name not in used and other is not None and not other.sure:
                seen = set(columns.seen[name].codes)
                others += [name] if seen <= codes or codes <= seen else []
        doubts = [one for one in first.doubts if not one.startswith("or ")]
        doubts.append("only the study's description names them: is each of them meant?")
        found[key] = replace(first, more=tuple(others), doubts=tuple(doubts))
        used |= set(others)


def _header(head: Peek, study: Study) -> list[str]:
    unread = [name for name, cells in head.columns.items() if not cells and head.rows]
    lines = [
        f"# A mapping of {escaped(head.source)} for study '{study.name}'.",
        "#",
        "# `fedrx data map` proposed it from the names of the columns and from the first",
        f"# {head.rows} rows; it read no other row. Look at each guess. Where a comment begins",
        "# with a question mark, decide, and remove the mark: until then the mapping may be",
        "# refused, or mislead.",
    ]
    if unread:
        listed = ", ".join(escaped(name) for name in unread)
        lines.append("#")
        lines.append(f"# Not looked at, as the name suggests words about a person: {listed}.")
    return lines


def _table(head: Peek, patient: str | None, columns: Columns) -> list[str]:
    lines = ["", "[table]"]
    if patient is None:
        lines.append('patient = "?"  # ? which column identifies a patient')
    else:
        count = len(columns.seen[patient].codes)
        lines.append(f"patient = {_toml(patient)}  # {count} different in {head.rows} rows")
    if head.text:
        lines.append(f"delimiter = {_toml(head.delimiter)}")
        lines.append(f"decimal = {_toml(head.decimal)}")
        if head.thousands is not None:
            lines.append(f"thousands = {_toml(head.thousands)}")
        lines.append(f"encoding = {_toml(head.encoding)}")
    if head.sheet is not None:
        lines.append(f"sheet = {_toml(head.sheet)}  # the first of several")
    codes = {"", "NA"}.union(*(one.missing_codes for one in columns.seen.values()))
    lines.append(f"missing = {_toml(sorted(codes))}")
    return lines


def _target(schema: FeatureSchema, found: dict[str, Candidate]) -> list[str]:
    target = schema.target
    if isinstance(target, PanelTarget):
        return [
            "",
            "[target]",
            f"unit = {_toml(target.unit)}  # ? and the drugs' columns, named like them or in",
            '# columns = { "drug" = "column" }',
        ]
    if not isinstance(target, ContinuousTarget | BinaryTarget | SurvivalTarget):
        return []
    one = found.get("target")
    lines = ["", "[target]", *_column_line(one, target.name)]
    if not isinstance(target, BinaryTarget):
        unit = dict(one.settings).get("unit", target.unit) if one is not None else target.unit
        lines.append(_line("unit", unit, one))
    event = found.get("target.event")
    if isinstance(target, SurvivalTarget):
        shown = "?" if event is None else event.column
        lines.append(f"event = {_toml(shown)}" + _doubt(event, "which column says if it happened"))
    codes = one if isinstance(target, BinaryTarget) else event
    if codes is not None and not isinstance(target, ContinuousTarget):
        lines += [f"{key} = {_toml(dict(codes.settings)[key])}" for key in ("yes", "no")]
    return lines


def _visits(time: str | None, schema: FeatureSchema, columns: Columns) -> list[str]:
    usual = schema.visits.time_unit if schema.visits is not None else "day"
    lines = ["", "[visits]"]
    if time is None:
        lines += ['time = "?"  # ? which column is the time of a visit', f"unit = {_toml(usual)}"]
    else:
        name = columns.names[time]
        said = name.unit or next((unit for unit in _UNIT_OF_TIME if unit in name.name.lower()), "")
        lines.append(f"time = {_toml(time)}  # numbers that rise within a patient")
        doubt = "" if said else "  # ? the name says no unit"
        lines.append(f"unit = {_toml(said or usual)}{doubt}")
    lines.append('short = "drop"  # patients with nothing to forecast are left out')
    return lines


def _parts(schema: FeatureSchema, found: dict[str, Candidate]) -> Iterator[str]:
    for feature in schema.features:
        one = found.get(f"features.{feature.name}")
        yield from ("", f"[features.{feature.name}]")
        if one is None and feature.optional:
            yield "measured = false  # ? no column looks like it"
            continue
        yield f"kind = {_toml(feature.kind)}"
        if isinstance(feature, FlagFeature):
            listed = [] if one is None else [one.column, *one.more]
            yield f"any_of = {_toml(listed or ['?'])}{_doubt(one, 'no column looks like it')}"
        else:
            yield from _column_line(one, feature.name)
        settings = () if one is None else one.settings
        if one is None and isinstance(feature, NumberFeature):
            settings = (("unit", feature.unit),)
        yield from (f"{key} = {_toml(value)}" for key, value in settings)
    for marker in schema.markers:
        one = found.get(f"markers.{marker.name}")
        yield from ("", f"[markers.{marker.name}]", *_column_line(one, marker.name))
        settings = (("unit", marker.unit),) if one is None else one.settings
        yield from (f"{key} = {_toml(value)}" for key, value in settings)
    for treatment in schema.treatments:
        one = found.get(f"treatments.{treatment.name}")
        yield from ("", f"[treatments.{treatment.name}]", *_column_line(one, treatment.name))
        settings = one.settings if one is not None else ()
        if one is None and treatment.kind == "amount":
            settings = (("unit", treatment.unit),)
        yield from (f"{key} = {_toml(value)}" for key, value in settings)


def _column_line(one: Candidate | None, name: str) -> list[str]:
    if one is None:
        return [f'column = "?"  # ? no column looks like {name}']
    return [f"column = {_toml(one.column)}{_doubt(one, '')}"]


def _line(key: str, value: object, one: Candidate | None) -> str:
    return f"{key} = {_toml(value)}" + ("" if one is not None else "  # as in the study")


def _doubt(one: Candidate | None, nothing: str) -> str:
    """Write the comment behind a guess: what was seen, or what a person must decide."""
    if one is None:
        return f"  # ? {nothing}"
    seen, doubts = escaped(one.seen), escaped("; ".join(one.doubts))
    if one.sure:
        return f"  # {seen}"
    return f"  # ? {doubts} ({seen})" if seen else f"  # ? {doubts}"


def _toml(value: object) -> str:
    """Write text, a list of texts, or a table of texts as TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # JSON's escapes are TOML's, but for the one character that JSON does not escape.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
