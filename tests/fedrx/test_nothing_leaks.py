"""A patient's name, birth date and record number, put in every field: nothing stored holds them.

Every file that a command writes is searched, and every line that it prints: pages, run folders,
site folders, temporary files, logs. Only the hospital's own files may hold them.
"""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from live_hospital import MAPPING as LIVE_MAPPING
from live_hospital import HonestCoordinator, Region
from small_consortium import small_cohort

from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.source import Source
from fedrx_client.identity.identity import SiteIdentity
from fedrx_client.participation.site_source import SiteSource
from fedrx_protocol.study.study import Study

NAME, FIRST, BIRTH, MRN = "Zachariasson", "Wilhelmina", "1931-07-23", "88834721"
SECRETS = (NAME, FIRST, BIRTH, MRN)
QUALITY = ("data", "quality", "study.toml", "--source", "patients.csv")
SITE = ("study.toml", "--data", "patients.csv", "--mapping", "mapping.toml")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Temporary files go to a folder that is searched too."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def named(text):
    """Give every patient a record number as id, and columns with a name and a birth date."""
    header, *rows = text.strip().splitlines()
    lines = [f"name,first,born,{header},remark"]
    for i, row in enumerate(rows):
        rest = row.split(",", 1)[1]
        remark = f"{FIRST} {NAME} * {BIRTH} MRN {MRN}"
        lines.append(f"{NAME},{FIRST},{BIRTH},{MRN}{i:03},{rest},{remark}")
    return "\n".join(lines) + "\n"


def found_in(folder, *own):
    """Files under a folder that hold a secret, besides the hospital's own."""
    hits = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in own:
            continue
        data = path.read_bytes()
        texts = [data, str(path.relative_to(folder)).encode()]
        if data.startswith(b"\x1f\x8b"):
            texts.append(gzip.decompress(data))
        hits += [(path.name, one) for one in SECRETS for text in texts if one.encode() in text]
    return hits


def silent(ran):
    assert not [one for one in SECRETS if one in ran.out + ran.err], ran
    return ran


