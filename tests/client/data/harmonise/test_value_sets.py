"""Each code of a value set is well formed, has one meaning and a source."""

import csv
import re
from importlib.resources import files

import pytest

from fedrx_client.data.harmonise.codes.value_sets import addresses_of, short_system, value_sets

TABLES = files("fedrx_client.data.harmonise.codes")


def rows(name):
    return list(csv.DictReader(TABLES.joinpath(name).read_text(encoding="utf-8").splitlines()))


def check_digit(body):
    """LOINC's own, mod 10 (Regenstrief, LOINC users' guide, appendix C)."""
    total = 0
    for i, digit in enumerate(map(int, reversed(body))):
        doubled = digit * 2 if i % 2 == 0 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return (10 - total % 10) % 10


@pytest.mark.parametrize("name", ["markers.csv", "drugs.csv"])
def test_each_code_has_one_meaning_and_a_source(name):
    found = rows(name)
    codes = [(row["system"], row["code"]) for row in found]
    assert len(set(codes)) == len(codes)
    assert all(all(row.values()) for row in found)
    assert [row["name"] for row in found] == sorted(row["name"] for row in found)


def test_codes_of_loinc_have_their_check_digit():
    codes = [row["code"] for row in rows("markers.csv") if row["system"] == "loinc"]
    assert len(codes) > 60
    for code in codes:
        body, _, digit = code.partition("-")
        assert check_digit(body) == int(digit), code


def test_codes_of_drugs_have_their_form():
    for row in rows("drugs.csv"):
        form = r"[A-Z]\d\d[A-Z]{2}\d\d" if row["system"] == "atc" else r"\d{2,8}"
        assert re.fullmatch(form, row["code"]), row


def test_each_analyte_is_a_marker_or_a_drug():
    known = {*value_sets("measurement"), *value_sets("drug")}
    masses = {row["analyte"]: float(row["grams_per_mole"]) for row in rows("analytes.csv")}
    assert masses.keys() <= known
    assert all(10 < mass < 1e5 for mass in masses.values())
    assert all(all(row.values()) for row in rows("analytes.csv"))


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://loinc.org", "loinc"),
        ("http://loinc.org/", "loinc"),
        ("LOINC", "loinc"),
        ("urn:oid:2.16.840.1.113883.6.88", "rxnorm"),
        ("http://hl7.org/fhir/sid/icd-10-cm", "icd10"),
        ("http://hospital.test/codes", "http://hospital.test/codes"),
        ("", ""),
    ],
)
def test_vocabularies_have_short_names(address, name):
    assert short_system(address) == name


def test_servers_are_asked_by_addresses():
    assert addresses_of("loinc") == ("http://loinc.org",)
    assert "http://hl7.org/fhir/sid/icd-10" in addresses_of("icd10")
    assert addresses_of("http://hospital.test/codes") == ("http://hospital.test/codes",)
