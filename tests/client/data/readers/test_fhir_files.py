"""Bundles and bulk exports become records; what is malformed is one sentence without a value."""

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from fhir_export import bundle, write_ndjson
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_client.data.readers.fhir.files import read_fhir
from fedrx_client.data.readers.records import Code, Event, Person, Records, When
from fedrx_common.errors import DataError

SECRET = "Zaphodqqq"
LOINC, RXNORM = "http://loinc.org", "http://www.nlm.nih.gov/research/umls/rxnorm"
UCUM = "http://unitsofmeasure.org"


def concept(system, code):
    return {"coding": [{"system": system, "code": code, "display": SECRET}], "text": SECRET}


def patient(**more):
    return {
        "resourceType": "Patient",
        "id": "p1",
        "text": {"status": "generated", "div": f"<div>{SECRET}</div>"},
        "identifier": [{"value": SECRET}],
        "name": [{"family": SECRET}],
        "telecom": [{"value": SECRET}],
        "address": [{"line": [SECRET]}],
        "photo": [{"title": SECRET}],
        "gender": "female",
        "birthDate": "1950-06-15",
        **more,
    }


def observation(**more):
    made = {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": concept(LOINC, "2160-0"),
        "subject": {"reference": "Patient/p1", "display": SECRET},
        "effectiveDateTime": "2020-01-05",
        "note": [{"text": SECRET}],
        "valueQuantity": {"value": 1.10, "unit": "mg/dl", "system": UCUM, "code": "mg/dL"},
        **more,
    }
    return {name: value for name, value in made.items() if value is not None}


def medication(kind, **more):
    return {
        "resourceType": kind,
        "status": "active" if kind != "MedicationAdministration" else "completed",
        **({"intent": "order"} if kind == "MedicationRequest" else {}),
        "medicationCodeableConcept": concept(RXNORM, "11289"),
        "subject": {"reference": "Patient/p1"},
        **more,
    }


def condition(**more):
    return {
        "resourceType": "Condition",
        "code": concept("http://hl7.org/fhir/sid/icd-10-cm", "E11.9"),
        "subject": {"reference": "Patient/p1"},
        **more,
    }


@pytest.fixture
def read(tmp_path):
    def run(*resources, text=None, name="b.json", **kwargs):
        entries = [{"resource": one} for one in resources]
        content = {"resourceType": "Bundle", "type": "collection", "entry": entries}
        path = tmp_path / name
        path.write_text(json.dumps(content) if text is None else text, encoding="utf-8")
        return read_fhir(path, **kwargs)

    return run


def when(text, precision="time"):
    return When(datetime.fromisoformat(text).replace(tzinfo=UTC), precision)


def test_a_patient_and_an_observation(read):
    found = read(observation(), patient())
    assert found.persons == {
        "p1": Person("p1", "entry 2 (Patient)", "female", when("1950-06-15", "day"))
    }
    assert found.events == (
        Event(
            "p1",
            "measurement",
            (Code("loinc", "2160-0"),),
            "entry 1 (Observation)",
            "1.1",
            "mg/dL",
            when("2020-01-05", "day"),
            when("2020-01-05", "day"),
        ),
    )
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("more", "value", "unit"),
    [
        ({"valueQuantity": {"value": 5, "comparator": "<", "unit": "mg/L"}}, "<5", "mg/L"),
        ({"valueQuantity": {"value": 5, "unit": "mg per L", "code": "x"}}, "5", "mg per L"),
        ({"valueQuantity": {"value": 5}}, "5", ""),
        ({"valueQuantity": None, "valueInteger": 3}, "3", ""),
        ({"valueQuantity": None, "valueBoolean": True}, "true", ""),
        (
            {"valueQuantity": None, "valueCodeableConcept": concept("http://snomed.info/sct", "7")},
            "7",
            "",
        ),
    ],
)
def test_values(read, more, value, unit):
    (event,) = read(patient(), observation(**more)).events
    assert (event.value, event.unit) == (value, unit)


