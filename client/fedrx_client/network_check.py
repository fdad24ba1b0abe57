"""A dry run's lines about the network: can this site reach its coordinator, and would it be let in?

Each look opens a connection of its own, outwards, and sends nothing about the site or its patients;
only the last one shows the site's key, and says goodbye at once.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast

from fedrx_client.approval import DAY_S
from fedrx_client.check import Check, CheckLine
from fedrx_client.door import Door, NotAdmitted, Undeliverable, Unreachable
from fedrx_client.fleet import Fleet
from fedrx_client.site_settings import agent_runs
from fedrx_protocol.errors import days_in_words

LEAST_VALID_DAYS = 14
# Flower's node authentication refuses a site whose clock is further ahead than this.
LARGEST_SKEW_S = 5.0
_WITHIN_S = 10.0


@dataclass(frozen=True)
class Network:
    """What the checks of one coordinator need.

    Attributes:
        door: address, pinned CA and the site's transport key.
        folder: the site's folder, to see whether its agent is running.
        clock: unix seconds.
    """

    door: Door
    folder: Path
    clock: Callable[[], float] = time.time

    def checks(self) -> tuple[Check, ...]:
        """One check after the other, in the order in which a person would repair them."""
        return (
            Check("coordinator", self.reachable, "Check the address."),
            Check("certificate", self.certificate, "Ask the coordinator."),
            Check("clock", self.skew, "Set this machine's clock (NTP)."),
            Check("admitted", self.admitted, "Ask the coordinator."),
        )

    def reachable(self) -> CheckLine:
        """Whether name and port lead anywhere."""
        name = "coordinator"
        host, port = self._address
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            text = f"no address is known for {host} ({error.strerror or error})."
            return CheckLine(name, ok=False, text=text, remedy="Check the name, or ask your DNS.")
        try:
            with socket.create_connection((host, port), timeout=_WITHIN_S):
                pass
        except OSError as error:
            text = f"{host} ({found[0][4][0]}) does not answer on port {port} ({_said(error)})."
            remedy = f"Let the firewall pass TCP to {host} port {port}, or ask whether it runs."
            return CheckLine(name, ok=False, text=text, remedy=remedy)
        return CheckLine(name, ok=True, text=f"{host} ({found[0][4][0]}) answers on port {port}.")

    def certificate(self) -> CheckLine:
        """Whether its certificate is for this host, of the pinned CA, and valid for a while."""
        name, (host, _) = "certificate", self._address
        try:
            with self._tls() as connection:
                until = _valid_until(connection)
        except ssl.SSLCertVerificationError as error:
            text = f"the certificate of {host} is refused ({error.verify_message})."
            remedy = (
                "Ask the coordinator for a certificate with this name; if they say it has one, "
                "somebody else answers in its place: trust nothing until that is clear."
            )
            return CheckLine(name, ok=False, text=text, remedy=remedy)
        except OSError as error:
            text, remedy = f"no TLS connection ({_said(error)}).", "Repair the line above first."
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
        except (OSError, http.client.HTTPException, ValueError) as error:
            text = f"the coordinator's time cannot be had ({_said(error)})."
            return CheckLine(name, ok=False, text=text, remedy="Repair the line above first.")
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

    @property
    def _address(self) -> tuple[str, int]:
        host, _, port = self.door.address.rpartition(":")
        return host.strip("[]"), int(port)

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.door.ca_certificate.decode("ascii"))

    def _tls(self) -> ssl.SSLSocket:
        host, port = self._address
        plain = socket.create_connection((host, port), timeout=_WITHIN_S)
        try:
            return self._trust().wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise

    def _skew_s(self) -> float:
        """This clock minus the coordinator's, as its proxy writes it: to half a second."""
        host, port = self._address
        connection = http.client.HTTPSConnection(
            host, port, timeout=_WITHIN_S, context=self._trust()
        )
        try:
            before = self.clock()
            connection.request("HEAD", "/")
            date = connection.getresponse().headers["Date"]
            middle = (before + self.clock()) / 2
        finally:
            connection.close()
        if date is None:
            raise ValueError("its answer has no date")
        return middle - (parsedate_to_datetime(date).timestamp() + 0.5)


def _valid_until(connection: ssl.SSLSocket) -> float:
    found = cast("dict[str, Any]", connection.getpeercert() or {})
    return ssl.cert_time_to_seconds(found["notAfter"])


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
