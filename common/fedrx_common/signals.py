"""The first SIGTERM or SIGINT ends a process in order; later ones are ignored.

Python runs a handler within another one. If both use one `threading.Event`, they wait for each
other forever; and impatient people and service managers send more than one signal.
"""

import signal
from collections.abc import Callable
from typing import Final

ENDINGS: Final = (signal.SIGTERM, signal.SIGINT)


def on_ending(act: Callable[[], object]) -> None:
    """Call `act` once, in the main thread, when a signal asks the process to end."""

    def end(*_: object) -> None:
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)
        act()

    for number in ENDINGS:
        signal.signal(number, end)
