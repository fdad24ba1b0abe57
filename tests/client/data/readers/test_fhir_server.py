"""A FHIR server gives the records that its bundle would, whatever its pages, faults and manners."""

import base64
import json
import socket
import ssl
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fhir_export import bundle
from fhir_town import FhirTown
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.fhir.files import read_fhir
from fedrx_client.data.readers.fhir.server import (
    TOKEN,
    TOKEN_FILE,
    ServerLimits,
    bearer_token,
    read_server,
)
from fedrx_client.data.readers.read import read_source
from fedrx_client.data.readers.records import Code, Event, Person, Records, When
from fedrx_client.data.readers.selection import Selection
from fedrx_client.data.readers.source import Source
from fedrx_common.errors import DataError

MAPPING = """
[table]
patient = "id"
[columns.crea]
measurement = ["creatinine"]
unit = "umol/L"
[columns.systolic]
measurement = ["systolic_pressure"]
[columns.warfarin]
drug = ["warfarin"]
[columns.diabetes]
condition = ["icd10:E11"]
[columns.age]
person = "age"
"""
TOKEN_TEXT = "s3cret-token"
LOINC = "http://loinc.org"
BORN_DOE = b'{"resourceType": "Patient", "id": "p1", "birthDate": "John Doe"}'


def day(text):
    return When(datetime.fromisoformat(text).replace(tzinfo=UTC), "day")


@pytest.fixture(scope="module")
def records():
    persons, events = {}, []
    for n in range(20):
        one, start = f"p{n}", day(f"2020-01-{n + 1:02}")
        persons[one] = Person(one, "", ("female", "male")[n % 2], day(f"19{40 + n}-03-04"))
        codes = (Code("loinc", "2160-0"),)
        events.append(Event(one, "measurement", codes, "", f"0.{n + 60}", "mg/dL", start, start))
        other = (Code("loinc", "1-1"),)
        events.append(Event(one, "measurement", other, "", "1", "mg/dL", start, start))
        if n % 3 == 0:
            drug = (Code("rxnorm", "855332"),)
            events.append(Event(one, "drug", drug, "", "5", "mg/d", start, None))
        if n % 4 == 0:
            events.append(Event(one, "condition", (Code("icd10", "E11.9"),), "", start=start))
    return Records("made", persons, tuple(events))


@pytest.fixture
def town(records):
    town = FhirTown([one["resource"] for one in json.loads(bundle(records))["entry"]])
    panel = {
        "resourceType": "Observation",
        "id": "panel",
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "55284-4"}]},
        "subject": {"reference": "Patient/p3"},
        "effectiveDateTime": "2020-01-04",
        "component": [
            {
                "code": {"coding": [{"system": LOINC, "code": "8480-6"}]},
                "valueQuantity": {"value": 120, "unit": "mm[Hg]"},
            }
        ],
    }
    by_reference = {
        "resourceType": "MedicationRequest",
        "id": "by",
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/p1"},
        "authoredOn": "2020-01-02",
        "medicationReference": {"reference": "Medication/m1"},
    }
    drug = {
        "resourceType": "Medication",
        "id": "m1",
        "code": {
            "coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "11289"}]
        },
    }
    town.resources += [panel, by_reference, drug]
    return town


mapping = TableMapping.parse(MAPPING)
columns = set(mapping.columns)


def read(address, **kwargs):
    waits = []
    limits = kwargs.pop("limits", ServerLimits(page=10, attempts=3, timeout_s=5))
    found = read_server(
        Source.parse(address),
        Selection.of(mapping, columns),
        limits=limits,
        sleep=waits.append,
        **kwargs,
    )
    return found, waits


def test_the_table_is_that_of_the_bundle(town, tmp_path):
    path = tmp_path / "b.json"
    entries = [{"resource": one} for one in town.resources]
    path.write_text(json.dumps({"resourceType": "Bundle", "entry": entries}))
    from_file = read_source(Source.parse(path), mapping, columns)
    with town.open() as address:
        from_server = read_source(Source.parse(address), mapping, columns)
    assert {k: list(v) for k, v in from_server.columns.items()} == {
        k: list(v) for k, v in from_file.columns.items()
    }
    assert list(from_server.columns["warfarin"])[:5] == ["1", "1", "0", "1", "0"]
    assert list(from_server.columns["systolic"])[3] == "120"
    assert "Observation page 1, entry 1 (Observation)" in from_server.where(0, "crea")
    assert read_fhir(path, Selection.of(mapping, columns).wants).skipped == {}


@pytest.mark.parametrize("parameters", [("code", "combo-code"), ("code", "component-code"), None])
def test_components_are_found_as_the_server_can(town, parameters):
    town.parameters = parameters
    with town.open() as address:
        found, _ = read(address)
    assert sum(Code("loinc", "8480-6") in one.codes for one in found.events) == 1


