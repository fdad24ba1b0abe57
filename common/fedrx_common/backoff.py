"""Exponential back-off: each wait is longer than the one before, up to a longest one."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """How long to wait after each failure in a row; it keeps no state and sleeps nowhere.

    Attributes:
        first: seconds after the first failure.
        longest: seconds that no wait exceeds.
        factor: how much longer each wait is than the one before.
        jitter: gives the share of a wait that is left out, from 0 to 1, so that parties which
            failed together do not try again together; `random.random` for any share, None for
            exact waits.

    Raises:
        ValueError: a number that makes no back-off.
    """

    first: float
    longest: float
    factor: float = 2.0
    jitter: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.first <= self.longest and self.factor >= 1):
            raise ValueError(f"No back-off from {self.first} to {self.longest} by {self.factor}.")

    def after(self, failures: int) -> float:
        """Give the seconds to wait after so many failures in a row, from 1."""
        try:
            wait = min(self.first * self.factor ** (failures - 1), self.longest)
        except OverflowError:
            wait = self.longest if self.first else 0.0
        return wait if self.jitter is None else wait * (1 - self.jitter())

    def __iter__(self) -> Iterator[float]:
        """Give the wait after the first failure, the second, and so on without end."""
        return map(self.after, itertools.count(1))
