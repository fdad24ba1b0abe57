"""Wakes calls that wait for a message when it is worth looking again; all in one event loop."""

import asyncio
import contextlib
from collections.abc import Hashable


class Notifier:
    """One event for each key, a node or a run.

    Subscribe first, look then, wait last: a notice in between is not missed.
    """

    def __init__(self) -> None:
        self._tickets: dict[Hashable, asyncio.Event] = {}

    def subscription(self, key: Hashable) -> asyncio.Event:
        """What `notify` of this key will set next."""
        return self._tickets.setdefault(key, asyncio.Event())

    def notify(self, key: Hashable) -> None:
        """Wake all that wait under this key."""
        ticket = self._tickets.pop(key, None)
        if ticket is not None:
            ticket.set()

    def ring_all(self) -> None:
        """Wake all, e.g. because a site was shut out."""
        for key in list(self._tickets):
            self.notify(key)

    @staticmethod
    async def wait(ticket: asyncio.Event, timeout_s: float) -> None:
        """Wait for a notice, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await ticket.wait()
