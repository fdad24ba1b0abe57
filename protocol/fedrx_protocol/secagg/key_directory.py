"""The coordinator's key relay: collects one epoch's adverts, verified, and passes them on."""

from fedrx_protocol.messages.secure_aggregation import Advert, AdvertList, AdvertRequest
from fedrx_protocol.secagg import keys as crypto
from fedrx_protocol.secagg.errors import ContextSpent, SessionMismatch
from fedrx_protocol.secagg.graph import Graph
from fedrx_protocol.secagg.parameters import SecAggParameters
from fedrx_protocol.trust.roster import Roster


class KeyDirectory:
    """Collects and relays the adverts of one key epoch.

    Args:
        session: 32 bytes, see `session_id`.
        epoch: number of the epoch; larger than any before in this session.
        roster: the verified roster.
        parameters: the agreed numbers.
    """

    def __init__(
        self, *, session: bytes, epoch: int, roster: Roster, parameters: SecAggParameters
    ) -> None:
        self.session = session
        self.epoch = epoch
        self.parameters = parameters
        self.graph = Graph.of(roster, parameters, session)
        self._roster = roster
        self._adverts: dict[str, Advert] = {}

    @property
    def members(self) -> tuple[str, ...]:
        """Sites whose advert was accepted, sorted."""
        return tuple(sorted(self._adverts))

    def request(self) -> AdvertRequest:
        """What every site is asked."""
        return AdvertRequest(session=self.session, epoch=self.epoch)

    def add(self, advert: Advert) -> None:
        """Accept one site's advert.

        Raises:
            SessionMismatch: it is of another session or epoch.
            UnknownSite: its site is not on the roster.
            AdvertForged: its site did not sign it, or a key cannot be used.
            KeysRepeated: it repeats a key of another advert.
            ContextSpent: its site sent another advert in this epoch.
        """
        if (advert.session, advert.epoch) != (self.session, self.epoch):
            raise SessionMismatch(f"The advert of '{advert.site}' is of another session or epoch.")
        crypto.verify_advert(advert, self._roster)
        crypto.require_usable(advert)
        if self._adverts.get(advert.site, advert) != advert:
            raise ContextSpent(f"'{advert.site}' sent two adverts in one epoch.")
        others = [known for site, known in self._adverts.items() if site != advert.site]
        crypto.require_distinct_keys([*others, advert])
        self._adverts[advert.site] = advert

    def remove(self, site: str) -> None:
        """Leave a site out of this epoch's rounds, as after it refused the list."""
        self._adverts.pop(site, None)

    def adverts(self, site: str | None = None) -> AdvertList:
        """The list to relay: all adverts, or only what `site` needs (its own, its neighbours')."""
        members = self.members if site is None else self.graph.holders(site, self._adverts)
        return AdvertList(
            session=self.session,
            epoch=self.epoch,
            adverts=tuple(self._adverts[member] for member in members),
        )