def test_a_number_keeps_every_digit(read):
    text = json.dumps({"resourceType": "Bundle", "entry": [{"resource": observation()}]})
    for digits in ("1.10", "100.000000000000000000001", "0.50", "12"):
        changed = text.replace("1.1,", f"{digits},").replace(
            "}]}", '}, {"resource": ' + json.dumps(patient()) + "}]}"
        )
        (event,) = read(text=changed).events
        assert event.value == digits


def test_components_have_codes_and_values_of_their_own(read):
    parts = [
        {"code": concept(LOINC, "8480-6"), "valueQuantity": {"value": 120, "unit": "mm[Hg]"}},
        {"code": concept(LOINC, "8462-4"), "valueQuantity": {"value": 80, "unit": "mm[Hg]"}},
        {"code": concept(LOINC, "1-1"), "dataAbsentReason": concept("x", "unknown")},
    ]
    panel = observation(valueQuantity=None, component=parts, code=concept(LOINC, "55284-4"))
    found = read(patient(), panel)
    assert [one.codes[0].code for one in found.events] == ["8480-6", "8462-4"]
    assert found.events[1].place == "entry 2 (Observation, component 2)"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"status": "entered-in-error"}, "the Observation is entered-in-error"),
        ({"status": "cancelled"}, "the Observation is cancelled"),
        ({"valueQuantity": None}, "there is no value"),
        ({"valueQuantity": {"unit": "g"}}, "there is no value"),
        ({"valueQuantity": None, "valueString": SECRET}, "the value is a String"),
        (
            {"valueQuantity": None, "valueCodeableConcept": {"text": SECRET}},
            "the value is in words",
        ),
        (
            {"valueQuantity": None, "dataAbsentReason": concept("x", "masked")},
            "the value is absent for a reason",
        ),
        ({"code": {"text": SECRET}}, "the Observation has no code"),
        ({"subject": {"reference": "Group/g1"}}, "about no patient that has an id"),
        ({"subject": {"reference": "#p"}}, "about no patient that has an id"),
        ({"subject": None}, "about no patient that has an id"),
        ({"subject": {"reference": "Patient/p9"}}, "their Patient is not in the source"),
        ({"modifierExtension": [{"url": "http://x"}]}, "a modifier changes what"),
    ],
)
def test_what_tells_nothing_is_counted_with_a_reason(read, more, reason):
    found = read(patient(), observation(**more))
    assert found.events == ()
    ((why, count),) = found.skipped.items()
    assert why.startswith(reason) or reason in why
    assert count == 1


@pytest.mark.parametrize(
    ("text", "moment", "precision"),
    [
        ("2020", datetime(2020, 1, 1, tzinfo=UTC), "year"),
        ("2020-05", datetime(2020, 5, 1, tzinfo=UTC), "month"),
        ("2020-05-17", datetime(2020, 5, 17, tzinfo=UTC), "day"),
        ("2020-05-17T08:30:00Z", datetime(2020, 5, 17, 8, 30, tzinfo=UTC), "time"),
        (
            "2020-05-17T00:30:00.5+02:00",
            datetime(2020, 5, 17, 0, 30, 0, 500_000, tzinfo=timezone(timedelta(hours=2))),
            "time",
        ),
    ],
)
def test_dates_as_far_as_they_are_known(read, text, moment, precision):
    (event,) = read(patient(), observation(effectiveDateTime=text)).events
    assert event.start == event.end == When(moment, precision)
    assert event.start.moment.utcoffset() == moment.utcoffset()


def test_periods_instants_and_no_date(read):
    period = {"start": "2020-01-05", "end": "2020-01-07"}
    found = read(
        patient(),
        observation(effectiveDateTime=None, effectivePeriod=period),
        observation(id="o2", effectiveDateTime=None, effectiveInstant="2020-01-05T08:00:00Z"),
        observation(id="o3", effectiveDateTime=None),
    )
    first, second, third = found.events
    assert (first.start, first.end) == (when("2020-01-05", "day"), when("2020-01-07", "day"))
    assert second.start == second.end == when("2020-01-05T08:00:00")
    assert third.start is None


