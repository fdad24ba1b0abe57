"""The page of one patient over real HTTP: who gets in, what is shown, and what is recorded."""

import re
import uuid

import pytest
from bedside import bundle, measurements, person
from bedside_server import COURSES, DOSES, serving, write_files

from fedrx_client.clinic.page.looks import KEPT_S, Look, LookGone, Looks
from fedrx_models.files import change_card, load_model

HOSTILE = "<script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_files(folder, title=HOSTILE)
    with serving(folder, DOSES) as found:
        yield found


@pytest.fixture
def browser(server):
    """A client that was let in."""
    with server.client() as client:
        client.follow_redirects = True
        assert client.get(server.login()).status_code == 200
        yield client


def token_of(text: str) -> str:
    return re.search(r'name="form" value="([^"]+)"', text)[1]


def searched(browser, patient, service="dose"):
    form = token_of(browser.get("/page").text)
    return browser.post("/page/search", data={"form": form, "service": service, "patient": patient})


def test_a_login_link_counts_once_and_leaves_no_trace_in_the_address(server):
    with server.client() as client:
        link = server.login()
        answer = client.get(link)
        assert (answer.status_code, answer.headers["location"]) == (303, "/page")
        cookie = answer.headers["set-cookie"]
        assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/"))
        assert client.get("/page").status_code == 200
        client.cookies.clear()
        again = client.get(link)
        assert again.status_code == 401
        assert "used before" in again.text


def test_without_a_visit_nothing_is_shown(server):
    with server.client() as client:
        hop = client.get("/page")
        assert "again=true" in hop.text  # a link on another site comes without the cookie
        assert client.get("/page?again=true").status_code == 401
        assert client.get(f"/page/look/{uuid.uuid4()}?again=true").status_code == 401
        form = {"form": "x", "service": "dose", "patient": "p1"}
        assert client.post("/page/search", data=form).status_code == 401
        assert client.post("/page/link", data=form).status_code == 401


