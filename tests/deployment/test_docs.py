"""Docs cannot drift: every command, link and test that they name exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import command_lines, complaint

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROSE = sorted([*(ROOT / "docs").glob("*.md"), *DEPLOY.rglob("*.md"), ROOT / "SECURITY.md"])
SOURCES = [
    file
    for room in ("client", "server", "protocol", "common")
    for file in (ROOT / room).rglob("*.py")
]
CAMELS = {"LoadCredential"}  # systemd's
NOTES = DEPLOY / "helm" / "fedrx" / "templates" / "NOTES.txt"
SHOWN = [*PROSE, *DEPLOY.rglob("*.sh"), NOTES, ROOT / "README.md"]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_every_command_shown_to_a_person_exists(path):
    wrong = [
        f"line {number}: fedrx {' '.join(words)}: {said}"
        for number, words, whole in command_lines(path)
        if (said := complaint(words, whole=whole))
    ]
    assert not wrong


def test_wrong_command_lines_would_be_noticed():
    for words in (
        ["site", "dance"],
        ["site", "ledger", "charite", "--verfy"],
        ["site", "join", "--roster", "roster.json"],
        ["coordinator", "enroll", "consortium"],
        ["simulate", "a", "b"],
        ["site", "join", "charite", "--roster"],
    ):
        assert complaint(words), words
    assert complaint(["site", "ledger", "charite", "--verify"]) is None


def test_there_is_a_guide_for_everybody():
    names = {path.name for path in PROSE}
    guides = {f"getting-started-{user}.md" for user in ("site", "coordinator", "researcher")}
    assert guides | {"threat-model.md", "operations.md", "README.md"} <= names


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    missing = [one for one in targets if "://" not in one and not (path.parent / one).exists()]
    assert not missing


def named_tests(text):
    """Tests named in prose as `tests/room/test_file.py::test_name`, or with a class between."""
    return re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)+)`", text)


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_every_test_that_is_named_exists(path):
    for file, inside in named_tests(path.read_text(encoding="utf-8")):
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in inside.split("::")[1:]:
            assert re.search(rf"\b(?:def|class) {name}\b", source), f"{file}::{name}"


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_every_reason_that_is_named_exists(path):
    source = "\n".join(file.read_text(encoding="utf-8") for file in SOURCES)
    named = re.findall(r"`((?:[A-Z][a-z]+){2,})`", path.read_text(encoding="utf-8"))
    assert not [name for name in named if name not in CAMELS and f"class {name}(" not in source]


def test_every_promise_names_the_test_that_holds_it():
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    section = text.split("## What is promised", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if re.match(r"\| \*?\*?P\d+", line)]
    assert len(rows) >= 10
    assert not [row for row in rows if not named_tests(row)]


DECISIONS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name)
def test_a_decision_has_a_status_and_a_date(path):
    head = "\n".join(path.read_text(encoding="utf-8").splitlines()[:5])
    assert re.search(r"^\W*Status\W+\w.*\d{4}-\d{2}-\d{2}", head, re.MULTILINE)


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert [name for name in pages if f": {name}\n" not in menu] == []


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = [*(tmp_path / "site").rglob("*.html")]
    assert len(pages) >= 20
    loaded = re.compile(
        r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//"
    )
    assert [page.name for page in pages if loaded.search(page.read_text("utf-8"))] == []
    styles = [*(tmp_path / "site").rglob("*.css")]
    remote = re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//")
    assert [one.name for one in styles if remote.search(one.read_text("utf-8"))] == []