@pytest.mark.parametrize(
    "reference",
    ["Patient/p1", "http://h.test/fhir/Patient/p1", "http://h.test/fhir/Patient/p1/_history/2"],
)
def test_references_to_a_patient(read, reference):
    (event,) = read(patient(), observation(subject={"reference": reference})).events
    assert event.patient == "p1"


def test_references_by_uuid(read):
    url = "urn:uuid:6FD3B1A0-0000-4000-8000-000000000001"
    without = {name: value for name, value in patient().items() if name != "id"}
    text = json.dumps(
        {
            "resourceType": "Bundle",
            "entry": [
                {"resource": observation(subject={"reference": url})},
                {"fullUrl": url, "resource": without},
            ],
        }
    )
    found = read(text=text)
    assert [one.patient for one in found.events] == list(found.persons)
    assert list(found.persons) == [url.lower().removeprefix("urn:uuid:")]


def test_drugs_of_each_kind(read):
    dose = {"value": 5, "unit": "mg", "system": UCUM, "code": "mg"}
    twice = {
        "timing": {"repeat": {"frequency": 2, "period": 1, "periodUnit": "d"}},
        "doseAndRate": [{"doseQuantity": dose}],
    }
    bounds = {"start": "2020-01-05", "end": "2020-01-09"}
    found = read(
        patient(),
        medication(
            "MedicationAdministration", dosage={"dose": dose}, effectiveDateTime="2020-01-05"
        ),
        medication(
            "MedicationAdministration",
            dosage={"rateQuantity": {**dose, "code": "mg/h"}},
            effectiveDateTime="2020-01-05",
        ),
        medication("MedicationStatement", dosage=[twice], effectivePeriod={"start": "2020-01-05"}),
        medication(
            "MedicationRequest",
            authoredOn="2020-01-04",
            dosageInstruction=[{**twice, "timing": {"repeat": {"boundsPeriod": bounds}}}],
        ),
        medication("MedicationRequest", status="completed", authoredOn="2020-01-05"),
        medication(
            "MedicationRequest",
            authoredOn="2020-01-05",
            dispenseRequest={"expectedSupplyDuration": {"value": 4, "code": "d"}},
            dosageInstruction=[{**twice, "timing": {"code": concept("x", "BID")}}, twice],
        ),
    ).events
    day = when("2020-01-05", "day")
    assert {(one.kind, one.codes) for one in found} == {("drug", (Code("rxnorm", "11289"),))}
    assert [(one.value, one.unit) for one in found] == [
        ("5", "mg"),
        ("5", "mg/h"),
        ("10", "mg/d"),
        ("5", "mg"),
        ("", ""),
        ("20", "mg/d"),
    ]
    assert [one.start for one in found] == [day] * 6
    assert [one.end for one in found] == [
        day,
        day,
        None,
        when("2020-01-09", "day"),
        day,
        when("2020-01-09", "day"),
    ]


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("MedicationRequest", {"status": "draft"}),
        ("MedicationRequest", {"intent": "proposal"}),
        ("MedicationRequest", {"doNotPerform": True}),
        ("MedicationStatement", {"status": "not-taken"}),
        ("MedicationAdministration", {"status": "not-done", "effectiveDateTime": "2020"}),
        ("MedicationStatement", {"medicationCodeableConcept": {"text": SECRET}}),
        (
            "MedicationRequest",
            {"medicationCodeableConcept": None, "medicationReference": {"reference": "#m"}},
        ),
    ],
)
def test_drugs_that_were_not_taken(read, kind, more):
    made = {k: v for k, v in medication(kind, **more).items() if v is not None}
    found = read(patient(), made)
    assert found.events == ()
    assert sum(found.skipped.values()) == 1


