"""The rules a site holds a request against: each either passes or raises the error named for it.

Functions of the request and of what was done before; none changes anything.
"""

from collections.abc import Container

import numpy as np

from fedrx_common.canonical_json import from_json
from fedrx_protocol.messages.secure_aggregation import RingVector, RoundRequest
from fedrx_protocol.secagg.errors import (
    BothSecretsAsked,
    ContextSpent,
    ListChanged,
    ModelAlreadyReleased,
    ParticipantsInvalid,
    RoundWentBack,
    ThresholdChanged,
    TooFewSites,
    UnknownSite,
    VectorInvalid,
)
from fedrx_protocol.secagg.graph import Graph
from fedrx_protocol.secagg.replay_guard import ContextRecord, GuardStore


def check_participants(
    request: RoundRequest, site: str, graph: Graph, accepted: Container[str]
) -> None:
    """The list U is one that `site` may add a vector for.

    Args:
        request: the round.
        site: the reader.
        graph: the session's graph.
        accepted: neighbours whose adverts were accepted.
    """
    members, agreed = request.participants, graph.parameters
    if request.threshold != agreed.threshold:
        raise ThresholdChanged(
            f"The round asks for a threshold of {request.threshold}; {agreed.threshold} was agreed."
        )
    if site not in members:
        raise ParticipantsInvalid(f"'{site}' is not among the round's participants.")
    peers = graph.peers(site, members)
    unknown = [member for member in members if member not in graph.points]
    unknown += [peer for peer in peers if peer not in accepted]
    if unknown:
        raise UnknownSite(f"'{unknown[0]}' takes part but no advert of it was accepted.")
    require_enough("participants", len(members), request.threshold)
    require_enough("participants hold shares", len(peers) + 1, agreed.share_threshold)


def check_order(request: RoundRequest, guard: GuardStore) -> None:
    """The round is later than any this site took part in."""
    if guard.load(request.context) is not None:
        raise ContextSpent("A vector was masked in this context already.")
    latest = guard.latest(request.session)
    if latest is not None and request.order <= latest.order:
        raise RoundWentBack(
            f"Round {request.round}, attempt {request.attempt} of key epoch {request.epoch} is not "
            f"later than round {latest.round}, attempt {latest.attempt} of epoch {latest.epoch}, "
            "in which this site took part."
        )


def check_model(model_digest: bytes, context: bytes, guard: GuardStore) -> None:
    """No other context of this model was opened."""
    answered = guard.answered_model(model_digest)
    if answered is not None and answered != context:
        raise ModelAlreadyReleased(
            "An exact sum was opened for this model already; a second one over other sites could "
            "be subtracted from it."
        )


def check_list(study: bytes, listed: bytes, guard: GuardStore) -> None:
    """No sum of `study` was opened over other sites than those `listed`.

    However the model of a later round differs, the two sums could be subtracted. A list that
    differs by many sites is refused too: colluding sites may be most of the difference, and
    several such lists together can single out a few sites (decision 13).
    """
    opened = guard.opened_list(study)
    if opened is None or opened == listed:
        return
    before, now = from_json(opened, source="An opened list"), from_json(listed, source="A list")
    other = min(site for site in {*before, *now} if before.get(site) != now.get(site))
    raise ListChanged(
        f"Sums of this study were opened over one list of sites, and this list differs in "
        f"'{other}': the two sums could be subtracted."
    )


def check_dropped(record: ContextRecord, site: str, dropped: tuple[str, ...]) -> None:
    """Pairwise seeds toward `dropped` may be revealed."""
    if site in dropped or not set(dropped) <= set(record.participants):
        raise ParticipantsInvalid("The dropped sites name this site, or one outside the round.")
    both = set(dropped).intersection(record.unmask_survivors or ())
    if both:
        raise BothSecretsAsked(f"The share of '{min(both)}' was given in this context already.")
    left = len(record.participants) - len(record.revealed_seeds.union(dropped))
    require_enough("sites would remain", left, record.threshold)


def check_survivors(record: ContextRecord, site: str, survivors: tuple[str, ...]) -> None:
    """Shares of the seeds of `survivors` may be given."""
    if site not in survivors or not set(survivors) <= set(record.participants):
        raise ParticipantsInvalid("The survivors leave out this site, or go beyond the round.")
    both = record.revealed_seeds.intersection(survivors)
    if both:
        raise BothSecretsAsked(
            f"The pairwise seed toward '{min(both)}' was revealed in this context already."
        )
    require_enough("survivors", len(survivors), record.threshold)


def require_enough(what: str, count: int, least: int) -> None:
    """At least `least` of what is counted."""
    if count < least:
        raise TooFewSites(f"Only {count} {what}; at least {least} are needed.")


def require_row(vector: RingVector) -> None:
    """The vector is one writable, non-empty row of uint32."""
    row = vector.dtype == np.uint32 and vector.ndim == 1 and vector.size > 0
    if not (row and vector.flags.writeable):
        raise VectorInvalid("The vector must be one writable row of uint32, not empty.")