def test_a_form_of_another_site_is_refused(browser):
    told = {"service": "dose", "patient": "p1"}
    assert browser.post("/page/search", data={**told, "form": "guess"}).status_code == 401
    own = token_of(browser.get("/page").text)
    crossed = browser.post(
        "/page/search", data={**told, "form": own}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert crossed.status_code == 401


def test_a_patient_is_shown_with_value_reasons_and_what_was_missing(browser, server):
    before = len(server.recorded)
    page = searched(browser, "p2")
    assert page.status_code == 200, page.text
    assert re.fullmatch(r"/page/look/[0-9a-f-]{36}", page.url.path)
    # By hand from the published equation, without a weight: the study's mean stands in.
    root = 5.6044 - 0.2614 * 8 + 0.0087 * 155 + 0.0128 * 78 - 1.6974 - 2.3312 - 0.1092 - 0.5503
    assert f">{root**2:.3g}</span>" in page.text
    assert "CYP2C9 *3/*3 lowers the dose by" in page.text
    assert "Weight</strong>: used the study" in page.text
    assert "no medical device" in page.text
    assert "A person decides" in page.text
    found = server.recorded[before:]
    assert [kind for kind, *_ in found] == ["card"]
    assert "p2" not in str(found)
    assert "p2" not in re.search("<title>(.*)</title>", page.text)[1]


def test_what_if_answers_with_the_same_model_and_refuses_what_it_never_saw(browser, server):
    page = searched(browser, "p1")
    form = {"form": token_of(page.text)}
    place, part = page.url.path, {"X-Part": "answer"}

    def asked(**changes):
        fields = {**form, **{f"feature.{name}": value for name, value in changes.items()}}
        return browser.post(place, data=fields, headers=part)

    answer = asked(weight_kg="100")
    root = 5.6044 - 0.2614 * 6 + 0.0087 * 170 + 0.0128 * 100 - 0.8677 - 0.9357
    assert f"{root**2:.3g} (" in answer.text
    assert "more than as recorded" in answer.text
    assert "weight 100 kg instead of 80" in answer.text
    assert "<html" not in answer.text
    assert "Nothing is changed" in asked(weight_kg="80").text
    assert "outside the study&#39;s range" in asked(weight_kg="900").text
    assert "is not a number" in asked(weight_kg="heavy").text
    assert "is not one of the values" in asked(cyp2c9="*1/*99").text
    assert "no field of this form" in asked(shoe_size="44").text
    whole = browser.post(place, data={**form, "feature.weight_kg": "100"})
    assert "<html" in whole.text
    assert f"{root**2:.3g} (" in whole.text
    assert "100" not in str(server.recorded)


@pytest.mark.parametrize(
    ("patient", "told"),
    [
        ("nobody", "no patient of this id"),
        ("p3", "height_cm"),
        ("x" * 500, "1 to 200 characters"),
        ("", "1 to 200 characters"),
    ],
)
def test_a_patient_that_cannot_be_shown_is_one_sentence(browser, patient, told):
    page = searched(browser, patient)
    assert page.status_code == 422
    assert told in page.text


def test_foreign_text_is_text(browser):
    page = searched(browser, "<b>")
    assert page.status_code == 200
    assert "<script>alert" not in page.text
    assert "<b>" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text


def test_every_answer_is_bound_to_this_server_and_kept_nowhere(browser):
    for place in ("/page", "/page/static/page.js", "/page/static/page.css", "/page/nothing"):
        answer = browser.get(place)
        assert answer.headers["cache-control"] == "no-store", place
        if place != "/page/nothing":
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
    text = searched(browser, "p1").text
    assert not re.search(r'\son[a-z]+="|style="|<style|https?://', text)
    assert browser.get("/page/static/secret.txt").status_code == 404


def test_a_request_under_another_name_is_refused(server):
    with server.client() as client:
        assert client.get("/page", headers={"Host": "rebound.example.org"}).status_code == 421
        assert client.get("/page", headers={"Host": "[::bad"}).status_code == 421


def test_a_cards_link_leads_to_its_patient_and_does_not_name_him(browser, server):
    observations = bundle(*measurements())
    question = {
        "hook": "patient-view",
        "hookInstance": str(uuid.uuid4()),
        "context": {"userId": "Practitioner/d1", "patientId": "p1"},
        "prefetch": {
            "patient": person(),
            "observation": observations,
            "medicationrequest": None,
            "medicationstatement": None,
            "condition": None,
        },
    }
    (card,) = browser.post("/cds-services/dose", json=question).json()["cards"]
    (link,) = card["links"]
    assert link["type"] == "absolute"
    assert link["url"] == f"{server.address}/page/look/{card['uuid']}"
    page = browser.get(link["url"])
    assert page.status_code == 200
    assert "CYP2C9 *1/*3" in page.text
    assert browser.get(f"/page/look/{uuid.uuid4()}").status_code == 404


def test_a_look_is_forgotten_after_some_minutes(server):
    clock = [0.0]
    looks = Looks(now=lambda: clock[0])
    one = Look(uuid.uuid4(), server.page.services["dose"], None)
    looks.keep(one)
    clock[0] += KEPT_S - 1
    assert looks.find(one.name) is one
    clock[0] += KEPT_S + 1
    with pytest.raises(LookGone):
        looks.find(one.name)


def test_one_more_browser_is_let_in_by_one_that_is_in(browser, server):
    form = {"form": token_of(browser.get("/page").text)}
    made = browser.post("/page/link", data=form)
    link = re.search(r'class="link">([^<]+)<', made.text)[1]
    with server.client() as other:
        assert other.get(link).status_code == 303
    assert browser.post("/page/logout", data=form).status_code == 200
    assert browser.get("/page?again=true").status_code == 401


def test_a_model_that_is_withdrawn_while_served_refuses_from_then_on(browser, server):
    path = server.folder / "iwpc.safetensors"
    kept = path.read_bytes()
    page = searched(browser, "p1")
    try:
        change_card(path, withdrawn="its reference was wrong")
        gone = browser.get(page.url.path)
        assert gone.status_code == 410
        assert "its reference was wrong" in gone.text
        path.write_bytes((server.folder / "liver.safetensors").read_bytes())
        assert "another model now" in browser.get(page.url.path).text
        path.unlink()
        assert "cannot be read" in browser.get(page.url.path).text
    finally:
        path.write_bytes(kept)
    assert browser.get(page.url.path).status_code == 200
    assert load_model(path).card.withdrawn == ""


def test_a_course_is_drawn_with_its_band_and_asked_under_another_treatment(tmp_path):
    write_files(tmp_path)
    with serving(tmp_path, COURSES) as server, server.client() as client:
        client.follow_redirects = True
        client.get(server.login())
        page = searched(client, "c1", "liver")
        assert page.status_code == 200, page.text
        assert page.text.count('class="band"') == 2  # bilirubin and albumin
        assert page.text.count('class="measured"') == 8
        assert "last measured 3.4 mg/dL" in page.text
        form = {"form": token_of(page.text), "treatment.d_penicillamine": "no"}
        answer = client.post(page.url.path, data=form, headers={"X-Part": "answer"})
        assert "no instead of yes" in answer.text
        assert answer.text.count('class="usual"') == 2
