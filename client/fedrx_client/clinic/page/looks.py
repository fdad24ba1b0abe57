"""What is kept of a look at a patient: in memory, for some minutes, by a name that says nothing."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from fedrx_client.clinic.service.serving import ServedModel
from fedrx_common.errors import FedRxError
from fedrx_models.cohort.cohort import Cohort

KEPT_S = 15 * 60
"""Seconds since a look was last used."""
_MOST = 10_000  # a few kilobytes each


class LookGone(FedRxError):
    """A page was opened by a name that is not known, or not known any more."""


@dataclass(frozen=True, eq=False)
class Look:
    """One patient as he was read, and who answers.

    Attributes:
        name: of the card, or of the search.
        service: what answers.
        patient: a cohort of one.
    """

    name: UUID
    service: ServedModel
    patient: Cohort


class Looks:
    """The looks of the last minutes.

    Args:
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # The one that was used longest ago comes first.
        self._kept: dict[UUID, tuple[float, Look]] = {}
        self._lock = threading.Lock()

    def keep(self, look: Look) -> None:
        """Keep a look; what is too old is forgotten."""
        with self._lock:
            self._kept[look.name] = (self._now(), look)
            self._forget()

    def find(self, name: UUID) -> Look:
        """Find a look, and keep it for some more minutes.

        Raises:
            LookGone: there is none of that name.
        """
        with self._lock:
            self._forget()
            found = self._kept.pop(name, None)
            if found is None:
                raise LookGone(
                    f"nothing is kept under this address; a patient is kept for {KEPT_S // 60} "
                    "minutes. Search again, or open the card again in the record."
                )
            self._kept[name] = (self._now(), found[1])
            return found[1]

    def _forget(self) -> None:
        for name, (used, _) in tuple(self._kept.items()):
            if used + KEPT_S > self._now() and len(self._kept) <= _MOST:
                break
            del self._kept[name]