def test_a_drug_by_reference(read):
    drug = {"resourceType": "Medication", "id": "m1", "code": concept(RXNORM, "855332")}
    to = medication("MedicationRequest", medicationReference={"reference": "Medication/m1"})
    inside = medication(
        "MedicationRequest",
        medicationReference={"reference": "#x"},
        contained=[{**drug, "id": "x"}],
    )
    nowhere = {**to, "medicationReference": {"reference": "Medication/m9"}}
    made = [to, inside, nowhere]
    for one in made:
        del one["medicationCodeableConcept"]
    found = read(*made, drug, patient())
    assert [one.codes for one in found.events] == [(Code("rxnorm", "855332"),)] * 2
    assert list(found.skipped) == ["their Medication is not in the source, or has no code"]


def test_conditions(read):
    found = read(
        patient(),
        condition(onsetDateTime="2011", abatementDateTime="2012-05"),
        condition(recordedDate="2011-02-03"),
        condition(verificationStatus=concept("x", "refuted")),
    )
    first, second = found.events
    assert (first.start, first.end) == (when("2011-01-01", "year"), when("2012-05-01", "month"))
    assert (second.codes, second.start) == (
        (Code("icd10", "E11.9"),),
        when("2011-02-03", "day"),
    )
    assert sum(found.skipped.values()) == 1


@pytest.mark.parametrize(
    ("more", "death", "died"),
    [
        ({}, None, False),
        ({"deceasedBoolean": True}, None, True),
        ({"deceasedDateTime": "2021-03"}, when("2021-03-01", "month"), True),
    ],
)
def test_deaths(read, more, death, died):
    (person,) = read(patient(**more)).persons.values()
    assert (person.death, person.died) == (death, died)


def test_only_what_is_wanted_is_checked(read):
    broken = observation(status=7, code=concept(LOINC, "1-1"))
    found = read(
        patient(), broken, observation(), keep=lambda _, codes: Code("loinc", "2160-0") in codes
    )
    assert len(found.events) == 1
    with pytest.raises(DataError, match=r"b\.json, entry 2 \(Observation\), field 'status'"):
        read(patient(), broken)


def test_a_resource_that_comes_twice_counts_once(read):
    found = read(patient(), patient(), observation(), observation())
    assert len(found.events) == 1
    assert found.skipped == {"given a second time": 1}
    with pytest.raises(DataError, match="field 'id': is that of another Observation too, at entry"):
        read(
            patient(),
            observation(),
            observation(status="amended", valueInteger=3, valueQuantity=None),
        )
    with pytest.raises(DataError, match="field 'id': is that of another Patient too, at entry 1"):
        read(patient(), patient(birthDate="1951-01-01"))


