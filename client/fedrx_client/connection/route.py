"""The route from a site to its coordinator: direct, or through the hospital's proxy.

Only this module reads the environment for a proxy; the agent and every line of `fedrx site check`
open their connections here. The proxy only opens a tunnel (CONNECT). It learns the coordinator's
name and never the content, because TLS passes through it.
"""

import ipaddress
import os
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

import httpcore
import httpx

from fedrx_common.address import Address, AddressInvalid, bare_host

# As in curl and most programs: lower case comes first, and the variable for all protocols last.
_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_EXCEPTIONS: Final = ("no_proxy", "NO_PROXY")
_PORTS: Final = {"http": 80, "https": 443}
_OPENED: Final = re.compile(r"HTTP/1\.[01] 2[0-9][0-9]\b")
_LONGEST_ANSWER: Final = 2**14
_WITHIN_S: Final = 30.0


@dataclass(frozen=True)
class Proxy:
    """A proxy for CONNECT.

    Attributes:
        address: of the proxy.
        secured: whether its connection uses TLS, checked with the system's own CAs.
        variable: the environment's variable that names it.
        user: percent-decoded; empty for none.
        password: never shown.
    """

    address: Address
    secured: bool
    variable: str
    user: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Name it, without the password."""
        who = f"{self.user}@" if self.user else ""
        return f"{'https' if self.secured else 'http'}://{who}{self.address} ({self.variable})"

    @property
    def credentials(self) -> bytes:
        """The header line with user and password; empty where there are none."""
        if not self.user and not self.password:
            return b""
        shown = b64encode(f"{self.user}:{self.password}".encode())
        return b"Proxy-Authorization: Basic " + shown + b"\r\n"


def proxy_for(target: Address, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy that the environment names for this address, None for a direct route.

    Loopback never has one. `NO_PROXY` lists hosts, whose names below them count too, `HOST:PORT`,
    addresses, networks as `10.0.0.0/8`, or `*` for all.

    Raises:
        AddressInvalid: it cannot be used; names the variable and never the password.
    """
    given = os.environ if environment is None else environment
    variable = next((name for name in _VARIABLES if given.get(name)), None)
    if variable is None or target.on_loopback:
        return None
    listed = next((given[name] for name in _EXCEPTIONS if given.get(name)), "")
    if any(_excepts(entry, target) for entry in listed.replace(",", " ").split()):
        return None
    text = given[variable]
    wrong = (
        f"{variable} in the environment is no proxy that can be used: write it as "
        "http://user:password@proxy.example.org:3128, special letters of both as %XX."
    )
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        usual = _PORTS[parts.scheme]
        proxy = Proxy(
            Address(bare_host(parts.hostname or ""), usual if parts.port is None else parts.port),
            secured=parts.scheme == "https",
            variable=variable,
            user=unquote(parts.username or "", errors="strict"),
            password=unquote(parts.password or "", errors="strict"),
        )
    except (ValueError, KeyError, AddressInvalid):
        raise AddressInvalid(wrong) from None
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise AddressInvalid(wrong)
    return proxy


class Route(httpcore.SyncBackend):
    """Opens connections to one coordinator.

    Args:
        proxy: The proxy, or None for direct connections.
    """

    def __init__(self, proxy: Proxy | None) -> None:
        self.proxy = proxy

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Open a connection to the coordinator, through the proxy if there is one.

        Raises:
            httpcore.ConnectError: there is no connection, to the proxy if there is one.
            httpcore.ConnectTimeout: it takes too long.
            httpcore.ProxyError: the proxy does not open the tunnel; quotes its answer.
        """
        if self.proxy is None:
            return super().connect_tcp(host, port, timeout, local_address, socket_options)
        within = _WITHIN_S if timeout is None else timeout
        there = self.proxy.address
        try:
            stream = super().connect_tcp(
                there.host, there.port, within, local_address, socket_options
            )
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise type(error)(f"the proxy {self.proxy} does not answer: {error}") from error
        try:
            if self.proxy.secured:
                trust = ssl.create_default_context()
                stream = stream.start_tls(trust, there.host, within)
            _ask_for_tunnel(stream, self.proxy, Address(host, port), within)
        except BaseException:
            stream.close()
            raise
        return stream

    def client(
        self,
        trust: ssl.SSLContext,
        base_url: str,
        timeout: httpx.Timeout | float,
        keep_s: float = 5.0,
    ) -> httpx.Client:
        """Make an HTTP client on this route, which ignores the environment.

        Args:
            trust: For the coordinator's certificate.
            base_url: Of the coordinator.
            timeout: Seconds, of each step.
            keep_s: How long an idle connection is kept.
        """
        pool = httpcore.ConnectionPool(
            ssl_context=trust, keepalive_expiry=keep_s, network_backend=self
        )
        return httpx.Client(
            transport=_Transport(pool), base_url=base_url, timeout=timeout, trust_env=False
        )


class _Transport(httpx.HTTPTransport):
    """httpx on a pool of ours: its own has no argument for how a connection is opened."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self._pool = pool


def _ask_for_tunnel(
    stream: httpcore.NetworkStream, proxy: Proxy, target: Address, within_s: float
) -> None:
    end = time.monotonic() + within_s
    place = str(target).encode("ascii")
    request = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (place, place, proxy.credentials)
    stream.write(request, within_s)
    answer = b""
    while b"\r\n\r\n" not in answer:
        left = end - time.monotonic()
        if left <= 0:
            raise httpcore.ConnectTimeout(f"the proxy {proxy} does not answer")
        part = stream.read(4096, left)
        answer += part
        if not part or len(answer) > _LONGEST_ANSWER:
            raise httpcore.ProxyError(f"the proxy {proxy} answers with no HTTP")
    status = answer.split(b"\r\n", 1)[0].decode("ascii", "replace")
    if not _OPENED.match(status):
        raise httpcore.ProxyError(f"the proxy {proxy} opens no tunnel to {target}: {status[:100]}")


def _excepts(entry: str, target: Address) -> bool:
    """Return whether an entry of `NO_PROXY` means this address."""
    if entry == "*":
        return True
    host = target.host.lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = entry.lower()
        if name.rpartition(":")[2] == str(target.port):
            name = name.rpartition(":")[0]
        name = name.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    if entry in {str(target), f"{target.host}:{target.port}"}:
        return True
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False
