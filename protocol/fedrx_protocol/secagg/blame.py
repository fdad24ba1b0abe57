"""Whose fault it is that a sum did not open: what the coordinator can prove, and what it cannot.

A share that is wrong, or does not open, shows that its owner or its holder lied, and not which of
the two. Two facts decide it where the number of liars is bounded: a site that is at fault with more
sites than can lie is a liar itself, and the shares of an honest owner are on one polynomial, so
that its seed is rebuilt as soon as enough of its holders have answered.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from fedrx_protocol.secagg.parameters import SecAggParameters
from fedrx_protocol.secagg.shamir import correctable


@dataclass(frozen=True, order=True)
class ShareFault:
    """A share that was wrong or did not open: its owner or its holder lied, which is not known."""

    owner: str
    holder: str


@dataclass(frozen=True)
class Verdict:
    """What an unmasking showed.

    Attributes:
        proved: sites that lied for certain, as long as no more than `most_liars` sites lie.
        doubtful: owners whose seed is not rebuilt though all who hold its shares have answered,
            or enough of them: either they or some of those holders lied.
        faults: single shares found wrong, by owner and holder.
    """

    proved: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    faults: tuple[ShareFault, ...] = ()


def most_liars(parameters: SecAggParameters) -> int:
    """Sites that a proof allows for: what the study expects to collude, and always one."""
    return max(1, parameters.max_colluding)


def proved_by_faults(faults: Iterable[ShareFault], liars: int) -> frozenset[str]:
    """Sites at fault with more than `liars` others, or with themselves.

    Each fault has a liar at one end at least. Were such a site honest, all its opposites would lie.
    """
    opposites: defaultdict[str, set[str]] = defaultdict(set)
    for fault in faults:
        opposites[fault.owner].add(fault.holder)
        opposites[fault.holder].add(fault.owner)
    return frozenset(
        site for site, others in opposites.items() if site in others or len(others) > liars
    )


def owner_lied(shares: int, complaints: int, threshold: int, liars: int) -> bool:
    """Whether a seed that is not rebuilt proves its owner wrong.

    Args:
        shares: shares of it that came.
        complaints: holders that said their share does not open.
        threshold: shares that rebuild a seed.
        liars: sites that may lie.
    """
    # With an honest owner all who complain lie, and at most the other liars sent a wrong share.
    left = liars - complaints
    return left < 0 or (shares >= threshold and correctable(shares, threshold) >= left)
