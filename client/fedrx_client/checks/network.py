"""A dry run's lines about the network: is the coordinator in reach, and does it admit this site?

Each look opens a connection of its own, outwards, and sends nothing about the site or its patients;
only the last one shows the site's key, and then closes its connection.
"""

import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import httpcore
import httpx

from fedrx_client.approvals.approval import DAY_S
from fedrx_client.checks.study import Check, CheckLine
from fedrx_client.connection.endpoint import Endpoint, NotAdmitted, Undeliverable, Unreachable
from fedrx_client.connection.fleet import Fleet
from fedrx_client.connection.route import Proxy, Route, proxy_for
from fedrx_client.participation.settings import agent_runs
from fedrx_common.errors import days_in_words

LEAST_VALID_DAYS = 14
# Flower's node authentication refuses a site whose clock is further ahead than this.
LARGEST_SKEW_S = 5.0
_WITHIN_S = 10.0
_ABOVE: Final = "Repair the line above first."
_FAILURES: Final = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProxyError)


@dataclass(frozen=True)
class Network:
    """What the checks of one coordinator need.

    Attributes:
        door: address, pinned CA and the site's transport key.
        folder: the site's folder, to see whether its agent is running.
        clock: unix seconds.
    """

    door: Endpoint
    folder: Path
    clock: Callable[[], float] = time.time

    def checks(self) -> tuple[Check, ...]:
        """One check after the other, in the order in which a person would repair them.

        Raises:
            AddressInvalid: the environment names a proxy that cannot be used.
        """
        found = self.way.proxy
        lines = (
            Check("coordinator", self.reachable, "Check the address."),
            Check("certificate", self.certificate, "Ask the coordinator."),
            Check("clock", self.skew, "Set this machine's clock (NTP)."),
            Check("admitted", self.admitted, "Ask the coordinator."),
        )
        if found is None:
            return lines
        named = CheckLine("proxy", ok=True, text=f"every connection goes through {found}.")
        return (Check("proxy", lambda: named, f"Check {found.variable}."), *lines)

    def reachable(self) -> CheckLine:
        """Whether name and port lead anywhere."""
        name, place = "coordinator", self.door.place
        if self.way.proxy is not None:
            return self._through(self.way.proxy)
        try:
            found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][4][0]
        except OSError as error:
            text = f"no address is known for {place.host} ({error.strerror or error})."
            return CheckLine(name, ok=False, text=text, remedy="Check the name, or ask your DNS.")
        try:
            self._connected().close()
        except _FAILURES as error:
            text = f"{place.host} ({found}) does not answer on port {place.port} ({_said(error)})."
            remedy = (
                f"Let the firewall pass TCP to {place.host} port {place.port}, or ask whether it "
                "runs; if this network has a proxy, name it in HTTPS_PROXY."
            )
            return CheckLine(name, ok=False, text=text, remedy=remedy)
        text = f"{place.host} ({found}) answers on port {place.port}."
        return CheckLine(name, ok=True, text=text)

    def certificate(self) -> CheckLine:
        """Whether its certificate is for this host, of the pinned CA, and valid for a while."""
        name, host = "certificate", self.door.place.host
        try:
            until = self._valid_until()
        except _FAILURES as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                text = f"the certificate of {host} is refused ({error.__cause__.verify_message})."
                remedy = (
                    "Ask the coordinator for a certificate with this name; if they say it has one, "
                    "somebody else answers in its place: trust nothing until that is clear."
                )
            else:
                text, remedy = f"no TLS connection ({_said(error)}).", _ABOVE
            return CheckLine(name, ok=False, text=text, remedy=remedy)
        left = until - self.clock()
        text = f"for {host}, signed by the pinned CA, valid for {days_in_words(left)}."
        soon = left < LEAST_VALID_DAYS * DAY_S
        remedy = "Ask the coordinator to run `fedrx coordinator renew`." if soon else ""
        return CheckLine(name, ok=not soon, text=text, remedy=remedy)

    def skew(self) -> CheckLine:
        """How far this clock is from the coordinator's."""
        name = "clock"
        try:
            seconds = self._skew_s()
        except (httpx.HTTPError, ValueError) as error:
            text = f"the coordinator's time cannot be had ({_said(error)})."
            return CheckLine(name, ok=False, text=text, remedy=_ABOVE)
        if abs(seconds) <= LARGEST_SKEW_S:
            text = f"within {LARGEST_SKEW_S:g} s of the coordinator's."
            return CheckLine(name, ok=True, text=text)
        side = "ahead of" if seconds > 0 else "behind"
        text = f"{abs(seconds):.0f} s {side} the coordinator's; more than 5 s is refused."
        remedy = "Set this machine's clock (NTP), or ask the coordinator to set theirs."
        return CheckLine(name, ok=False, text=text, remedy=remedy)

    def admitted(self) -> CheckLine:
        """Whether the coordinator takes this site's key."""
        name = "admitted"
        if agent_runs(self.folder):
            text = "not tried: this site's agent is running; its log says whether it is connected."
            return CheckLine(name, ok=True, text=text)
        fleet = Fleet(self.door)
        try:
            fleet.connect()
        except NotAdmitted as error:
            remedy = (
                "Ask the coordinator whether this key is enrolled; if the agent was killed a "
                "moment ago, wait half a minute."
            )
            return CheckLine(name, ok=False, text=str(error), remedy=remedy)
        except (Unreachable, Undeliverable) as error:
            remedy = "Repair the lines above first."
            return CheckLine(name, ok=False, text=str(error), remedy=remedy)
        finally:
            fleet.close()
        return CheckLine(name, ok=True, text="the coordinator takes this site's key.")

    @cached_property
    def way(self) -> Route:
        """The way that the agent takes too.

        Raises:
            AddressInvalid: the environment names a proxy that cannot be used.
        """
        return Route(proxy_for(self.door.place))

    def _through(self, proxy: Proxy) -> CheckLine:
        name, place = "coordinator", self.door.place
        try:
            self._connected().close()
        except httpcore.ProxyError as error:
            remedy = (
                f"Ask those who run the proxy to allow CONNECT to {place}, check user and password "
                f"in {proxy.variable}, or name {place.host} in NO_PROXY if there is a direct way."
            )
            return CheckLine(name, ok=False, text=f"{error}.", remedy=remedy)
        except _FAILURES as error:
            remedy = f"Check {proxy.variable}, or name {place.host} in NO_PROXY."
            return CheckLine(name, ok=False, text=f"{error}.", remedy=remedy)
        text = f"{place.host} answers on port {place.port} through the proxy."
        return CheckLine(name, ok=True, text=text)

    def _connected(self) -> httpcore.NetworkStream:
        place = self.door.place
        return self.way.connect_tcp(place.host, place.port, _WITHIN_S)

    def _valid_until(self) -> float:
        """When the certificate ends that the coordinator shows, unix seconds."""
        plain = self._connected()
        try:
            stream = plain.start_tls(self.door.trust, self.door.place.host, _WITHIN_S)
        except BaseException:
            plain.close()
            raise
        with closing(stream):
            found = stream.get_extra_info("ssl_object").getpeercert() or {}
            return ssl.cert_time_to_seconds(found["notAfter"])

    def _skew_s(self) -> float:
        """This clock minus the coordinator's, as its proxy writes it: to half a second."""
        base = f"https://{self.door.place}"
        with self.way.client(self.door.trust, base, _WITHIN_S) as client:
            before = self.clock()
            date = client.head("/").headers.get("date")
            middle = (before + self.clock()) / 2
        if date is None:
            raise ValueError("its answer has no date")
        return middle - (parsedate_to_datetime(date).timestamp() + 0.5)


def _said(error: Exception) -> str:
    cause = error.__cause__ or error
    return getattr(cause, "strerror", None) or str(error) or type(error).__name__
