"""Text that a person may see: what is let in at the edge, and how foreign text is shown.

One rule holds for every string of a study, a roster, a request and a mapping: printable, normalised
and of bounded length. What is shown is escaped all the same, because some text never passes the
edge: a key that is refused, a cell of a patients' table, a path. Nothing here raises an error of
ours, so that errors themselves can use it.
"""

import html
import re
import shlex
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

LONGEST_TEXT = 2000  # characters: a description in a few sentences
LONGEST_LINE = 200  # characters: a title, a name, a value; a page has at most three lines of it

# Marks on one letter; more of them run over the lines above and below. No script that a hospital
# writes needs more: vocalised Hebrew and Tibetan have up to 4.
_MOST_MARKS = 4
_LONGEST_QUOTE = 61
# Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties.txt) that `str.isprintable` lets
# through because they are letters or marks, and the blank Braille pattern: none of them shows.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)


def fault_in(
    text: str, *, least: int = 0, most: int = LONGEST_TEXT, as_in_table: bool = False
) -> str | None:
    """Say why a text must not be on a page that a person signs; None if it may.

    Refused: control, format (bidirectional, zero-width), surrogate, private and unassigned
    characters, line separators, every space but the ordinary one, characters that show nothing, and
    piles of marks. Letters of any language are fine.

    Args:
        text: the text.
        least: characters that it must have.
        most: characters that it may have.
        as_in_table: the text must equal what is in a hospital's own table or folder, so it may
            be in another normal form, and may have spaces anywhere.

    Returns:
        What is wrong and what to do, to follow the text in a sentence.
    """
    if not least <= len(text) <= most:
        return f"has {len(text)} characters: use {least} to {most}"
    plain = text.isascii() and text.isprintable()
    strange = None if plain else next((x for x, shows in _letters(text) if not shows), None)
    if strange is not None:
        return f"has the character U+{ord(strange):04X}, which does not show as text: remove it"
    if as_in_table:
        return None
    if not unicodedata.is_normalized("NFC", text):
        return "is not in Unicode's normal form C: type its accented letters anew"
    if text != " ".join(text.split()):
        return "has a space too many: leave single ones, and none at the ends"
    return None


def require_showable(value: object, *, as_in_table: bool = False) -> None:
    """Check every text in a value, its lists and its tables against the rule.

    Args:
        value: plain values, at most as deep as `documents` reads them.
        as_in_table: as in `fault_in`.

    Raises:
        ValueError: quotes the first text that breaks the rule, and says why.
    """
    if isinstance(value, str):
        fault = fault_in(value, as_in_table=as_in_table)
        if fault is not None:
            raise ValueError(f"{quoted(value)} {fault}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            require_showable(key, as_in_table=as_in_table)
            require_showable(inner, as_in_table=as_in_table)
    elif isinstance(value, list | tuple):
        for inner in value:
            require_showable(inner, as_in_table=as_in_table)


def escaped(text: str) -> str:
    r"""Write foreign text as one line that can be shown: what does not show becomes \x1b.

    Applied twice it changes nothing more.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter if shows else letter.encode("unicode_escape").decode("ascii")
        for letter, shows in _letters(text)
    )


def escaped_lines(text: str) -> str:
    """Write foreign text on a page of ours, whose line breaks are ours."""
    return "\n".join(map(escaped, text.split("\n")))


def escaped_html(text: str) -> str:
    """Write foreign text for a page of HTML, an attribute in quotes, or a plot's label."""
    return html.escape(escaped(text), quote=True)


def shortened(text: str, most: int) -> str:
    """Write foreign text as one line of at most so many characters."""
    shown = escaped(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def quoted(value: object) -> str:
    """Write a value as a sentence quotes it: escaped, and shortened where it is long."""
    return shortened(repr(value), _LONGEST_QUOTE)


def command(*words: str | Path) -> str:
    """Write a command line that can be pasted into a shell, whatever its paths are called."""
    texts = []
    for word in words:
        text = str(word)
        texts.append(f"./{text}" if isinstance(word, Path) and text.startswith("-") else text)
    return shlex.join(texts)


def lookalike(text: str) -> str:
    """Give two texts one form if people take them for the same, case and form aside.

    NFKC, case folded, NFKC again (Unicode, section 3.13, D147 without what `fault_in` refuses).
    Letters of different scripts that look alike stay different.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", folded)


def _letters(text: str) -> Iterator[tuple[str, bool]]:
    """Give each character, and whether it shows; a mark shows on a letter of this text."""
    marks = _MOST_MARKS
    for letter in text:
        marks = marks + 1 if unicodedata.category(letter).startswith("M") else 0
        yield (
            letter,
            letter.isprintable() and not _INVISIBLE.match(letter) and marks <= _MOST_MARKS,
        )
