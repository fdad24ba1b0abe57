"""Tells questions that wait for a message when it is worth looking again; all in one event loop."""

import asyncio
import contextlib
from collections.abc import Hashable


class Notifier:
    """One bell for each key, a node or a run.

    Take the ticket first, look then, wait last: whoever rings in between is heard.
    """

    def __init__(self) -> None:
        self._tickets: dict[Hashable, asyncio.Event] = {}

    def subscription(self, key: Hashable) -> asyncio.Event:
        """What `notify` of this key will set next."""
        return self._tickets.setdefault(key, asyncio.Event())

    def notify(self, key: Hashable) -> None:
        """Wake whoever waits under this key."""
        ticket = self._tickets.pop(key, None)
        if ticket is not None:
            ticket.set()

    def ring_all(self) -> None:
        """Wake everybody, e.g. because a site was shut out."""
        for key in list(self._tickets):
            self.notify(key)

    @staticmethod
    async def wait(ticket: asyncio.Event, timeout_s: float) -> None:
        """Wait for the bell, or for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await ticket.wait()
