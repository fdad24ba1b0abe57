"""The specification's example requests, and cards against its table of fields.

Source: CDS Hooks 2.0 (HL7, 2022), sections "Calling a CDS Service", "CDS Service Response" and
"Feedback", and the pages of the hooks patient-view, order-select and order-sign; facts of its
examples, in its field names. The ballot of 3.0 asks the same of what is answered here.
"""

import copy
import uuid
from urllib.parse import urlsplit

import pytest
from bedside import bundle, measurements, order, person
from bedside_server import DOSES, serving, write_files

HOOKS = ("patient-view", "order-select", "order-sign")
SERVICES = "".join(
    f"""
[[service]]
id = "{hook}"
hook = "{hook}"
model = "iwpc.safetensors"
mapping = "record.toml"
{"" if hook == "patient-view" else 'drugs = ["warfarin"]'}
"""
    for hook in HOOKS
)
PATIENT = "1288992"
INSTANCE = "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea"
ACCESS = {
    "access_token": "some-opaque-fhir-access-token",
    "token_type": "Bearer",
    "expires_in": 300,
    "scope": "patient/Patient.read patient/Observation.read",
    "subject": "cds-service4",
}
GREETED = {
    "resourceType": "Patient",
    "gender": "male",
    "birthDate": "1925-12-23",
    "id": PATIENT,
    "active": True,
}
DIET = {
    "resourceType": "NutritionOrder",
    "id": "pureeddiet-simple",
    "identifier": [{"system": "http://goodhealthhospital.org/nutrition-requests", "value": "123"}],
    "status": "draft",
    "patient": {"reference": f"Patient/{PATIENT}"},
    "dateTime": "2014-09-17",
    "orderer": {"reference": "Practitioner/example", "display": "Dr Adam Careful"},
    "oralDiet": {"type": [{"coding": [{"system": "http://snomed.info/sct", "code": "226211001"}]}]},
}
AMOXICILLIN = {
    "resourceType": "MedicationRequest",
    "id": "smart-MedicationRequest-103",
    "meta": {"lastUpdated": "2018-04-30T13:25:40.845-04:00"},
    "text": {
        "status": "generated",
        "div": '<div xmlns="http://www.w3.org/1999/xhtml">Amoxicillin (rxnorm: 617993)</div>',
    },
    "status": "draft",
    "intent": "order",
    "medicationCodeableConcept": {
        "coding": [
            {
                "system": "http://www.nlm.nih.gov/research/umls/rxnorm",
                "code": "617993",
                "display": "Amoxicillin 120 MG/ML / clavulanate potassium 8.58 MG/ML",
            }
        ]
    },
    "subject": {"reference": f"Patient/{PATIENT}"},
    # An object where R4 has a list, as the example of order-select has it.
    "dosageInstruction": [{"text": "5 mL bid x 10 days", "doseAndRate": {"doseQuantity": {}}}],
    "dispenseRequest": {"numberOfRepeatsAllowed": 1, "quantity": {"value": 1, "unit": "mL"}},
}
ORDERS = {
    "resourceType": "Bundle",
    "entry": [{"resource": DIET}, {"resource": AMOXICILLIN}],
}
CONTEXTS = {
    "patient-view": {
        "userId": "Practitioner/example",
        "patientId": PATIENT,
        "encounterId": "89284",
    },
    "order-select": {
        "userId": "PractitionerRole/123",
        "patientId": PATIENT,
        "encounterId": "89284",
        "selections": [
            "NutritionOrder/pureeddiet-simple",
            "MedicationRequest/smart-MedicationRequest-103",
        ],
        "draftOrders": ORDERS,
    },
    "order-sign": {
        "userId": "PractitionerRole/123",
        "patientId": PATIENT,
        "encounterId": "89284",
        "draftOrders": ORDERS,
    },
}
CARD_FIELDS = {  # by the specification's table: whether a field is required, and its type
    "uuid": (False, str),
    "summary": (True, str),
    "detail": (False, str),
    "indicator": (True, str),
    "source": (True, dict),
    "suggestions": (False, list),
    "selectionBehavior": (False, str),
    "overrideReasons": (False, list),
    "links": (False, list),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    write_files(folder)
    page = DOSES.split("\n\n")[-1]
    with serving(folder, SERVICES + page) as server, server.client() as found:
        yield found


def example(hook):
    """The request that the specification prints, for this hook."""
    return {
        "hookInstance": INSTANCE,
        "fhirServer": "https://hooks.smarthealthit.org:9080",
        "hook": hook,
        "fhirAuthorization": ACCESS,
        "context": copy.deepcopy(CONTEXTS[hook]),
        "prefetch": {"patientToGreet": GREETED},
    }


def answered(client, hook, **changes):
    """The example with the prefetch that this service asks for in its discovery."""
    services = {one["id"]: one for one in client.get("/cds-services").json()["services"]}
    asked = example(hook)
    resources = [{**one, "subject": {"reference": f"Patient/{PATIENT}"}} for one in measurements()]
    given = {"patient": person(PATIENT), "observation": bundle(*resources)}
    asked["prefetch"] = {name: given.get(name) for name in services[hook]["prefetch"]}
    return client.post(f"/cds-services/{hook}", json={**asked, **changes})


def test_discovery_has_the_fields_of_the_specification(client):
    for one in client.get("/cds-services").json()["services"]:
        assert set(one) == {"hook", "id", "title", "description", "prefetch"}
        assert one["hook"] in HOOKS
        assert all(isinstance(query, str) and query for query in one["prefetch"].values())


def test_patient_view_as_printed_lacks_the_prefetch_that_this_service_asks_for(client):
    answer = client.post("/cds-services/patient-view", json=example("patient-view"))
    assert answer.status_code == 412
    assert "prefetch" in answer.json()["error"]


@pytest.mark.parametrize("hook", ["order-select", "order-sign"])
def test_orders_as_printed_are_of_another_drug_and_get_no_card(client, hook):
    answer = client.post(f"/cds-services/{hook}", json=example(hook))
    assert (answer.status_code, answer.json()) == (200, {"cards": []})


@pytest.mark.parametrize("hook", HOOKS)
def test_an_example_with_its_prefetch_gets_a_card_of_the_specifications_fields(client, hook):
    context = copy.deepcopy(CONTEXTS[hook])
    if "draftOrders" in context:
        warfarin = order("11289", PATIENT, "draft")
        context["draftOrders"]["entry"].append({"resource": warfarin})
    answer = answered(client, hook, context=context)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    (card,) = answer.json()["cards"]
    assert set(card) <= set(CARD_FIELDS)
    for name, (required, kind) in CARD_FIELDS.items():
        assert name in card or not required
        # No field is null or empty.
        assert name not in card or (isinstance(card[name], kind) and card[name])
    assert uuid.UUID(card["uuid"])
    assert len(card["summary"]) < 140
    assert card["indicator"] in {"info", "warning", "critical"}
    assert card["source"]["label"]
    for reason in card["overrideReasons"]:
        assert set(reason) == {"code", "system", "display"}
        assert all(reason.values())
    for link in card["links"]:
        assert set(link) == {"label", "url", "type"}
        assert link["type"] == "absolute"
        assert urlsplit(link["url"]).scheme in {"http", "https"}
        assert PATIENT not in link["url"]


@pytest.mark.parametrize(
    "told",
    [
        {
            "card": "4e0a3a1e-3283-4575-ab82-028d55fe2719",
            "outcome": "accepted",
            "acceptedSuggestions": [{"id": "e56e1945-20b3-4393-8503-a1a20fd73152"}],
            "outcomeTimestamp": "2020-12-11T00:00:00Z",
        },
        {
            "card": "f6b95768-b1c8-40dc-8385-bf3504b82ffb",
            "outcome": "overridden",
            "outcomeTimestamp": "2020-12-11T00:00:00Z",
        },
        {
            "card": "9368d37b-283f-44a0-93ea-547cebab93ed",
            "outcome": "overridden",
            "overrideReason": {
                "reason": {
                    "code": "d7ecf885",
                    "system": "https://example.com/cds-hooks/override-reason-system",
                },
                "userComment": "A comment entered by the clinician.",
            },
            "outcomeTimestamp": "2020-12-11T00:00:00Z",
        },
    ],
)
def test_feedback_as_printed_is_taken(client, told):
    answer = client.post("/cds-services/patient-view/feedback", json={"feedback": [told]})
    assert answer.status_code == 200, answer.text


def test_a_client_may_send_more_than_is_read(client):
    answer = answered(client, "patient-view", extension={"org.example.x": {"a": [1, None]}})
    assert answer.status_code == 200