def test_only_what_is_needed_is_asked_for(town):
    with town.open() as address:
        found, _ = read(address)
    assert not any(Code("loinc", "1-1") in one.codes for one in found.events)
    patients = [one for one in town.asked if one.startswith("Patient")]
    assert len(patients) == 3
    assert all("_elements=id%2Cgender%2CbirthDate%2Cdeceased" in one for one in patients)
    assert not any("p3" in one or "patient" in one for one in town.asked)
    assert len(town.asked) < 25


def test_the_token_goes_to_the_server(town):
    town.token = TOKEN_TEXT
    with town.open() as address:
        found, _ = read(address, token=TOKEN_TEXT)
        assert len(found.persons) == 20
        with pytest.raises(DataError) as caught:
            read(address)
        assert f"it refuses access (401); set {TOKEN} or {TOKEN_FILE}" in str(caught.value)
        assert "Doe" not in str(caught.value)
        with pytest.raises(DataError, match=r"\(401\); check the token"):
            read(address, token="another")


def test_a_server_in_trouble_is_asked_again(town):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=3600))
    town.faults = {
        "Patient": [(503, {}, b""), (429, {"Retry-After": "7"}, b"")],
        "Observation": [(429, {"Retry-After": later}, b"<html>"), (500, {"Retry-After": "x"}, b"")],
    }
    with town.open() as address:
        found, waits = read(address)
        assert len(found.persons) == 20
        assert waits[1] == 7.0
        assert waits[2] == 60.0
        assert all(0 <= one <= 60 for one in waits)
        assert len(waits) == 4
        town.faults["Patient"] = [(503, {}, b"")] * 3
        with pytest.raises(DataError, match=r"Patient: it is out of order \(503\) after 3"):
            read(address)


@pytest.mark.parametrize(
    ("status", "headers", "body", "sentence"),
    [
        (404, {}, b"<html>", "it refuses the search (404)"),
        (
            400,
            {},
            b'{"issue": [{"code": "invalid", "diagnostics": "John Doe"}]}',
            "it refuses the search (400, invalid); check the address",
        ),
        (302, {"Location": "http://elsewhere.test"}, b"", "leads to another address (302)"),
        (403, {}, b"", "it refuses access (403)"),
        (200, {}, b"<html>John Doe", "answer to Patient: is not valid JSON (line 1, column 1)"),
        (200, {}, b"[]", "its answer is not one JSON object"),
        (200, {}, b'{"resourceType": "Patient"}', "it gives no bundle"),
        (200, {}, b'{"resourceType": "Bundle", "entry": 3}', "its entries are not a list"),
        (200, {}, b'{"resourceType": "Bundle", "entry": [3]}', "entry 1: is not an entry"),
        (
            200,
            {},
            b'{"resourceType": "Bundle", "entry": [{"resource": %s}]}' % BORN_DOE,
            "Patient page 1, entry 1 (Patient), field 'birthDate': is not",
        ),
        (200, {}, b"\xff" * 2000, "is not valid JSON"),
    ],
)
def test_what_a_server_should_not_say(town, status, headers, body, sentence):
    town.faults = {"Patient": [(status, headers, body)]}
    with town.open() as address:
        with pytest.raises(DataError) as caught:
            read(address)
        text = str(caught.value)
        assert sentence in text
        assert text.startswith(address)
        assert "Doe" not in text
        assert len(caught.value.args) == 1


KEYS = ["resourceType", "entry", "link", "rest", "resource", "type", "searchParam", "name", "id"]
KEYS += ["fhirVersion", "relation", "url", "fullUrl", "issue", "code", "birthDate"]
TEXTS = ["Bundle", "Patient", "next", "4.0.1", "Doe", "", "http://[", "//x:99999999/", "p1"]
ANSWERS = st.recursive(
    st.none() | st.integers() | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=80)
@given(status=st.sampled_from([200, 200, 400]), capable=ANSWERS, found=ANSWERS)
def test_any_answer_is_read_or_refused(status, capable, found):
    town = FhirTown([])
    if isinstance(found, dict):
        found = {"resourceType": "Bundle", **found}
    town.faults = {
        "metadata": [(200, {}, json.dumps(capable).encode())],
        "Patient": [(status, {}, json.dumps(found).encode())],
    }
    refused = None
    with town.open() as address:
        try:
            read(address)
        except DataError as error:
            refused = error
        if refused is not None:
            assert str(refused).startswith(address)
            assert "Doe" not in str(refused)


