"""Who masks with whom, and at which point each site's share is taken.

The complete graph up to 64 sites; above, a ring in an order drawn from the session, on which each
site is joined to the nearest k/2 on both sides. One code path: `neighbours` is all others in the
complete graph. The order follows from a hash, so no party chooses neighbours; a coordinator that
tries many run ids to find a good order spends one bit of the 40 for each doubling of its tries.
"""

import functools
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fedrx_common.canonical_json import packed
from fedrx_protocol.secagg.errors import ParametersImpossible
from fedrx_protocol.secagg.parameters import SecAggParameters
from fedrx_protocol.trust.roster import Roster


@dataclass(frozen=True)
class Graph:
    """The mask graph of one session.

    Attributes:
        parameters: the agreed numbers.
        session: 32 bytes, see `session_id`.
        sites: all ids of the roster, sorted.
    """

    parameters: SecAggParameters
    session: bytes
    sites: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.sites) != self.parameters.n:
            raise ParametersImpossible(
                f"The parameters are for {self.parameters.n} sites, the roster has "
                f"{len(self.sites)}; use SecAggParameters.for_roster(len(roster.sites))."
            )

    @classmethod
    def of(cls, roster: Roster, parameters: SecAggParameters, session: bytes) -> "Graph":
        """The graph of `roster` in `session`."""
        return cls(parameters=parameters, session=session, sites=roster.ids)

    @functools.cached_property
    def points(self) -> Mapping[str, int]:
        """Where each site's share is evaluated: its place in the roster, from 1 on."""
        return {site: place for place, site in enumerate(self.sites, start=1)}

    @functools.cached_property
    def _neighbours(self) -> Mapping[str, frozenset[str]]:
        return _neighbourhoods(self.session, self.sites, self.parameters.degree)

    def neighbours(self, site: str) -> frozenset[str]:
        """Sites that share a mask with `site`, which is not among them."""
        return self._neighbours[site]

    def peers(self, site: str, among: Collection[str]) -> tuple[str, ...]:
        """Neighbours of `site` that are in `among`, sorted."""
        return tuple(sorted(self._neighbours[site].intersection(among)))

    def holders(self, site: str, among: Collection[str]) -> tuple[str, ...]:
        """Sites of `among` that hold a share of `site`'s seed: its peers and itself, sorted."""
        return tuple(sorted((self._neighbours[site] | {site}).intersection(among)))

    def thin(self, sites: Collection[str]) -> tuple[str, ...]:
        """Those of `sites` whose seed too few of `sites` hold shares of; none if all is well."""
        members, least = frozenset(sites), self.parameters.share_threshold
        return tuple(site for site in sorted(members) if len(self.holders(site, members)) < least)


@functools.lru_cache(maxsize=4)  # the sites of a simulation share one graph
def _neighbourhoods(
    session: bytes, sites: tuple[str, ...], degree: int
) -> Mapping[str, frozenset[str]]:
    if degree == len(sites) - 1:
        return {site: frozenset(sites) - {site} for site in sites}
    places = {
        site: hashlib.sha256(packed("fedrx/1 graph", session, site)).digest() for site in sites
    }
    order, reach = sorted(sites, key=places.__getitem__), degree // 2
    # Twice around, so that the stretch on both sides of a site is one slice.
    twice = order + order
    count = len(order)
    return {
        site: frozenset(twice[count + at - reach : count + at] + twice[at + 1 : at + 1 + reach])
        for at, site in enumerate(order)
    }
