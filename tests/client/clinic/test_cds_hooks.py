"""CDS Hooks over real HTTP: what a record system asks, the card it gets, and what is recorded."""

import threading
import time
import uuid
from contextlib import contextmanager
from datetime import date

import httpx
import pytest
import uvicorn
from bedside import MAPPING, bundle, coded, measurements, observation, order, person, quantity
from spare_ports import free_ports

from fedrx.study_templates import TASKS, template
from fedrx_client.clinic.service.app import make_app
from fedrx_client.clinic.service.hooks import HookRequest
from fedrx_client.clinic.service.services_file import read_services
from fedrx_client.clinic.service.serving import Desk
from fedrx_common.errors import FedRxError
from fedrx_models.card import ModelCard
from fedrx_models.files import change_card, save_model
from fedrx_models.pharmacogenomic.published_model import published_model
from fedrx_protocol.study.study import Study

STUDY = Study.parse(template("dose"), source=TASKS["dose"])
SERVICES = """
[[service]]
id = "dose-at-a-glance"
hook = "patient-view"
model = "iwpc.safetensors"
mapping = "record.toml"

[[service]]
id = "dose-of-an-order"
hook = "order-select"
model = "iwpc.safetensors"
mapping = "record.toml"
drugs = ["warfarin"]

[[service]]
id = "dose-signed"
hook = "order-sign"
model = "iwpc.safetensors"
mapping = "record.toml"
drugs = ["warfarin"]
"""
WARFARIN, ASPIRIN, AMIODARONE = "11289", "1191", "703"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("served")
    model = published_model("pharmacogenetic", STUDY.feature_schema)
    card = ModelCard(study=STUDY.name, title="IWPC 2009", made=date(2026, 1, 2))
    save_model(place / "iwpc.safetensors", model, STUDY.digest, card)
    (place / "record.toml").write_text(MAPPING)
    (place / "services.toml").write_text(SERVICES)
    return place


@pytest.fixture(scope="module")
def recorded():
    return []


@contextmanager
def serving(folder, recorded):
    """A real server on loopback, and a real HTTP client."""
    desk = Desk(
        read_services(folder / "services.toml").services,
        lambda kind, reason, study: recorded.append((kind, reason, study)),
    )
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    app = make_app(desk, tokens=None, address=address)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.05)
        with httpx.Client(base_url=address, timeout=60) as found:
            yield found
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(folder, recorded):
    with serving(folder, recorded) as found:
        yield found


def question(hook="patient-view", resources=None, orders=None, patient="p1"):
    """Answer the discovery's queries, as a record system does."""
    resources = [person(), *measurements()] if resources is None else resources
    kinds = ("Observation", "MedicationRequest", "MedicationStatement", "Condition")
    prefetch = {"patient": next((r for r in resources if r["resourceType"] == "Patient"), None)}
    for kind in kinds:
        some = [one for one in resources if one["resourceType"] == kind]
        prefetch[kind.lower()] = bundle(*some) if some else None
    context = {"userId": "Practitioner/d1", "patientId": patient}
    if orders is not None:
        drafts = [order(code, status="draft") for code in orders]
        context |= {"draftOrders": bundle(*drafts)}
        context |= {"selections": [f"MedicationRequest/m{code}" for code in orders]}
    return {
        "hook": hook,
        "hookInstance": str(uuid.uuid4()),
        "context": context,
        "prefetch": prefetch,
    }


def test_discovery_names_each_service_and_what_it_needs(client):
    services = {one["id"]: one for one in client.get("/cds-services").json()["services"]}
    assert set(services) == {"dose-at-a-glance", "dose-of-an-order", "dose-signed"}
    one = services["dose-at-a-glance"]
    assert one["hook"] == "patient-view"
    assert "IWPC 2009" in one["title"]
    assert "medical device" in one["description"]
    assert one["prefetch"]["patient"] == "Patient/{{context.patientId}}"
    assert "http://loinc.org|8302-2" in one["prefetch"]["observation"]
    assert one["prefetch"]["observation"].startswith("Observation?patient={{context.patientId}}")


