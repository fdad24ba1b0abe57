"""The page in a real browser: no serious fault of accessibility, and nothing but the keyboard."""

import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from bedside_server import COURSES, DOSES, serving, write_files
from playwright.sync_api import sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}"),
]
PHONE = {"width": 390, "height": 844}
LOOKS = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": PHONE},
    "dark phone": {"viewport": PHONE, "color_scheme": "dark"},
}


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["dose", "liver"])
def served(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    write_files(folder)
    with serving(folder, DOSES if request.param == "dose" else COURSES) as server:
        yield server, "p2" if request.param == "dose" else "c1"


def serious(page):
    found = Axe().run(page).response["violations"]
    return [
        (one["id"], one["impact"], node["html"][:200])
        for one in found
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("look", LOOKS)
def test_no_serious_fault_and_nothing_wider_than_the_screen(chromium, served, look):
    server, patient = served
    context = chromium.new_context(bypass_csp=True, **LOOKS[look])  # axe is put into the page
    page = context.new_page()
    page.set_default_timeout(120_000)
    try:
        page.goto(server.login())
        assert serious(page) == []
        page.fill("#patient", patient)
        page.keyboard.press("Enter")
        page.wait_for_selector("#predicted")
        assert serious(page) == []
        page.locator("#ask select").first.select_option(index=1)
        page.wait_for_selector("#answer .then")
        page.wait_for_function("!document.querySelector('#answer[aria-busy]')")
        page.wait_for_timeout(300)  # a colour fades in
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.goto(f"{server.address}/page/look/00000000-0000-0000-0000-000000000000")
        assert serious(page) == []
    finally:
        context.close()


def test_by_keyboard_alone_under_the_real_policy_and_by_a_link_of_another_site(chromium, served):
    server, patient = served
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(120_000)
    told, asked = [], set()
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.add(request.url.split("/page")[0]))
    try:
        page.goto(server.login())
        assert page.evaluate("document.activeElement.id") == "patient"
        page.keyboard.type(patient)
        page.keyboard.press("Enter")
        page.wait_for_selector("#predicted")
        place = page.url
        assert re.fullmatch(r".*/page/look/[0-9a-f-]{36}", place)
        assert patient not in page.title()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        slider = page.locator("#ask input[type=range]").first
        slider.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#answer .then")
        assert page.evaluate("document.cookie") == ""
        assert told == []
        assert asked == {server.address}
        # A link of another site comes without the cookie at first.
        elsewhere = server.address.replace("127.0.0.1", "localhost")
        page.goto(f"{elsewhere}/health")
        page.evaluate("place => { location.href = place }", place)
        page.wait_for_selector("#predicted")
        assert page.url.startswith(place)
    finally:
        context.close()
