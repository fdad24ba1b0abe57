"""The rule for text that a person may see, and how foreign text is shown."""

import shlex
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import hostile_texts, showable_texts

from fedrx_common.errors import MisuseError, days_in_words
from fedrx_common.text import (
    command,
    escaped,
    escaped_html,
    escaped_lines,
    fault_in,
    lookalike,
    quoted,
    shortened,
)


def shows(text: str) -> bool:
    """An independent reading: nothing of Unicode's categories that move, hide or break a line."""
    return all(
        unicodedata.category(letter)[0] != "C" and unicodedata.category(letter) not in {"Zl", "Zp"}
        for letter in text
    )


@pytest.mark.parametrize(
    "text",
    [
        "Charité – Universitätsmedizin Berlin",
        "東京大学医学部附属病院",
        "מרכז רפואי רבין",
        "Клиника «Мать и дитя»",
        "โรงพยาบาลศิริราช",
        "log2(TPM+1), µg/mL, m², °C, ≥ 65 & <b>",
        "Bệnh viện Bạch Mai",
        "",
    ],
)
def test_words_of_any_language_are_fine(text):
    assert fault_in(text) is None
    assert escaped(text) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\x1b[2Jb", "U+001B"),
        ("a\rb", "U+000D"),
        ("a\nb", "U+000A"),
        ("a\x9bb", "U+009B"),
        ("a\u202eb", "U+202E"),
        ("a\u2066b", "U+2066"),
        ("a\u200bb", "U+200B"),
        ("a\u2028b", "U+2028"),
        ("a\ufeffb", "U+FEFF"),
        ("a\xa0b", "U+00A0"),
        ("a\xadb", "U+00AD"),
        ("a\u3164b", "U+3164"),
        ("a\ufe0fb", "U+FE0F"),
        ("a\ue000b", "U+E000"),
        ("a\ud800b", "U+D800"),
        ("a\u0378b", "U+0378"),
        ("\u0301a", "U+0301"),
        ("a" + "\u0335" * 5, "U+0335"),
        ("Charite\u0301", "normal form"),
        ("a  b", "a space too many"),
        (" a", "a space too many"),
        ("a ", "a space too many"),
        ("a" * 2001, "2001 characters"),
    ],
    ids=ascii,
)
def test_what_must_not_stand_on_a_page(text, says):
    assert says in fault_in(text)


def test_a_table_has_its_own_spaces_and_forms_but_shows():
    assert fault_in("Weight  (kg) ", as_in_table=True) is None
    assert fault_in("Ge\u0301ne", as_in_table=True) is None
    assert "U+001B" in fault_in("a\x1bb", as_in_table=True)


@given(st.one_of(showable_texts(), hostile_texts))
def test_what_is_let_in_shows_as_it_is(text):
    if fault_in(text) is None:
        assert shows(text)
        assert escaped(text) == text


@given(hostile_texts)
def test_what_is_shown_is_one_line_that_shows(text):
    for shown in (escaped(text), shortened(text, 10), quoted(text), escaped_html(text)):
        assert shows(shown)
        assert "\n" not in shown
    assert escaped(escaped(text)) == escaped(text)
    assert len(shortened(text, 10)) <= 10
    assert not set(escaped_html(text)) & set("<>\"'")
    assert all(map(shows, escaped_lines(text).split("\n")))


@given(st.lists(hostile_texts, min_size=1, max_size=3))
def test_an_error_has_as_many_lines_as_sentences(sentences):
    told = str(MisuseError(*sentences))
    assert told.count("\n") == len(sentences) - 1
    assert all(map(shows, told.split("\n")))


@given(st.lists(st.text(st.characters(exclude_characters="\x00"), min_size=1), min_size=1))
def test_a_command_can_be_pasted(words):
    assert shlex.split(command(*words)) == words


def test_a_path_is_no_option():
    assert command("fedrx", "site", "show", Path("-x y")) == "fedrx site show './-x y'"


@pytest.mark.parametrize(
    ("one", "other"), [("Charité", "CHARITÉ"), ("Mayo", "Ｍａｙｏ"), ("Straße", "STRASSE")]
)
def test_names_that_people_take_for_the_same(one, other):
    assert lookalike(one) == lookalike(other)


def test_days_are_counted_in_words():
    told = [days_in_words(seconds) for seconds in (-1, 0, 86_399, 86_400, 5 * 86_400)]
    assert told == ["less than a day"] * 3 + ["1 day", "5 days"]
