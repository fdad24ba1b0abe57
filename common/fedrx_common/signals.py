"""The first SIGTERM or SIGINT ends a process in order; those that follow are not heard.

Python runs a handler within another one. What both of them do to a `threading.Event` would then
wait for itself, forever; and impatient people, and service managers, send more than one signal.
"""

import signal
from collections.abc import Callable
from typing import Final

ENDINGS: Final = (signal.SIGTERM, signal.SIGINT)


def on_ending(act: Callable[[], object]) -> None:
    """Call this once, in the main thread, when the process is told to end."""

    def end(*_: object) -> None:
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)
        act()

    for number in ENDINGS:
        signal.signal(number, end)