def test_pages_lead_nowhere_else_and_end(town):
    town.token, town.next_base = TOKEN_TEXT, "http://127.0.0.1:1/fhir"
    with town.open() as address:
        with pytest.raises(DataError, match="link to the next page leads to another address"):
            read(address, token=TOKEN_TEXT)
        for wrong in ("http://[", 3, None, "//x:99999999/"):
            link = {"relation": "next", "url": wrong}
            page = json.dumps({"resourceType": "Bundle", "link": [link]}).encode()
            town.faults = {"Patient": [(200, {}, page)]}
            with pytest.raises(DataError, match="leads to another address"):
                read(address, token=TOKEN_TEXT)
        link = {"relation": "next", "url": f"{address}/Patient?again"}
        page = json.dumps({"resourceType": "Bundle", "link": [link]}).encode()
        town.faults = {"Patient": [(200, {}, page)] * 3}
        with pytest.raises(DataError, match="its pages have no end"):
            read(address, token=TOKEN_TEXT)


def test_a_page_has_a_size(town):
    with town.open() as address, pytest.raises(DataError, match="a page is too large"):
        read(address, limits=ServerLimits(page_bytes=500))


def test_another_version_of_fhir_is_refused(town):
    body = json.dumps({"resourceType": "CapabilityStatement", "fhirVersion": "3.0.2"}).encode()
    town.faults = {"metadata": [(200, {}, body)]}
    with town.open() as address, pytest.raises(DataError, match="another version of FHIR"):
        read(address)


def test_a_server_that_is_not_there_or_silent():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/fhir"
        limits = ServerLimits(attempts=2, timeout_s=0.2)
        with pytest.raises(DataError, match="it does not answer in time"):
            read(address, limits=limits)
    with pytest.raises(DataError, match="it cannot be reached"):
        read(address, limits=limits)


def test_a_certificate_that_nobody_trusts(own_certificate):
    with own_certificate() as address, pytest.raises(DataError, match="certificate is not trusted"):
        read(address)


@pytest.fixture
def own_certificate(tmp_path):
    """An https server with a certificate of its own making."""

    @contextmanager
    def serve():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = tmp_path / "server.pem"
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        server.handle_error = lambda *_: None
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"https://localhost:{server.server_address[1]}/fhir"
        finally:
            server.shutdown()
            server.server_close()

    return serve


@pytest.mark.parametrize(
    ("address", "token", "sentence"),
    [
        ("http://fhir.hospital.test/r4", "t", "is not encrypted, so that no token is sent"),
        ("https://fhir.hospital.test/r4?x=1", None, "without a search"),
        ("https://user:pw@/r4", None, "without a search"),
        ("https://user:pw@fhir.hospital.test/r4", "t", "there is a token too"),
        ("http://user:pw@fhir.hospital.test/r4", None, "is not encrypted"),
        ("https://h.test:x/", None, "is not an address"),
    ],
)
def test_addresses_that_cannot_be_used(address, token, sentence):
    with pytest.raises(DataError) as caught:
        read(address, token=token)
    assert sentence in str(caught.value)
    assert "pw" not in str(caught.value)


def test_a_user_in_the_address_is_sent_with_every_page(town):
    with town.open() as address:
        found, _ = read(address.replace("127", "me:p%40w@127"))
    assert len(found.persons) == 20
    expected = "Basic " + base64.b64encode(b"me:p@w").decode()
    assert {one.get("authorization") for one in town.headers} == {expected}
    assert "p@w" not in found.source
    assert "p%40w" not in found.source


def test_the_token_comes_from_the_environment_or_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN_TEXT}\n")
    assert bearer_token({}) is None
    assert bearer_token({TOKEN: TOKEN_TEXT}) == TOKEN_TEXT
    assert bearer_token({TOKEN_FILE: str(file)}) == TOKEN_TEXT
    with pytest.raises(DataError, match="both set"):
        bearer_token({TOKEN: TOKEN_TEXT, TOKEN_FILE: str(file)})
    with pytest.raises(DataError, match="cannot be read"):
        bearer_token({TOKEN_FILE: str(tmp_path / "none")})
    with pytest.raises(DataError, match="is not a bearer token") as caught:
        bearer_token({TOKEN: f"{TOKEN_TEXT}\r\nX: y"})
    assert TOKEN_TEXT not in str(caught.value)


def test_records_are_those_of_the_source(town, records):
    with town.open() as address:
        found, _ = read(address)
    wanted = {"2160-0", "855332", "E11.9"}
    plain = {_plain(one) for one in records.events if one.codes[0].code in wanted}
    own = {_plain(one) for one in found.events}
    assert plain < own
    assert len(own - plain) == 2  # the panel's component, and the drug by reference


def _plain(event):
    """Without its place, and with a number as a number: this server's JSON rounds 0.60 to 0.6."""
    value = repr(float(event.value)) if event.value else ""
    return replace(event, place="", value=value)