def test_a_card_has_dose_interval_model_and_who_decides(client, recorded):
    answer = client.post("/cds-services/dose-at-a-glance", json=question())
    assert answer.status_code == 200, answer.text
    (card,) = answer.json()["cards"]
    # By hand from the published equation; the patient is 65 on the day of the last record.
    root = 5.6044 - 0.2614 * 6 + 0.0087 * 170 + 0.0128 * 80 - 0.8677 - 0.9357
    assert f"{root**2:.3g} (" in card["summary"]
    assert "mg/week" in card["summary"]
    assert len(card["summary"]) <= 140
    assert card["indicator"] in {"info", "warning"}
    assert "no medical device" in card["detail"]
    assert "CYP2C9 *1/*3 lowers the dose by" in card["detail"].replace("\\", "")
    assert card["source"]["label"].startswith("FedRx warfarin_dose-")
    assert {one["code"] for one in card["overrideReasons"]} >= {"guideline", "other"}
    kind, reason, study = recorded[-1]
    assert (kind, study) == ("card", STUDY.digest)
    assert card["uuid"] in reason
    assert "p1" not in reason.split()


@pytest.mark.parametrize(
    ("path", "hook"), [("dose-of-an-order", "order-select"), ("dose-signed", "order-sign")]
)
def test_an_order_of_another_drug_gets_no_card(client, path, hook):
    def asked(codes):
        answer = client.post(f"/cds-services/{path}", json=question(hook, orders=codes))
        assert answer.status_code == 200, answer.text
        return answer.json()["cards"]

    assert asked([ASPIRIN]) == []
    assert len(asked([ASPIRIN, WARFARIN])) == 1


def test_a_drug_that_is_taken_lowers_the_dose_and_one_that_is_planned_does_not(client):
    def dose(resources, orders):
        asked = question("order-select", resources, orders)
        (card,) = client.post("/cds-services/dose-of-an-order", json=asked).json()["cards"]
        return float(card["summary"].split(": ")[1].split(" (")[0])

    plain = [person(), *measurements()]
    usual = dose(plain, [WARFARIN])
    assert dose([*plain, order(AMIODARONE)], [WARFARIN]) < usual
    assert dose(plain, [WARFARIN, AMIODARONE]) == usual


def test_feedback_is_recorded_by_code_and_its_comment_is_not_kept(client, recorded):
    name = str(uuid.uuid4())
    told = {
        "feedback": [
            {
                "card": name,
                "outcome": "overridden",
                "outcomeTimestamp": "2026-03-01T08:05:00Z",
                "overrideReason": {
                    "reason": {"code": "guideline", "system": "urn:fedrx:override-reason"},
                    "userComment": "Ottilie bleeds",
                },
            }
        ]
    }
    answer = client.post("/cds-services/dose-at-a-glance/feedback", json=told)
    assert answer.status_code == 200, answer.text
    kind, reason, _ = recorded[-1]
    assert kind == "feedback"
    assert all(part in reason for part in (name, "overridden", "'guideline'"))
    assert "Ottilie" not in str(recorded)


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ([person(), *measurements(weight=900)], "outside the study's range"),
        ([person(), observation("o1", "8302-2", **quantity(170, "mg/dL"))], "cannot be converted"),
        ([person(), observation("o4", "46724-1", **coded("*1/*99"))], "is not known"),
        ([person("p2"), *measurements("p2")], "that one patient"),
        ([person(birthDate="yesterday")], "birthDate"),
    ],
)
def test_a_patient_that_cannot_be_predicted_gets_a_sentence_and_no_number(client, resources, told):
    answer = client.post("/cds-services/dose-at-a-glance", json=question(resources=resources))
    assert answer.status_code == 200, answer.text
    (card,) = answer.json()["cards"]
    assert card["summary"] == "No prediction for this patient"
    assert told in card["detail"]
    assert "Zquortmann" not in answer.text


