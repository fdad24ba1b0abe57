"""Room for large objects under way: so much for all sites together, however many there are.

A connection holds a lot from the announcement of a large object until it is stored or sent. Each
owner has at most one, so that one that is slow on purpose keeps no other from the rest.
"""

import asyncio
from collections.abc import Hashable
from weakref import WeakValueDictionary


class TransferSlots:
    """All lots.

    Args:
        count: How many there are.
        within_s: For how long one should be held.
    """

    def __init__(self, count: int, within_s: float) -> None:
        self.within_s = within_s
        self.free = asyncio.Semaphore(count)
        self._turns: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    def turn(self, owner: Hashable) -> asyncio.Lock:
        """Whose turn it is among this owner's connections."""
        return self._turns.setdefault(owner, asyncio.Lock())


class Slot:
    """One connection's place.

    Args:
        lots: Among these.
        owner: Whose connection it is, known for certain.
    """

    def __init__(self, lots: TransferSlots, owner: Hashable = None) -> None:
        self._owner = owner
        self.until: float | None = None
        self._lots = lots
        self._turn: asyncio.Lock | None = None

    async def acquire(self) -> None:
        """Wait for it, unless it is held already; `until` is then the loop's time of its end."""
        if self._turn is not None:
            return
        turn = self._lots.turn(self._owner)
        await turn.acquire()
        try:
            await self._lots.free.acquire()
        except BaseException:
            turn.release()
            raise
        self._turn = turn
        self.until = asyncio.get_running_loop().time() + self._lots.within_s

    def release(self) -> None:
        """Let others have it, if it is held."""
        if self._turn is not None:
            turn, self._turn, self.until = self._turn, None, None
            self._lots.free.release()
            turn.release()
