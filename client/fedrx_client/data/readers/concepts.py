"""Finds the concepts of OMOP's vocabulary that a mapping means, and the units that concepts name.

A code of another vocabulary is looked up in `concept`; what is below a concept comes from
`concept_ancestor`. Where a database lacks these tables, concept ids still work, and the most usual
units are known (`harmonise/codes/omop_units.csv`).
"""

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Protocol

from fedrx_client.data.readers.records import Code, RecordKind
from fedrx_client.data.readers.selection import Chosen
from fedrx_common.errors import DataError

VOCABULARY = frozenset({"concept", "concept_ancestor", "drug_strength"})
"""Tables that a database may keep in a schema of their own."""

# What OMOP calls the vocabularies that a mapping names; others are looked up by their own name.
_VOCABULARIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "loinc": ("LOINC",),
        "rxnorm": ("RxNorm", "RxNorm Extension"),
        "atc": ("ATC",),
        "snomed": ("SNOMED",),
        "icd10": ("ICD10CM", "ICD10", "ICD10GM"),
        "icd9": ("ICD9CM",),
    }
)
# Vocabularies whose codes begin with the code above them, and that concept_ancestor lacks.
_NESTED = frozenset({"icd10", "icd9"})
_LARGEST = 2**63 - 1


class CdmTables(Protocol):
    """The tables of an OMOP common data model, in files or a database."""

    name: str

    def columns(self, name: str, /) -> Collection[str]:
        """Return a table's columns in small letters; none where there is no such table."""
        ...

    def rows(
        self,
        name: str,
        columns: Sequence[str],
        where: Mapping[str, Collection[int] | Collection[str]],
        /,
    ) -> Iterator[tuple[str, ...]]:
        """Give rows as text, "" where nothing is recorded or the table lacks a column.

        Args:
            name: the table, in small letters.
            columns: which to give, in small letters.
            where: if not empty, only rows that have one of its values in any of its columns.
        """
        ...


Concepts = Mapping[int, tuple[Code, ...]]
"""Concepts of a kind of record, each with the codes of the mapping that it counts for."""


def concepts_of(tables: CdmTables, kind: RecordKind, chosen: Iterable[Chosen]) -> Concepts:
    """Find the concepts of all columns that are made of one kind of record.

    Raises:
        DataError: a column's codes are no concepts here; a code is named both with what is below
            it and without.
    """
    columns = tuple(chosen)
    below = _below(kind, columns)
    found: dict[int, dict[Code, None]] = {}
    for code, concept in _looked_up(tables, below):
        found.setdefault(concept, {})[code] = None
    named = {code for codes in found.values() for code in codes}
    for column in columns:
        if named.isdisjoint(column.codes):
            code = min(column.codes, key=lambda code: (code.system, code.code))
            lacking = "" if tables.columns("concept") else "; it has no table 'concept'"
            raise DataError(
                f"{tables.name}: no concept is {code.system}:{code.code}, which the mapping names "
                f"of a {kind}{lacking}; name OMOP's concept id instead, e.g. omop:3016723."
            )
    roots = [one for one, codes in found.items() if any(below[code] for code in codes)]
    if roots and tables.columns("concept_ancestor"):
        wanted = ("ancestor_concept_id", "descendant_concept_id")
        _require(tables, "concept_ancestor", wanted)
        above = {one: dict(found[one]) for one in roots}
        for ancestor, descendant in tables.rows(
            "concept_ancestor", wanted, {"ancestor_concept_id": roots}
        ):
            codes = above[concept_id(ancestor)]
            found.setdefault(concept_id(descendant), {}).update(
                (code, None) for code in codes if below[code]
            )
    return {one: tuple(codes) for one, codes in found.items()}


def _below(kind: RecordKind, chosen: Iterable[Chosen]) -> dict[Code, bool]:
    """Say of each code whether what is below it counts too; a record is told apart by code only."""
    below: dict[Code, bool] = {}
    for one in chosen:
        for code in one.codes:
            if below.setdefault(code, one.below) != one.below:
                raise DataError(
                    f"the mapping names {kind} {code.system}:{code.code} both with and without "
                    "descendants; choose one for all columns."
                )
    return below


def _looked_up(tables: CdmTables, below: Mapping[Code, bool]) -> Iterator[tuple[Code, int]]:
    """Give each code with a concept that it is; a code of ICD-10 with those below it too."""
    others: dict[str, list[Code]] = {}
    for code in below:
        if code.system == "omop":
            one = concept_id(code.code)
            if not one:
                raise DataError(f"{code.code!r} is no concept id; write e.g. omop:3016723.")
            yield code, one
        else:
            others.setdefault(code.system, []).append(code)
    wanted = ("concept_id", "concept_code", "vocabulary_id")
    if not others or not tables.columns("concept"):
        return
    _require(tables, "concept", wanted)
    for system, codes in others.items():
        known = _VOCABULARIES.get(system, (system,))
        nested = system in _NESTED and any(below[code] for code in codes)
        written = {_plain(code.code): code for code in codes}
        where = {"vocabulary_id": known} if nested else {"concept_code": [c.code for c in codes]}
        for identity, text, vocabulary in tables.rows("concept", wanted, where):
            if vocabulary.casefold() not in {name.casefold() for name in known}:
                continue
            plain = _plain(text)
            for length in range(1, len(plain) + 1) if nested else [len(plain)]:
                begins = written.get(plain[:length])
                if begins is not None and (length == len(plain) or below[begins]):
                    yield begins, concept_id(identity)


def units_of(tables: CdmTables) -> Mapping[int, str]:
    """Return the unit of each concept of UCUM: those that ship, and those of the vocabulary."""
    found = dict(_usual_units())
    wanted = ("concept_id", "concept_code")
    if {*wanted, "vocabulary_id"} <= {*tables.columns("concept")}:
        for one, unit in tables.rows("concept", wanted, {"vocabulary_id": ["UCUM"]}):
            found[concept_id(one)] = unit
    return found


def concept_id(text: str) -> int:
    """Read a concept id; 0, which is OMOP's "no matching concept", where the text is none."""
    digits = text.strip().removesuffix(".0")  # of a column of floats, in an exported file
    one = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else 0
    return one if one <= _LARGEST else 0


def _require(tables: CdmTables, name: str, wanted: Iterable[str]) -> None:
    lacking = sorted(set(wanted) - set(tables.columns(name)))
    if lacking:
        raise DataError(f"{tables.name}: table '{name}' has no column '{lacking[0]}'.")


def _plain(code: str) -> str:
    return code.strip().replace(".", "").upper()


@lru_cache(maxsize=1)
def _usual_units() -> Mapping[int, str]:
    beside = files("fedrx_client.data.harmonise.codes").joinpath("omop_units.csv")
    rows = csv.DictReader(beside.read_text(encoding="utf-8").splitlines())
    return MappingProxyType({int(row["concept_id"]): row["ucum"] for row in rows})