@pytest.mark.parametrize(
    ("path", "change", "code", "told"),
    [
        ("none", {}, 404, "no CDS service"),
        ("dose-at-a-glance", {"hook": "order-sign"}, 400, "draftOrders is missing"),
        ("dose-at-a-glance", {"hookInstance": "1"}, 400, "hookInstance"),
        ("dose-at-a-glance", {"prefetch": {}}, 412, "prefetch 'patient' is missing"),
        ("dose-at-a-glance", {"context": {"userId": "u"}}, 400, "patientId"),
        ("dose-signed", {}, 404, "answers 'order-sign' only"),
    ],
)
def test_a_question_that_cannot_be_answered_is_one_sentence(client, path, change, code, told):
    answer = client.post(f"/cds-services/{path}", json={**question(), **change})
    assert answer.status_code == code, answer.text
    assert told in answer.json()["error"]


def test_bodies_that_are_no_question_are_refused(client):
    place = "/cds-services/dose-at-a-glance"
    assert client.post(place, content=b"{").status_code == 400
    assert client.post(place, content=b"x" * 5_000_000).status_code == 413
    assert client.post(place, content=iter([b"{}"])).status_code == 413
    assert client.get(place).status_code == 405
    assert client.get("/").status_code == 404


def test_a_withdrawn_model_answers_nobody(folder, recorded):
    served = read_services(folder / "services.toml").services["dose-at-a-glance"]
    gone = change_card(served.model.path, withdrawn="its reference was wrong")
    try:
        with serving(folder, recorded) as other:
            answer = other.post("/cds-services/dose-at-a-glance", json=question())
        assert answer.status_code == 410
        assert "its reference was wrong" in answer.json()["error"]
        assert recorded[-1][0] == "refusal"
    finally:
        change_card(gone.path, withdrawn="")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "service"),
        ("[[service]]\n", "id"),
        (SERVICES.replace("patient-view", "patient-look"), "hook"),
        (SERVICES.replace("iwpc.safetensors", "none.safetensors"), "no such model file"),
        (SERVICES.replace("record.toml", "none.toml"), "no such mapping file"),
        (SERVICES.replace("dose-signed", "dose-of-an-order"), "stands twice"),
        (SERVICES.replace('["warfarin"]', '["rat poison"]'), "neither a value set"),
        (f'{SERVICES}guideline = "aspirin"\n', "dose-signed.*there is no guideline 'aspirin'"),
        (f'{SERVICES}guideline = "clopidogrel"\n', "dose-signed.*needs CYP2C19"),
        (f'{SERVICES}guideline = "warfarin"\ndisagreement = 0\n', "disagreement"),
        ("[", "cannot be read"),
    ],
)
def test_a_file_of_services_that_cannot_be_used_is_one_sentence(folder, text, told):
    (folder / "bad.toml").write_text(text)
    with pytest.raises(FedRxError, match=told):
        read_services(folder / "bad.toml")
    with pytest.raises(FedRxError, match="no such file of services"):
        read_services(folder / "nowhere.toml")


def test_a_card_says_first_that_the_model_differs_from_the_guideline(folder):
    fixed = published_model("fixed", STUDY.feature_schema)
    save_model(folder / "fixed.safetensors", fixed, STUDY.digest, None)
    head = SERVICES.split("[[service]]")[1].replace("iwpc", "fixed")
    (folder / "guided.toml").write_text(f'[[service]]{head}guideline = "warfarin"\n')
    desk = Desk(read_services(folder / "guided.toml").services, lambda *_: None)
    (served,) = desk.services.values()
    (card,) = desk.answer(served, HookRequest.model_validate(question()), "a client")
    assert card["summary"].startswith("Differs from the guideline")
    assert card["detail"].startswith("The model's 35 mg/week is")
    assert "FDA label" in card["detail"]
    assert card["indicator"] == "warning"