def test_the_search_finds_what_is_there(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.log").write_text(f"patient {NAME}")
    (tmp_path / "x" / "b.gz").write_bytes(gzip.compress(f"id {MRN}001".encode()))
    (tmp_path / "x" / f"{FIRST}.txt").write_text("")
    assert {name for name, _ in found_in(tmp_path)} == {"a.log", "b.gz", f"{FIRST}.txt"}
    assert found_in(tmp_path, "a.log", "b.gz", f"{FIRST}.txt") == []


def test_commands_on_data_store_and_print_none(fedrx, place):
    (place / "patients.csv").write_text(named((place / "patients.csv").read_text()))
    silent(fedrx(*QUALITY, "--mapping", "mapping.toml", "--output", "page.html"))
    silent(fedrx(*QUALITY, "--mapping", "mapping.toml", "--json"))
    silent(fedrx("data", "map", "patients.csv", "study.toml", "--output", "proposed.toml"))
    silent(fedrx(*QUALITY, "--mapping", "proposed.toml", "--output", "again.html"))
    start = ("--data", "patients.csv", "--mapping", "mapping.toml", "--split-by", "site")
    ran = silent(fedrx("simulate", "study.toml", *start, "--output", "run"))
    assert ran.code == 0, ran
    assert found_in(place, "patients.csv") == []


@pytest.mark.parametrize("column", ["weight", "dose", "snp"])
def test_a_name_in_a_column_that_is_read_is_stored_nowhere(fedrx, joined, place, column):
    lines = (place / "patients.csv").read_text().splitlines()
    at = lines[0].split(",").index(column)
    for i, secret in enumerate(SECRETS[:3], start=2):
        cells = lines[i].split(",")
        cells[at] = secret
        lines[i] = ",".join(cells)
    (place / "patients.csv").write_text("\n".join(lines) + "\n")
    ran = silent(fedrx(*QUALITY, "--mapping", "mapping.toml", "--output", "page.html"))
    assert ran.code == 1
    assert (place / "page.html").is_file()
    # What goes to the person's own terminal names the cell that is wrong.
    assert fedrx("site", "check", "a", *SITE).code == 2
    assert fedrx("site", "approve", "a", *SITE, "--max-epsilon", "9", "--yes").code == 2
    assert found_in(place, "patients.csv") == []


def test_a_site_that_checks_and_approves_stores_none(fedrx, joined, place):
    (place / "patients.csv").write_text(named((place / "patients.csv").read_text()))
    silent(joined("site", "approve", "a", *SITE, "--max-epsilon", "9", "--yes"))
    silent(joined("site", "check", "a", *SITE))
    silent(joined("site", "approvals", "a", "--json"))
    silent(joined("site", "audit", "a"))
    silent(joined("site", "approve", "a", "--revoke", "small_dose"))
    silent(joined("site", "forget", "a", "--older-than", "0", "--yes"))
    assert found_in(place, "patients.csv") == []


def test_a_live_round_stores_and_answers_none(tmp_path, capsys):
    region = Region(tmp_path)
    for name in region.names:
        cohort = small_cohort(region.study, name, region.patients)
        rows = zip(
            cohort.values["age"].tolist(),
            cohort.values["carrier"].tolist(),
            cohort.target.tolist(),
            strict=True,
        )
        text = "\n".join(["id,age,carrier,dose", *(f"x,{a},{int(c)},{d}" for a, c, d in rows)])
        region.table(name).write_text(named(text))
    region.approve()
    coordinator = HonestCoordinator(region, region.grid())
    coordinator.open()
    coordinator.exchange_keys()
    coordinator.whole_round()
    # A table that breaks while the study runs is refused, and the refusal is logged.
    broken = region.table("site0").read_text().replace(",1,", f",{NAME},")
    region.table("site0").write_text(broken)
    assert region.opened(region.grid(2), 0) != "answered"
    assert region.refusals("site0")
    printed = capsys.readouterr()
    assert not [one for one in SECRETS if one in printed.out + printed.err]
    assert found_in(tmp_path, *(region.table(name).name for name in region.names)) == []


def fhir_bundle(patients):
    """Patients with names, addresses, record numbers and notes, and two observations each."""
    entries = []
    for i in range(patients):
        about = {"reference": f"Patient/{MRN}{i:03}"}
        entries.append(
            {
                "resourceType": "Patient",
                "id": f"{MRN}{i:03}",
                "identifier": [{"system": "urn:mrn", "value": f"{MRN}{i:03}"}],
                "name": [{"family": NAME, "given": [FIRST]}],
                "birthDate": BIRTH,
                "gender": "female",
                "address": [{"text": f"{NAME}gatan 1"}],
                "text": {"status": "generated", "div": f"<div>{FIRST} {NAME}</div>"},
            }
        )
        for code, value, unit in (("2160-0", 0.7 + i / 50, "mg/dL"), ("29463-7", 60 + i, "kg")):
            entries.append(
                {
                    "resourceType": "Observation",
                    "id": f"o{i}-{code}",
                    "status": "final",
                    "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                    "subject": {**about, "display": f"{FIRST} {NAME}"},
                    "effectiveDateTime": "2020-03-01",
                    "valueQuantity": {
                        "value": value,
                        "unit": unit,
                        "system": "http://unitsofmeasure.org",
                        "code": unit,
                    },
                    "note": [{"text": f"{FIRST} {NAME}, born {BIRTH}, MRN {MRN}"}],
                }
            )
    wrapped = [{"resource": entry} for entry in entries]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": wrapped})


FHIR_STUDY = """
name = "kidney"
[cohort]
patients = 60
largest_site = 60
minimum_per_site = 5
[model]
name = "linear"
[target]
name = "creatinine"
unit = "mg/dL"
minimum = 0.1
maximum = 20
mean = 1.0
scale = 0.5
[[features]]
name = "age"
kind = "number"
unit = "year"
minimum = 0
maximum = 120
mean = 70
scale = 20
[[features]]
name = "weight"
kind = "number"
unit = "kg"
minimum = 20
maximum = 300
mean = 78
scale = 20
"""
FHIR_MAPPING = """
[table]
patient = "patient"
[records]
index = "measurement loinc:2160-0"
[columns.patient]
person = "id"
[columns.age]
person = "age"
[columns.crea]
measurement = ["loinc:2160-0"]
unit = "mg/dL"
take = "first"
[columns.kg]
measurement = ["loinc:29463-7"]
unit = "kg"
take = "first"
[target]
column = "crea"
unit = "mg/dL"
[features.age]
kind = "number"
column = "age"
unit = "year"
[features.weight]
kind = "number"
column = "kg"
unit = "kg"
"""


def test_a_cohort_of_a_server_is_kept_without_them(fedrx, place, tmp_path):
    (place / "bundle.json").write_text(fhir_bundle(30))
    (place / "kidney.toml").write_text(FHIR_STUDY)
    (place / "fhir.toml").write_text(FHIR_MAPPING)
    given = ("kidney.toml", "--source", "bundle.json", "--mapping", "fhir.toml")
    ran = silent(fedrx("data", "quality", *given, "--output", "page.html"))
    assert "30 patients" in ran.out, ran
    (tmp_path / "live").mkdir()
    region = Region(tmp_path / "live")
    home, study = region.home("site0"), Study.parse(FHIR_STUDY)
    mapping, source = TableMapping.parse(FHIR_MAPPING), Source.parse("bundle.json")
    # As if the bundle were a server's: what is read is de-identified, and kept.
    server = Source.parse("https://fhir.example.org/r4")
    way = SiteSource(
        folder=home,
        site="site0",
        study=study,
        mapping=mapping,
        source=server,
        load=lambda _, *given, **named_: load_cohort(source, *given, **named_),
    )
    key = SiteIdentity(home).keys().identity
    loaded = way.read()
    way.keep(loaded, key, now=region.now)
    kept = loaded.cohort
    assert len(kept) == 30
    assert not [one for one in kept.patients if MRN in one]
    assert (kept.values["age"] <= 90).all()
    assert way.approved(key, now=region.now).cohort.fingerprint == kept.fingerprint
    assert found_in(place, "bundle.json") == []


def test_the_live_mapping_names_no_secret():
    assert not [one for one in SECRETS if one in LIVE_MAPPING + str(Path(__file__).parent)]
