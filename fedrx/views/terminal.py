"""The terminal: the only place of the front door that writes text for a person.

Foreign text is escaped here once more, whatever was let in before; and what a terminal's encoding
has not (ε at one that knows ASCII only) is written as an escape, never lost and never a trace.
"""

import sys
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.text import Text

from fedrx_common.text import escaped_lines


def prepare() -> None:
    """Let both streams write an escape for a character that their encoding has not."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, *, err: bool = False) -> None:
    """Write lines to standard output, or to standard error; they are there when it returns.

    Args:
        text: lines of ours, with foreign text in them.
        err: whether it is a message and no result.
    """
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{escaped_lines(text)}\n")
    stream.flush()


class PlainConsole(Console):
    """A console of rich for tables and bars, which escapes every text and reads none as markup.

    Args:
        err: whether it writes to standard error.
    """

    def __init__(self, *, err: bool = False) -> None:
        super().__init__(stderr=err, markup=False, emoji=False, highlight=False, soft_wrap=not err)

    def render_str(self, text: str, **style: Any) -> Text:  # noqa: ANN401 - rich's own
        """A text as rich draws it; every text that it is given comes by here."""
        return super().render_str(escaped_lines(text), **style)
