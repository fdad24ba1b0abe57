"""Text from outside cannot write on the page that a hospital signs, nor move its terminal."""

import copy
import io
import os
import subprocess
import sys
import tomllib
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_doses import SCHEMA
from texts import hostile_texts

import fedrx as package
from fedrx.cli.main import main
from fedrx.views.site import study_page
from fedrx_client.data.mapping import TableMapping
from fedrx_common.errors import DataError, StudyError
from fedrx_models.planning import make_plan
from fedrx_protocol.study.study import Study

FILES = ("--data", "patients.csv", "--mapping", "mapping.toml")
FAKE = "Epsilon: 0"
REWRITES = {
    "clear": f"a\x1b[2J{FAKE}",
    "return": f"a\r{FAKE}",
    "line": f"a\n{FAKE}",
    "bidi": f"a\u202e{FAKE}",
    "zero width": f"a\u200b{FAKE}",
    "long": f"a {FAKE}" * 1000,
}


def lines_that_show(text):
    """Every line of a page, each of which only shows."""
    lines = text.split("\n")
    assert all(unicodedata.category(letter)[0] != "C" for line in lines for letter in line), lines
    return lines


def leaves(value, path=()):
    """Where a document's texts stand."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        if isinstance(one, dict | list):
            yield from leaves(one, (*path, key))
        elif isinstance(one, str):
            yield (*path, key)


DOCUMENT = tomllib.loads(
    """
name = "small_dose"
title = "Doses"
description = "Of a drug"
[cohort]
patients = 60
largest_site = 40
[model]
name = "linear"
[training]
rounds = 3
[privacy]
mode = "none"
[metrics]
evaluations = 1
"""
    + SCHEMA
)


def with_text(path, text):
    """The document with one text replaced."""
    document = copy.deepcopy(DOCUMENT)
    table = document
    for part in path[:-1]:
        table = table[part]
    table[path[-1]] = text
    return document


PAGE = len(lines_that_show(study_page(make_plan(Study.from_document(DOCUMENT, source="x"), 3), 40)))


def accepted(source, read):
    """What a document gives, or None if it is refused in sentences that only show."""
    try:
        return read()
    except (StudyError, DataError) as refused:
        lines = lines_that_show(str(refused))
    assert all(line.startswith(f"{source}: ") for line in lines), lines
    return None


@given(st.sampled_from([path for path in leaves(DOCUMENT) if path[0] != "model"]), hostile_texts)
@settings(max_examples=300)
def test_no_text_of_a_study_writes_on_the_page(path, text):
    document = with_text(path, text)
    study = accepted("s.toml", lambda: Study.from_document(document, source="s.toml"))
    if study is not None:
        assert len(lines_that_show(study_page(make_plan(study, 3), 40))) == PAGE


@given(hostile_texts.filter(lambda key: key.strip() not in DOCUMENT), hostile_texts)
def test_no_key_of_a_study_does(key, value):
    model = {"name": "linear", key: value}
    for document in ({**DOCUMENT, key: value}, with_text(("model",), model)):
        study = accepted("s.toml", lambda d=document: Study.from_document(d, source="s.toml"))
        if study is not None:
            lines_that_show(" ".join(map(str, study.model.parameters.items())))


@given(hostile_texts)
def test_no_text_of_a_mapping_does(text):
    known = (letter for letter in text if not "\ud800" <= letter <= "\udfff")  # TOML knows no such
    quoted = '"' + "".join(f"\\U{ord(letter):08x}" for letter in known) + '"'
    for place in (
        f"[table]\npatient = {quoted}",
        f"[table]\npatient = 'id'\n{quoted} = 1",
        f"[table]\npatient = 'id'\nmissing = [{quoted}]",
    ):
        mapping = accepted("m.toml", lambda p=place: TableMapping.parse(p, source="m.toml"))
        if mapping is not None:
            lines_that_show(" ".join([mapping.table.patient, *mapping.table.missing]))


@pytest.mark.parametrize("text", REWRITES.values(), ids=REWRITES.keys())
@pytest.mark.parametrize("place", ["title", "unit", "value"])
def test_a_study_that_rewrites_the_page_is_refused(place, text):
    path = {
        "title": ("title",),
        "unit": ("target", "unit"),
        "value": next(path for path in leaves(DOCUMENT) if "values" in path),
    }[place]
    with pytest.raises(StudyError) as raised:
        Study.from_document(with_text(path, text), source="study.toml")
    (line,) = lines_that_show(str(raised.value))
    assert len(line) < 300


def ran(*argv, cwd, **environment):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from fedrx.cli.main import main; main()", *argv],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_what_check_and_approve_print_of_a_hostile_study(joined, place):
    good = (place / "study.toml").read_text()
    approve = ("--max-epsilon", "9", "--yes")
    for verb, text, more in (("check", "a\\u001b[2J", ()), ("approve", "a\\rb\\u202e", approve)):
        (place / "study.toml").write_text(f'title = "{text}"\n{good}')
        done = ran("site", verb, "a", "study.toml", *FILES, *more, cwd=place)
        assert (done.returncode, done.stdout) == (2, b"")
        (line,) = lines_that_show(done.stderr.decode().rstrip("\n"))
        assert "title" in line
    assert not (place / "a" / "approvals").exists()


def test_a_cell_that_moves_the_terminal_is_escaped(fedrx, joined, place):
    rows = (place / "patients.csv").read_text().replace("CT", "\x1b[2JCT\u202e", 1)
    (place / "patients.csv").write_text(rows)
    done = fedrx("site", "check", "a", "study.toml", *FILES)
    assert done.code == 2
    assert "\\x1b[2JCT\\u202e" in "".join(lines_that_show(done.out))


def test_markup_of_rich_is_text(fedrx, place):
    good = (place / "study.toml").read_text()
    (place / "study.toml").write_text(f'title = "[red]A[/red] :smile: [/]"\n{good}')
    done = fedrx("simulate", "study.toml", *FILES, "--split-by", "site", "--no-baselines")
    assert done.code == 0, done.err
    assert "[red]A[/red] :smile: [/]" in done.out


@pytest.mark.parametrize(
    ("encoding", "epsilon"),
    [("ascii", b"\\u03b5"), ("latin-1", b"\\u03b5"), ("utf-8", "ε".encode())],
)
def test_what_a_terminal_has_not_is_an_escape(place, monkeypatch, encoding, epsilon):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "argv", ["fedrx", "study", "check", "study.toml", "--sites", "3"])
    with pytest.raises(SystemExit) as ended:
        main()
    out.flush()
    assert ended.value.code == 0
    assert epsilon + b" = 8 at" in out.buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "terminal"),
    [
        (("simulate", "--help"), {"PYTHONIOENCODING": "ascii"}),
        (
            ("study", "check", "Grüße ε.toml"),
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        ),
    ],
    ids=["help", "error"],
)
def test_help_and_errors_at_such_a_terminal(place, argv, terminal):
    done = ran(*argv, cwd=place, **terminal)
    assert done.returncode == (0 if "--help" in argv else 2)
    assert b"Traceback" not in done.stderr
    assert b".toml" in done.stderr or b"--missingness" in done.stdout


def test_a_hint_can_be_pasted(fedrx, place):
    done = fedrx("study", "new", "--output", "my study's.toml")
    assert """run `fedrx study check 'my study'"'"'s.toml'`""" in done.out


def test_the_package_lists_its_names_and_imports_nothing_for_that():
    code = "import sys, fedrx; print(*dir(fedrx)); print('torch' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    ).stdout.splitlines()
    assert told == [" ".join(sorted(package.__all__)), "False"]