@pytest.mark.parametrize(
    ("resource", "sentence"),
    [
        (medication("MedicationAdministration"), "field 'effective[x]': is missing"),
        (observation(valueInteger=3), "field 'value[x]': is there twice"),
        (observation(status="done"), "(Observation), field 'status': is missing, or none of"),
        (observation(status=None), "(Observation), field 'status': is missing"),
        (observation(code=None), "(Observation), field 'code': is missing"),
        (observation(code=SECRET), "field 'code': is not what FHIR R4 allows"),
        (observation(effectiveDateTime=SECRET), "field 'effectiveDateTime': is not"),
        (observation(effectiveDateTime="2020-02-30"), "field 'effectiveDateTime': is not"),
        (observation(effectiveDateTime="2020-05-17T08:30"), "field 'effectiveDateTime': is not"),
        (observation(valueQuantity={"value": SECRET}), "field 'valueQuantity.value': is not"),
        (observation(valueQuantity=[SECRET]), "field 'valueQuantity"),
        (
            observation(valueQuantity={"value": 1, "comparator": SECRET}),
            "valueQuantity.comparator'",
        ),
        (observation(component=SECRET), "field 'component': is not"),
        (observation(component=1e300), "field 'component': is not"),
        (observation(subject={"reference": f"Patient/{SECRET} {SECRET}"}), "'subject.reference'"),
        (observation(id=f"{SECRET} {SECRET}"), "field 'id': is not an id"),
        (patient(birthDate=SECRET), "(Patient), field 'birthDate': is not"),
        (patient(birthDate="1950-13-45"), "(Patient), field 'birthDate': is not"),
        (patient(gender=SECRET), "(Patient), field 'gender': is none of"),
        (patient(id=None), "(Patient), field 'id'"),
        ({"resourceType": ["x"]}, "entry 1: is not a FHIR resource"),
        (SECRET, "entry 1: is not a FHIR resource"),
        (
            observation(
                effectiveDateTime=None, effectivePeriod={"start": "2020-02", "end": "2020-01"}
            ),
            "field 'effectivePeriod.end': is before its start",
        ),
    ],
)
def test_a_malformed_resource_is_one_sentence_without_its_value(read, resource, sentence):
    with pytest.raises(DataError) as caught:
        read(resource)
    text = str(caught.value)
    assert text.startswith("b.json, entry 1")
    assert sentence in text
    assert text.count("\n") == 0
    assert SECRET not in text
    assert "1950" not in text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "b.json, line 1: is not valid JSON: '{' is missing."),
        ('{"resourceType": "Bundle", "entry": [{"resource": {]}', "b.json, entry 1: is not valid"),
        ('{"resourceType": "Bundle", "entry": [{} {}]}', "b.json, line 1: is not valid JSON: ','"),
        ('{"resourceType": "Bundle"} x', "there is more after its end"),
        ('{"resourceType": "Bundle", "entry": [NaN]}', "entry 1: holds a number"),
        ('{"resourceType": "Bundle", "entry": [3]}', "entry 1: is not an entry"),
        ('{"entry": []}', "is not FHIR: its resourceType is missing"),
        ('{"resourceType": "Bundle", "entry": [{"a":' + "[" * 100_000, "entry 1: is nested"),
        ('{"resourceType": "Bundle", "x": ' + "1" * 5000 + "}", "holds a number"),
        ("[]", "'{' is missing"),
    ],
)
def test_what_is_no_bundle(read, text, sentence):
    with pytest.raises(DataError) as caught:
        read(text=text)
    assert sentence in str(caught.value)


def test_one_resource_alone_and_an_empty_bundle(read):
    assert list(read(text=json.dumps(patient())).persons) == ["p1"]
    assert read(text='{"resourceType": "Bundle", "type": "collection"}').persons == {}
    assert read(text='{"entry": [], "resourceType": "Bundle"}').persons == {}


def test_lines_of_a_bulk_export(tmp_path, read):
    lines = [json.dumps(patient()), "", json.dumps(observation())]
    found = read(text="\n".join(lines), name="all.ndjson")
    assert found.events[0].place == "line 3 (Observation)"
    packed = tmp_path / "packed.ndjson.gz"
    packed.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert len(read_fhir(packed).events) == 1
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"packed\.ndjson\.gz: cannot be read"):
        read_fhir(packed)
    with pytest.raises(DataError, match=r"all\.ndjson, line 2: is not valid JSON"):
        read(text="\n".join([lines[0], "{"]), name="all.ndjson")
    with pytest.raises(DataError, match="line 1: holds more than one"):
        read(text=lines[0] + lines[2], name="all.ndjson")


def test_bundles_in_lines_and_in_bundles(read):
    one = {"resourceType": "Bundle", "entry": [{"resource": patient()}, {"response": {}}]}
    other = {"resourceType": "Bundle", "entry": [{"resource": observation()}]}
    lines = read(text="\n".join(map(json.dumps, (one, other))), name="all.ndjson")
    assert lines.events[0].place == "line 2, entry 1 (Observation)"
    nested = read(one, other)
    assert nested.events[0].place == "entry 2, entry 1 (Observation)"
    with pytest.raises(DataError, match="entry 1, entry 1: is not an entry"):
        read({"resourceType": "Bundle", "entry": SECRET})


