"""Seeded faults: sites that drop out of a round, at any stage, or answer too late.

A fault is a Flower mod around the sites' ClientApp, so that every engine can use it. It answers
with the error message that a SuperLink sends in the name of a node it has lost.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, log

from flwr.app import Context, Error, Message

from fedrx_common.errors import MisuseError
from fedrx_server.service.local_run import NODE_UNAVAILABLE

Mod = Callable[[Message, Context, Callable[[Message, Context], Message]], Message]

# Where a site may drop: before it trains, after it trained and before its reply arrives, and
# when the sum is about to be opened.
_STAGES = (("train.masked", True), ("train.masked", False), ("query.unmask", True))


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a simulated study.

    Args:
        dropout: Chance that a site drops out of an attempt at a round, from 0 to below 1.
        delay_s: Mean of a site's exponential reply time, in seconds; no process waits for it.
        deadline_s: A reply later than this is lost.
        seed: Fixes who drops when.
    """

    dropout: float = 0.0
    delay_s: float = 0.0
    deadline_s: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise MisuseError(f"dropout is {self.dropout:g}: give a chance from 0 to below 1.")
        if not 0 <= self.delay_s < inf:
            raise MisuseError(f"delay is {self.delay_s:g} s: give 0 or a number of seconds.")
        if not self.deadline_s > 0:
            raise MisuseError(f"deadline is {self.deadline_s:g} s: it must lie above 0.")

    def loses(self, site: str, attempt: str, stage: str, *, before: bool) -> bool:
        """Say whether `site` is lost in this attempt at this stage, before or after its work."""
        if self.dropout and self._uniform(site, attempt, "drop") < self.dropout:
            chosen = _STAGES[int(self._uniform(site, attempt, "stage") * len(_STAGES))]
            if chosen == (stage, before):
                return True
        if before:
            return False
        reply_time_s = -self.delay_s * log(1.0 - self._uniform(site, attempt, f"delay {stage}"))
        return reply_time_s > self.deadline_s

    def _uniform(self, *what: str) -> float:
        """Draw a number in [0, 1) that depends on nothing but the seed and `what`."""
        digest = hashlib.sha256("\x00".join((str(self.seed), *what)).encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2.0**48


def faults_mod(faults: Faults, sites: Sequence[str]) -> Mod:
    """Make the mod that makes the sites fail; `sites` are in the order of their partition ids."""

    def mod(
        message: Message, context: Context, call_next: Callable[[Message, Context], Message]
    ) -> Message:
        site = sites[int(context.node_config["partition-id"])]
        attempt, stage = message.metadata.group_id, message.metadata.message_type
        if faults.loses(site, attempt, stage, before=True):
            return _lost(message)
        reply = call_next(message, context)
        return _lost(message) if faults.loses(site, attempt, stage, before=False) else reply

    return mod


def _lost(message: Message) -> Message:
    return Message(Error(NODE_UNAVAILABLE, "simulated dropout"), reply_to=message)
