"""Looks up what the name of a value set, a code or a vocabulary's address stands for.

The tables are beside this file; each row names its source.
"""

import csv
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Literal

Pairs = tuple[tuple[str, str], ...]

# Addresses of vocabularies in FHIR (terminology.hl7.org), as URL and as OID, and their short names.
_SYSTEMS: Mapping[str, str] = MappingProxyType(
    {
        "http://loinc.org": "loinc",
        "urn:oid:2.16.840.1.113883.6.1": "loinc",
        "http://www.nlm.nih.gov/research/umls/rxnorm": "rxnorm",
        "urn:oid:2.16.840.1.113883.6.88": "rxnorm",
        "http://www.whocc.no/atc": "atc",
        "urn:oid:2.16.840.1.113883.6.73": "atc",
        "http://fhir.de/codesystem/bfarm/atc": "atc",
        "http://snomed.info/sct": "snomed",
        "urn:oid:2.16.840.1.113883.6.96": "snomed",
        "http://hl7.org/fhir/sid/icd-10": "icd10",
        "http://hl7.org/fhir/sid/icd-10-cm": "icd10",
        "http://hl7.org/fhir/sid/icd-10-de": "icd10",
        "http://fhir.de/codesystem/bfarm/icd-10-gm": "icd10",
        "urn:oid:2.16.840.1.113883.6.3": "icd10",
        "urn:oid:2.16.840.1.113883.6.90": "icd10",
        "http://hl7.org/fhir/sid/ndc": "ndc",
        "https://athena.ohdsi.org": "omop",
    }
)
_SHORT = frozenset(_SYSTEMS.values())

Valued = Literal["measurement", "drug"]
_TABLES: Mapping[Valued, str] = MappingProxyType(
    {"measurement": "markers.csv", "drug": "drugs.csv"}
)


def short_system(address: str) -> str:
    """Return the short name of a vocabulary, or its address where it has none."""
    name = address.strip().rstrip("/").lower()
    return _SYSTEMS.get(name) or (name if name in _SHORT else address.strip())


def addresses_of(system: str) -> tuple[str, ...]:
    """Return the addresses by which FHIR servers know a vocabulary; itself where it is one."""
    found = tuple(address for address, name in _SYSTEMS.items() if name == system)
    return tuple(one for one in found if not one.startswith("urn:")) or (system,)


@lru_cache(maxsize=2)
def value_sets(kind: Valued) -> Mapping[str, Pairs]:
    """Return the codes of each value set, as `(system, code)`, by its name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for row in _rows(_TABLES[kind]):
        found.setdefault(row["name"], []).append((row["system"], row["code"]))
    return MappingProxyType({name: tuple(codes) for name, codes in found.items()})


@lru_cache(maxsize=1024)
def analyte_of(names: tuple[str, ...]) -> str | None:
    """Return the analyte that all these codes and value sets measure; `None` if there is not one.

    Args:
        names: as a mapping writes them: `creatinine` or `loinc:2160-0`.
    """
    sets = value_sets("measurement")
    owners = {f"{system}:{code}": name for name, codes in sets.items() for system, code in codes}
    found = {name if name in sets else owners.get(name) for name in names} - {None}
    only = next(iter(found)) if len(found) == 1 else None
    return only if only is not None and molar_mass(only) is not None else None


def molar_mass(analyte: str) -> float | None:
    """Return the molar mass of an analyte in g/mol; `None` if the table does not have it."""
    return _molar_masses().get(analyte)


def analytes() -> tuple[str, ...]:
    """List the analytes whose molar mass is known."""
    return tuple(_molar_masses())


@lru_cache(maxsize=1)
def _molar_masses() -> Mapping[str, float]:
    rows = _rows("analytes.csv")
    return MappingProxyType({row["analyte"]: float(row["grams_per_mole"]) for row in rows})


def _rows(name: str) -> list[dict[str, str]]:
    text = files("fedrx_client.data.harmonise.codes").joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
