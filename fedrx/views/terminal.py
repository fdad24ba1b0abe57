"""The terminal: the only place of the front door that writes text for a person.

Foreign text is escaped here once more, even if an earlier check let it in. A character that the
terminal's encoding lacks (ε, where it is ASCII) is written as an escape: never lost, never a trace.
"""

import sys
from io import TextIOWrapper
from typing import Any

from rich.console import Console
from rich.text import Text

from fedrx_common.text import escaped_lines


def prepare() -> None:
    """Let both streams write an escape for a character that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: str, *, err: bool = False) -> None:
    """Write lines to standard output, or to standard error; they are written when it returns.

    Args:
        text: lines of ours, with foreign text in them.
        err: whether it is a message, not a result.
    """
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{escaped_lines(text)}\n")
    stream.flush()


class PlainConsole(Console):
    """A console of rich for tables and bars, which escapes every text and reads no markup.

    Args:
        err: whether it writes to standard error.
    """

    def __init__(self, *, err: bool = False) -> None:
        super().__init__(stderr=err, markup=False, emoji=False, highlight=False, soft_wrap=not err)

    def render_str(self, text: str, **style: Any) -> Text:  # noqa: ANN401 - rich's own
        """Escape a text and render it; rich calls this for every text."""
        return super().render_str(escaped_lines(text), **style)