def test_a_folder_is_read_together(tmp_path):
    (tmp_path / "Patient.ndjson").write_text(json.dumps(patient()))
    (tmp_path / "Observation.ndjson").write_text(json.dumps(observation()))
    (tmp_path / "notes.txt").write_text(SECRET)
    found = read_fhir(tmp_path)
    assert found.source == tmp_path.name
    assert found.events[0].place == "Observation.ndjson, line 1 (Observation)"


def test_bytes_that_are_not_text(tmp_path):
    path = tmp_path / "b.json"
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match=r"b\.json: is not UTF-8 text"):
        read_fhir(path)


def without_places(records: Records):
    persons = {name: replace(one, place="") for name, one in records.persons.items()}
    return persons, [replace(one, place="") for one in records.events]


@pytest.mark.real_data
def test_every_number_of_the_synthetic_bundles_is_read_and_written_back(real_data_root, tmp_path):
    folder = real_data_root / "fhir_synthea"
    records = read_fhir(folder)
    numbers, units = 0, []
    for file in folder.glob("*.json"):
        for entry in json.loads(file.read_text())["entry"]:
            one = entry["resource"]
            parts = [one, *one.get("component", [])] if one["resourceType"] == "Observation" else []
            for quantity in (part["valueQuantity"] for part in parts if "valueQuantity" in part):
                numbers += 1
                units.append((quantity["value"], quantity["code"]))
    read = [one for one in records.events if one.kind == "measurement" and one.unit]
    assert len(read) == numbers > 600
    assert sorted((float(one.value), one.unit) for one in read) == sorted(
        (float(value), unit) for value, unit in units
    )
    assert not records.skipped
    path = tmp_path / "again.json"
    path.write_text(bundle(records))
    assert without_places(read_fhir(path)) == without_places(records)
    write_ndjson(records, tmp_path / "bulk")
    persons, events = without_places(read_fhir(tmp_path / "bulk"))
    first, all_events = without_places(records)
    assert persons == first
    assert sorted(map(repr, events)) == sorted(map(repr, all_events))


WHOLE = [
    patient(),
    observation(),
    observation(id="o2", component=[{"code": concept(LOINC, "8480-6"), "valueInteger": 4}]),
    medication(
        "MedicationRequest",
        authoredOn="2020-01-01",
        dosageInstruction=[
            {
                "timing": {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}},
                "doseAndRate": [{"doseQuantity": {"value": 5, "unit": "mg"}}],
            }
        ],
    ),
    medication("MedicationAdministration", dosage={"dose": {"value": 5, "unit": "mg"}}),
    condition(onsetPeriod={"start": "2020"}),
]
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(SECRET),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    yield path
    items = ()
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in items:
        yield from places(one, (*path, key))


PLACES = [path for path in places({"entry": [{"resource": one} for one in WHOLE]}) if path]


def mutated(path, value):
    """The bundle with one element changed, at any depth."""
    content = json.loads(
        json.dumps({"resourceType": "Bundle", "entry": [{"resource": one} for one in WHOLE]})
    )
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(content)


def read_or_refused(path):
    """Reading gives records or one sentence; nothing else, and no identifying value."""
    refused = None
    try:
        read_fhir(path)
    except DataError as error:
        refused = error
    if refused is not None:
        assert len(refused.args) == 1
        assert str(refused).startswith(path.name)
        assert SECRET not in str(refused)


@settings(max_examples=150)
@given(place=st.sampled_from(PLACES), value=ANY)
def test_any_element_may_be_anything(tmp_path_factory, place, value):
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_text(mutated(place, value))
    read_or_refused(path)


@settings(max_examples=150)
@given(data=st.data())
def test_any_character_may_be_another(tmp_path_factory, data):
    text = mutated(("resourceType",), "Bundle")
    at = data.draw(st.integers(0, len(text) - 1))
    with_what = data.draw(
        st.sampled_from(['"', "{", "}", "[", "]", ",", "0", "\\", "\x00", "é", ""])
    )
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_text(text[:at] + with_what + text[at + data.draw(st.integers(0, 9)) :])
    read_or_refused(path)
