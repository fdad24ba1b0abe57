"""One attempt at one round: collect masked vectors, resolve dropouts, open the sum.

The order of the steps is the protocol's; what is decided here is only whom to ask again. A sum
whose unmasking has begun is stored, and asked for again rather than given up: sites that answered
once take part in no second context of an exact sum.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import PeerError
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.secure_aggregation import ResolveReply, UnmaskReply
from fedrx_protocol.plan import RoundPlan
from fedrx_protocol.secagg.coordinator import CoordinatorRound
from fedrx_server.rounds.exchange import Reply
from fedrx_server.rounds.membership import Membership, Vector
from fedrx_server.rounds.retry import MissingShares, RetryPolicy
from fedrx_server.runs.blame import EndedAttempt, Failure

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenedSum:
    """A sum that was opened.

    Args:
        plan: What its vector holds.
        total: The integer sum, shape `(length,)`.
        survivors: Sites in it.
        participants: Sites that were asked.
    """

    plan: RoundPlan
    total: NDArray[np.uint32]
    survivors: int
    participants: int


class Attempt:
    """Drives one `CoordinatorRound` over the wire.

    Args:
        members: The sites and how to ask them.
        plan: What the round's vector holds.
        current: The round's state.
    """

    def __init__(self, members: Membership, plan: RoundPlan, current: CoordinatorRound) -> None:
        self._members = members
        self._plan = plan
        self._current = current
        self._label = f"{plan.round}.{plan.attempt}"
        self._fallen: dict[str, Failure] = {}

    def collect(self, weights: Vector) -> None:
        """Ask all participants to train on `weights`; one that is lost or refuses has dropped."""
        request = self._current.request
        headers = dict.fromkeys(request.participants, codec.encode(request))

        def take(reply: Reply) -> None:
            masked = codec.decode_masked(reply.header, reply.payload, self._plan.layout.length)
            self._members.require_own(reply, masked.site)
            self._current.add(masked)

        self._ask("train.masked", headers, take, self._label, weights)

    @property
    def complete(self) -> bool:
        """Whether every participant's vector is in the sum."""
        return self._current.answered == self._current.request.participants

    def resolve(self) -> bool:
        """Open the masks toward dropped sites until no other drops; False if too few remain."""

        def take(reply: Reply) -> None:
            resolved = codec.decode(reply.header, ResolveReply)
            self._members.require_own(reply, resolved.site)
            self._current.add_resolve(resolved)

        while requests := self._current.close():
            headers = {site: codec.encode(request) for site, request in requests.items()}
            self._ask("query.resolve", headers, take, self._label)
        return requests is not None

    def unmask(self, retry_policy: RetryPolicy) -> OpenedSum | None:
        """Open the sum; `None` where the sites refuse and it can never be opened.

        Args:
            retry_policy: Decides how often, and when, a silent site is asked again.

        Raises:
            StudyStopped: Sites that are needed stayed silent; the stored sum waits for them.
        """

        def take(reply: Reply) -> None:
            unmasked = codec.decode(reply.header, UnmaskReply)
            self._members.require_own(reply, unmasked.site)
            self._current.add_unmask(unmasked)

        requests = self._current.unmask_requests()
        silent = frozenset(requests)
        for tries in count():
            if tries:
                missing_shares = MissingShares(
                    self._plan.round, tries, len(silent), len(requests), self._members.missing()
                )
                retry_policy.next_request(missing_shares)
                self._members.keys()  # a site that came back needs to be found first
            headers = {site: codec.encode(requests[site]) for site in silent}
            label = f"{self._label} again {tries}" if tries else self._label
            failed = self._ask("query.unmask", headers, take, label)
            silent = frozenset(site for site, failure in failed.items() if failure.lost)
            if self._current.can_open or not silent:
                break
        if not self._current.can_open:
            return None
        participants = len(self._current.request.participants)
        try:
            total, survivors = self._current.result()
        except PeerError as error:
            # A site's seed does not fit its commitment, so that the sum has no value.
            self._members.reasons[error.refusal] += 1
            logger.warning("%s: %s", self._label, error)
            return None
        return OpenedSum(self._plan, total, len(survivors), participants)

    def ended(self, *, opened: bool, charged: bool) -> EndedAttempt:
        """What is to be judged once the attempt is over.

        Args:
            opened: Whether its sum was opened.
            charged: Whether a failure costs the sites privacy.
        """
        return EndedAttempt(
            round=self._plan.round,
            attempt=self._plan.attempt,
            opened=opened,
            participants=len(self._current.request.participants),
            fallen=dict(self._fallen),
            verdict=self._current.verdict,
            charged=charged,
        )

    def _ask(
        self,
        kind: str,
        headers: Mapping[str, bytes],
        take: Callable[[Reply], object],
        label: str,
        payload: Vector | None = None,
    ) -> dict[str, Failure]:
        """Ask sites, and remember which failed; one that answers after all is forgotten."""
        failed = self._members.ask(kind, headers, take, label=label, payload=payload)
        for site in headers:
            self._fallen.pop(site, None)
        self._fallen.update(failed)
        return failed
