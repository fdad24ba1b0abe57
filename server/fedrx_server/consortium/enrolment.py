"""Which sites may enter a roster and leave it: rules over rosters, without files or keys.

A key that has left the roster never comes back: an old request, found in a mailbox, must not undo
a revocation.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedrx_common.errors import MisuseError
from fedrx_common.files import FolderDamaged
from fedrx_protocol.trust.enrolment import LIMITS, EnrolmentRequest
from fedrx_protocol.trust.roster import Roster, SiteEntry


class EnrolmentRefused(MisuseError):
    """A change that must not enter the roster; the roster stays as it is."""


@dataclass(frozen=True)
class Register:
    """All that the rules look at.

    Attributes:
        roster: the present one.
        requests: every request that was ever accepted, by its identity key.
        ended: identity keys of earlier rosters that are not on the present one.
    """

    roster: Roster
    requests: Mapping[bytes, EnrolmentRequest]
    ended: frozenset[bytes]


def register_of(
    rosters: Iterable[Roster], requests: Iterable[EnrolmentRequest], *, where: Path
) -> Register:
    """The register after these rosters, oldest first; the last one is the present one.

    Requests whose identity was never on a roster are left out: they were not accepted.

    Args:
        rosters: at least one.
        requests: verified.
        where: the folder of the requests, for the error's text.

    Raises:
        FolderDamaged: a site on the roster has no request.
    """
    history = tuple(rosters)
    ever = {entry.identity for roster in history for entry in roster.sites}
    current = {entry.identity for entry in history[-1].sites}
    accepted = {item.identity: item for item in requests if item.identity in ever}
    for entry in history[-1].sites:
        if entry.identity not in accepted:
            raise FolderDamaged(
                f"{where}: the request of site '{entry.site}' is missing; restore it from a backup."
            )
    return Register(history[-1], accepted, frozenset(ever - current))


def admit(
    register: Register, requests: Sequence[EnrolmentRequest], *, now: int, rotate: bool
) -> Roster:
    """The next roster, with these requests in it; all of them or none.

    Args:
        register: rosters and requests so far.
        requests: verified ones.
        now: unix seconds.
        rotate: the sites are on the roster and change their keys; otherwise they are new.

    Raises:
        EnrolmentRefused: an id or key is taken, was given up, or is not valid now; or a site that
            rotates is not on the roster.
    """
    if not requests:
        raise EnrolmentRefused("No request was given; name at least one request file.")
    kinds = ("site id", "site"), ("identity key", "identity"), ("SuperNode key", "authentication")
    for what, attribute in kinds:
        values = [getattr(request, attribute) for request in requests]
        if len(set(values)) < len(values):
            raise EnrolmentRefused(
                f"Two of the requests have the same {what}; give each site's request once."
            )
    new = {}
    for request in requests:
        _require_admissible(register, request, now, rotate=rotate)
        new[request.site] = SiteEntry(
            site=request.site,
            name=request.name,
            identity=request.identity,
            # A roster is valid only while every entry is, so none may begin later than now.
            not_before=min(request.not_before, now),
            not_after=request.not_after,
        )
    staying = [entry for entry in register.roster.sites if entry.site not in new]
    return Roster((*staying, *new.values()), register.roster.serial + 1)


def dismiss(register: Register, site: str) -> Roster:
    """The next roster, without `site`.

    Raises:
        EnrolmentRefused: it is not on the roster.
    """
    _require_member(register.roster, site)
    staying = tuple(entry for entry in register.roster.sites if entry.site != site)
    return replace(register.roster, sites=staying, serial=register.roster.serial + 1)


def _require_admissible(
    register: Register, request: EnrolmentRequest, now: int, *, rotate: bool
) -> None:
    """Refuse a request that is not valid now, or whose site id or keys are not free."""
    if not request.not_before - LIMITS.max_ahead_s <= now < request.not_after:
        raise EnrolmentRefused(
            f"Site '{request.site}' asks for a validity that does not cover this moment; let it "
            "write a new request with `fedrx site request`."
        )
    if rotate:
        _require_member(register.roster, request.site)
    held = register.roster.entry(request.site)
    if held is not None and held.identity == request.identity:
        raise EnrolmentRefused(
            f"Site '{request.site}' is on the roster with this key already; nothing is to be done."
        )
    if held is not None and not rotate:
        raise EnrolmentRefused(
            f"Site id '{request.site}' is taken by another key; ask that site by telephone, and "
            "give --rotate if it is the one that changes its keys."
        )
    used = {accepted.authentication for accepted in register.requests.values()}
    current = {entry.identity for entry in register.roster.sites}
    if request.identity in register.ended | current or request.authentication in used:
        raise EnrolmentRefused(
            f"Site '{request.site}' names a key that another site has, or that was revoked or "
            "replaced; let it make new keys with `fedrx site rotate`."
        )


def _require_member(roster: Roster, site: str) -> None:
    if roster.entry(site) is None:
        known = ", ".join(roster.ids) or "none yet"
        raise EnrolmentRefused(f"Site '{site}' is not on the roster; the sites are: {known}.")
