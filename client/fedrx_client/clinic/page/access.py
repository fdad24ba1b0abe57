"""Who may look at the page: a link that counts once is exchanged for a cookie of one browser.

Nothing of it is written to disk: a restart ends every visit.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fedrx_common.errors import FedRxError

LINK_LIFE_S = 3600
VISIT_LIFE_S = 12 * 3600
"""A shift."""
_MOST_LINKS = 100
_MOST_VISITS = 500


class LoginNeeded(FedRxError):
    """A browser has no visit, or its link does not count; it sees nothing of any patient."""


@dataclass(frozen=True)
class Visit:
    """One browser that was let in.

    Attributes:
        form: a text that every form of this browser must send back; no other site knows it.
        until: when the visit ends.
    """

    form: str
    until: float

    def require_form(self, given: str) -> None:
        """Refuse a form that another site made the browser send.

        Raises:
            LoginNeeded: its text is not that of this visit.
        """
        if not hmac.compare_digest(self.form.encode(), given.encode(errors="replace")):
            raise LoginNeeded("this form is not from a page of this visit; load the page again.")


class Access:
    """The links that were given out, and the browsers that came by one.

    Args:
        cookie: name of the cookie.
        now: seconds of a clock that only goes forward.
    """

    def __init__(self, cookie: str, now: Callable[[], float] = time.monotonic) -> None:
        self.cookie, self._now = cookie, now
        # By digest, so that no search in them takes longer the more of a secret is right.
        self._links: dict[bytes, float] = {}
        self._visits: dict[bytes, Visit] = {}
        self._lock = threading.Lock()

    def new_link(self) -> str:
        """Make the token of a link that lets one browser in, once, for an hour."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            _forget(self._links, _MOST_LINKS)
            self._links[_digest(token)] = self._now() + LINK_LIFE_S
        return token

    def enter(self, token: str) -> str:
        """Exchange the token of a link for the value of a cookie.

        Raises:
            LoginNeeded: it was used, is too old, or was never given out.
        """
        with self._lock:
            until = self._links.pop(_digest(token), 0.0)
            if until <= self._now():
                raise LoginNeeded(
                    "this link was used before or is more than an hour old; ask who runs the "
                    "server for a new one."
                )
            value = secrets.token_urlsafe(32)
            _forget(self._visits, _MOST_VISITS)
            self._visits[_digest(value)] = Visit(
                secrets.token_urlsafe(32), self._now() + VISIT_LIFE_S
            )
        return value

    def visit(self, value: str | None) -> Visit:
        """Find the visit of a cookie.

        Raises:
            LoginNeeded: there is none, or it ended.
        """
        with self._lock:
            found = self._visits.get(_digest(value or ""))
        if found is None or found.until <= self._now():
            raise LoginNeeded(
                "this browser is not logged in; open the login link that the server printed, or "
                "one that was made on a page that is logged in."
            )
        return found

    def leave(self, value: str | None) -> None:
        """End the visit of a cookie."""
        with self._lock:
            self._visits.pop(_digest(value or ""), None)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _forget(kept: dict[bytes, float] | dict[bytes, Visit], most: int) -> None:
    """Make room for one more: the oldest goes."""
    while len(kept) >= most:
        del kept[next(iter(kept))]
