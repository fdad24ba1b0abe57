"""Requests that nobody would send: whatever comes, the server answers, and never by a mistake."""

import copy
import os
import uuid

import hypothesis
import pytest
import schemathesis
from bedside import bundle, measurements, person
from bedside_server import DOSES, write_files
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from fedrx_client.clinic.page.access import Access
from fedrx_client.clinic.page.routes import BedsidePage, page_router
from fedrx_client.clinic.service.app import make_app
from fedrx_client.clinic.service.services_file import read_services
from fedrx_client.clinic.service.serving import Desk

ADDRESS = "http://testserver"
LONGEST_REASON = 1000  # of the audit log
EXAMPLES = int(os.environ.get("ATTACK_EXAMPLES", "40"))  # of each operation


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """The app, the cookies of a browser that is in, and the text of its forms."""
    folder = tmp_path_factory.mktemp("attacked")
    write_files(folder)
    (folder / "services.toml").write_text(DOSES)
    bedside = read_services(folder / "services.toml")

    def audit(kind, reason, study):
        assert 0 < len(reason) <= LONGEST_REASON

    page = BedsidePage(bedside.services, bedside.searches, audit, Access("visit"), secure=False)
    desk = Desk(bedside.services, audit, page.link_for(ADDRESS))
    app = make_app(desk, tokens=None, address=ADDRESS, page=page_router(page))
    value = page.access.enter(page.access.new_link())
    return app, {"visit": value}, page.access.visit(value).form


@pytest.mark.slow
def test_whatever_the_description_allows_is_answered(attacked):
    app, cookies, form = attacked
    described = schemathesis.openapi.from_asgi("/openapi.json", app)
    sent = 0
    operations = [found.ok() for found in described.get_all_operations()]
    # Logging out ends the visit, so it comes last.
    for operation in sorted(operations, key=lambda one: one.path.endswith("/logout")):

        @given(operation.as_strategy())
        @hypothesis.settings(
            max_examples=EXAMPLES, suppress_health_check=list(hypothesis.HealthCheck)
        )
        def attack(case):
            nonlocal sent
            sent += 1
            if case.operation.path.startswith("/cds-services/{name}"):
                case.path_parameters["name"] = "dose"
            elif isinstance(case.body, dict) and sent % 3:  # most forms are those of the page
                case.body["form"] = form
            answer = case.call(cookies=cookies)
            assert answer.status_code < 500, answer.text

        attack()
    assert sent > EXAMPLES


NOTHING_GOOD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30)
    | st.sampled_from(["1961-13-45", "<script>", "kg", "http://loinc.org", "Patient/p1", "\u0000"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=6,
)


def places_in(value, path=()):
    """Every place of a JSON value, as a path."""
    found = [path] if path else []
    if isinstance(value, dict):
        inner = value.items()
    else:
        inner = enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        found += places_in(one, (*path, key))
    return found


QUESTION = {
    "hook": "patient-view",
    "hookInstance": str(uuid.UUID(int=7)),
    "context": {"userId": "Practitioner/d1", "patientId": "p1"},
    "prefetch": {
        "patient": person(),
        "observation": bundle(*measurements()),
        "medicationrequest": None,
        "medicationstatement": None,
        "condition": None,
    },
}


@pytest.fixture(scope="module")
def client(attacked):
    with TestClient(attacked[0], base_url=ADDRESS) as found:
        yield found


@given(st.lists(st.tuples(st.sampled_from(places_in(QUESTION)), NOTHING_GOOD), max_size=3))
@hypothesis.settings(max_examples=150, suppress_health_check=list(hypothesis.HealthCheck))
def test_a_record_with_anything_in_it_is_answered(client, changes):
    question = copy.deepcopy(QUESTION)
    for path, value in changes:
        part = question
        try:
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue  # an earlier change removed the place
    answer = client.post("/cds-services/dose", json=question)
    assert answer.status_code in {200, 400, 412}, answer.text
    if answer.status_code == 200:
        for card in answer.json()["cards"]:
            assert len(card["summary"]) <= 140
            assert "<script" not in card["detail"].replace("\\<", "")


@given(st.binary(max_size=400))
@hypothesis.settings(max_examples=60, suppress_health_check=list(hypothesis.HealthCheck))
def test_any_bytes_are_answered(client, attacked, body):
    for place, kind in (
        ("/cds-services/dose", "application/json"),
        ("/cds-services/dose/feedback", "application/json"),
        ("/page/search", "application/x-www-form-urlencoded"),
    ):
        client.cookies.update(attacked[1])
        answer = client.post(place, content=body, headers={"Content-Type": kind})
        assert answer.status_code < 500, answer.text
