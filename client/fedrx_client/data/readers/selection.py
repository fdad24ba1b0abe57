"""Which records a mapping's columns are made of: a reader may skip every other one unread."""

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from fedrx_client.data.column_sources import RecordColumn
from fedrx_client.data.harmonise.codes.value_sets import short_system, value_sets
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.records import Code, RecordKind
from fedrx_common.errors import DataError

KINDS: tuple[RecordKind, ...] = ("measurement", "drug", "condition")
# Vocabularies whose codes begin with the code above them: E11 is above E11.9, B01AA above B01AA03.
_NESTED = frozenset({"atc", "icd10"})


@dataclass(frozen=True)
class Chosen:
    """The codes of one column, or of the index.

    Attributes:
        kind: of the records.
        codes: any of them.
        below: whether codes below them count too, where a code tells what is above it.
    """

    kind: RecordKind
    codes: frozenset[Code]
    below: bool = True

    def has(self, codes: Iterable[Code]) -> bool:
        """Return whether a record with these codes belongs."""
        plain = [_plain(code) for code in codes]
        return not self._written.isdisjoint(plain) or (
            self.below
            and any(
                one.system == code.system and code.code.startswith(one.code)
                for code in plain
                if code.system in _NESTED
                for one in self._written
            )
        )

    @cached_property
    def _written(self) -> frozenset[Code]:
        return frozenset(map(_plain, self.codes))


@dataclass(frozen=True)
class Selection:
    """All codes that a mapping needs, of columns that are wanted.

    Attributes:
        columns: by name, columns that are made of records.
        chosen: by name, the codes of those that are not about the person.
        index: the codes of the record that days are counted from, if one is named.
    """

    columns: dict[str, RecordColumn]
    chosen: dict[str, Chosen]
    index: Chosen | None = None

    @classmethod
    def of(cls, mapping: TableMapping, wanted: Container[str]) -> "Selection":
        """Read the codes of a mapping.

        Raises:
            DataError: a code or value set that does not exist; a `take` or `within` that its
                column cannot have.
        """
        columns = {
            name: column
            for name, column in mapping.columns.items()
            if isinstance(column, RecordColumn) and name in wanted
        }
        chosen = {}
        for name, column in columns.items():
            key = f"{mapping.source}: 'columns.{name}"
            for kind in KINDS:
                names: tuple[str, ...] = getattr(column, kind)
                if names:
                    codes = _codes(kind, names, f"{key}.{kind}'")
                    chosen[name] = Chosen(kind, codes, column.descendants)
            _check(column, key, has_index=mapping.records.index is not None)
        index = None
        if mapping.records.index is not None:
            index = _index(mapping.records.index, f"{mapping.source}: 'records.index'")
        return cls(columns, chosen, index)

    def wants(self, kind: RecordKind, codes: Collection[Code]) -> bool:
        """Return whether any column, or the index, is made of records with these codes."""
        return any(one.kind == kind and one.has(codes) for one in self.all_chosen)

    def codes(self, kind: RecordKind) -> frozenset[Code]:
        """Return all codes of a kind, as a server is asked for them."""
        return frozenset(c for one in self.all_chosen if one.kind == kind for c in one.codes)

    @property
    def all_chosen(self) -> tuple[Chosen, ...]:
        """Codes of each column and of the index."""
        return (*self.chosen.values(), *([] if self.index is None else [self.index]))


def _plain(code: Code) -> Code:
    """Write a code of ICD-10 without its point, which hospitals leave out or not."""
    return Code("icd10", code.code.replace(".", "")) if code.system == "icd10" else code


def _codes(kind: RecordKind, names: Iterable[str], key: str) -> frozenset[Code]:
    sets = {} if kind == "condition" else value_sets(kind)
    found: set[Code] = set()
    for name in names:
        if name in sets:
            found.update(Code(system, code) for system, code in sets[name])
            continue
        # An address holds colons itself, so that FHIR's own '|' may separate it from the code.
        system, _, code = name.partition("|") if "|" in name else name.partition(":")
        if not system or not code.strip():
            near = get_close_matches(name, sets, 3) or sorted(sets)
            known = f"; value sets: {', '.join(near)}" if near else ""
            raise DataError(
                f"{key} names {name!r}, which is neither a code such as loinc:2160-0 nor a value "
                f"set{known}."
            )
        found.add(Code(short_system(system), code.strip()))
    return frozenset(found)


def _index(text: str, key: str) -> Chosen:
    kind, _, names = text.strip().partition(" ")
    known: dict[str, RecordKind] = {one: one for one in KINDS}
    if kind not in known or not names.strip():
        raise DataError(
            f"{key} is {text!r}; write a kind and a code, e.g. 'drug rxnorm:11289'; kinds: "
            f"{', '.join(KINDS)}."
        )
    parts = tuple(one.strip() for one in names.split(",") if one.strip())
    return Chosen(known[kind], _codes(known[kind], parts, key))


def _check(column: RecordColumn, key: str, *, has_index: bool) -> None:
    if column.within is not None and not has_index:
        raise DataError(f"{key}.within' counts days from the index; name one in records.index.")
    if column.within is not None and column.within[0] > column.within[1]:
        raise DataError(f"{key}.within' ends before it begins; write the earlier day first.")
    never = {"dose"} if column.measurement else set()
    if column.condition:
        never = {"first", "last", "mean", "lowest", "highest", "dose"}
    if column.person is not None:
        never = {column.take or "", "count"}
    if column.take in never:
        allowed = {"measurement": "all but dose", "condition": "any, count"}
        kind = "measurement" if column.measurement else "condition" if column.condition else ""
        raise DataError(
            f"{key}.take' is '{column.take}', which its records do not have; allowed: "
            f"{allowed.get(kind, 'none, as it is about the person')}."
        )
