"""HOST:PORT as people write it and as programs need it: one parser for every command."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self

from fedrx_common.errors import MisuseError

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LABEL: Final = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?", re.IGNORECASE | re.ASCII)
_NUMBERS: Final = re.compile(r"[0-9.]+")


class AddressInvalid(MisuseError):
    """A text to which no program can connect, and on which none can listen."""


@dataclass(frozen=True)
class Address:
    """A host and a port.

    Attributes:
        host: a DNS name or an IP address, without brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        """Check both.

        Raises:
            AddressInvalid: there is no such host or port.
        """
        require_host(self.host)
        if not 0 < self.port < 2**16:
            raise AddressInvalid(f"{self.port} is no port: choose one from 1 to 65535.")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HOST:PORT`; an IPv6 address is in brackets; `https://` before it is allowed.

        Raises:
            AddressInvalid: it is something else; says what to write.
        """
        scheme = _SCHEME.match(text)
        if scheme and scheme[1].lower() != "https":
            raise AddressInvalid(f"{text!r}: the connection is always https; give HOST:PORT alone.")
        rest = text[scheme.end() :].removesuffix("/") if scheme else text
        if set(rest) & set("/?#@ "):
            raise AddressInvalid(f"{text!r}: give HOST:PORT alone, without a path or a user.")
        host, _, port = rest.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not host or not _PORT.fullmatch(port):
            raise AddressInvalid(
                f"{text!r} is no HOST:PORT, e.g. fl.example.org:8443; ask your coordinator for it."
            )
        if ":" in host and not bracketed:
            raise AddressInvalid(
                f"{text!r} is no HOST:PORT: an IPv6 address stands in brackets, "
                f"e.g. [{host}]:{port}."
            )
        if not 0 < int(port) < 2**16:
            raise AddressInvalid(f"{text!r} is no HOST:PORT: a port is from 1 to 65535.")
        return cls(bare_host(host), int(port))

    def __str__(self) -> str:
        """Write it for a URL, an `nginx.conf` or a person."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def on_loopback(self) -> bool:
        """Whether it is this machine by its text; no name is looked up."""
        return is_loopback(self.host)


def bare_host(text: str) -> str:
    """Give a host without the brackets of an IPv6 address.

    Raises:
        AddressInvalid: it is neither a DNS name nor an IP address.
    """
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        if _ip(text) is None or ":" not in text:
            raise AddressInvalid(f"[{text}]: only an IPv6 address stands in brackets.")
    return require_host(text)


def require_host(text: str) -> str:
    """Give back a host, checked.

    Raises:
        AddressInvalid: it is neither a DNS name nor an IP address.
    """
    # 10.0.0.300 is a mistyped address, not a name.
    named = _NAME.fullmatch(text) and not _NUMBERS.fullmatch(text)
    if not named and _ip(text) is None:
        raise AddressInvalid(f"{text!r} is neither a DNS name nor an IP address; check the host.")
    return text


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine by its text: a loopback address, or `localhost`."""
    address = _ip(host)
    if address is None:
        name = host.lower().removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text) if text.isascii() else None
    except ValueError:
        return None
