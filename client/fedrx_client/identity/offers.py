"""What a site requires of an offer before it opens a run, and the offers it has accepted.

A site compares an offer with what it pinned itself: the release installed here, this clock, the
consortium's roster. An offer alone proves nothing; a newer roster is put aside for a person to look
at.
"""

from pathlib import Path

from fedrx_client.identity.identity import NotJoined, SiteIdentity
from fedrx_client.identity.pins import Pin, read_file
from fedrx_common.errors import MisuseError, PeerError
from fedrx_common.files import unusable, write_private, write_public
from fedrx_common.text import command
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.offer import RunOffer
from fedrx_protocol.trust.roster import Roster, SignedRoster

LARGEST_SKEW_S = 300
KEPT_OFFERS = 16


class ClockSkewed(PeerError):
    """The coordinator's clock and this one differ too much to judge what has expired."""


class RosterOutdated(PeerError):
    """The run is under an older roster than this site has seen.

    Prevents a revoked site from coming back.
    """


class RosterChanged(PeerError):
    """The run is under a roster that no person at this site has looked at.

    Prevents the holder of the consortium key from surrounding a site with invented ones.
    """


class RunUnknown(MisuseError):
    """A request for a run that was never opened here, or long ago."""


def check_clock(offer: RunOffer, now: int) -> None:
    """Refuse a coordinator whose clock is far off.

    Raises:
        ClockSkewed: it is.
    """
    skew = offer.time - now
    if abs(skew) > LARGEST_SKEW_S:
        raise ClockSkewed(
            f"the coordinator's clock is {abs(skew)} s {'ahead of' if skew > 0 else 'behind'} "
            "this one: set the clock that is wrong (NTP)."
        )


def pinned_roster(offer: RunOffer, identity: SiteIdentity, now: int) -> Roster:
    """Return the roster of an offer, if it is the one that this site has pinned.

    A newer one that the consortium signed is kept for `fedrx site join --offered`.

    Args:
        offer: the offer.
        identity: the site's folder of trust, just read.
        now: unix seconds.

    Raises:
        MalformedMessage: the offer holds no roster.
        RosterSignatureInvalid: the pinned consortium did not sign it.
        RosterEntryExpired: a site's entry is over.
        RosterOutdated: it is older than the pinned one, or another of the same serial.
        RosterChanged: it is newer.
    """
    pin = identity.pin
    roster = SignedRoster.from_json(offer.roster).verify(pin.consortium, now)
    if roster.digest == pin.roster:
        return roster
    if roster.serial > pin.serial:
        _put_aside(offer.roster, roster, identity, pin)
        join = command("fedrx", "site", "join", identity.folder, "--offered")
        raise RosterChanged(
            f"the run is under roster {roster.serial}, this site believes {pin.serial}: see who "
            f"comes and goes with `{join}`."
        )
    if roster.serial == pin.serial:
        raise RosterOutdated(
            f"there are two rosters of serial {roster.serial}: the consortium key signed different "
            "things for different sites; telephone the other sites."
        )
    raise RosterOutdated(
        f"the run is under roster {roster.serial}, this site has seen {pin.serial}: the "
        "coordinator must resume it with the present roster."
    )


def require_pin(roster: bytes, folder: Path) -> None:
    """Refuse to go on with a run whose roster is not the pinned one any more.

    Args:
        roster: digest of the run's roster.
        folder: the site's folder.

    Raises:
        RosterOutdated: the site has joined with another roster since.
    """
    try:
        pinned = SiteIdentity(folder).pin
    except NotJoined:
        pinned = None
    if pinned is None or pinned.roster != roster:
        raise RosterOutdated(
            "this site has joined with another roster since the run was opened: the coordinator "
            "must resume the run with it."
        )


class TakenOffers:
    """The offers of the last few runs, as files: a restarted agent goes on without a new one.

    Args:
        folder: the site's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "runs"

    def keep(self, run: int, offer: RunOffer) -> None:
        """Keep an offer under Flower's run id.

        Raises:
            FolderUnusable: the disk does not let us.
        """
        with unusable(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        write_private(self._path(run), codec.encode(offer))
        with unusable(self._folder):
            by_age = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
            for path in by_age[:-KEPT_OFFERS]:
                path.unlink(missing_ok=True)

    def find(self, run: int) -> RunOffer:
        """Find the offer that opened a run.

        Raises:
            RunUnknown: there is none, or its file is damaged.
        """
        path = self._path(run)
        if path.is_file():
            try:
                return codec.decode(read_file(path), RunOffer)
            except PeerError:
                pass  # a damaged file is like none: the coordinator offers the run again
        raise RunUnknown("this run was not opened here: the coordinator must offer it first.")

    def _path(self, run: int) -> Path:
        return self._folder / f"{run:d}.json"


def _put_aside(data: bytes, roster: Roster, identity: SiteIdentity, pin: Pin) -> None:
    """Keep the newest roster that was offered; an older or equal one changes nothing."""
    path = identity.offered_path
    if path.is_file():
        try:
            known = SignedRoster.from_json(read_file(path)).roster.serial
        except (PeerError, MisuseError):
            known = pin.serial
        if known >= roster.serial:
            return
    write_public(path, data)
