"""Where a site finds its coordinator, how it authenticates, and what can go wrong."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_ssh_private_key,
)

from fedrx_common.address import Address
from fedrx_common.errors import FedRxError, MisuseError, PeerError
from fedrx_common.tls import trusting


class Unreachable(FedRxError):
    """The coordinator does not answer, or its certificate is not one the site trusts."""


class NotAdmitted(PeerError):
    """The coordinator does not take this key: not enrolled, revoked, or the clocks differ."""


class Interrupted(BaseException):
    """Ends the wait for a request when the agent is to stop; no message is lost."""


class Undeliverable(PeerError):
    """A message could not be taken or given: its run is over, or its parts do not fit."""


@dataclass(frozen=True)
class Endpoint:
    """Where a site finds its coordinator, and how it authenticates.

    Args:
        address: Host and port of the coordinator's proxy, e.g. `fedrx.example.org:8443`.
        ca_certificate: PEM of the consortium's CA; nothing else is trusted.
        key: The site's transport key, registered by the coordinator.
    """

    address: str
    ca_certificate: bytes
    key: ec.EllipticCurvePrivateKey

    def __post_init__(self) -> None:
        """Check the address and the certificate."""
        _ = self.place
        try:
            # Without one Python would fall back on the public CAs of the system.
            _ = self.trust
        except (ssl.SSLError, ValueError):
            raise MisuseError(
                "the CA certificate is not in PEM form; fetch it from the coordinator again."
            ) from None

    @property
    def place(self) -> Address:
        """Host and port, separately."""
        return Address.parse(self.address)

    @property
    def trust(self) -> ssl.SSLContext:
        """What a connection to the coordinator is checked with."""
        return trusting(self.ca_certificate)


def load_transport_key(path: Path, password: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Read a site's transport key (PKCS 8 in PEM form, or as `ssh-keygen` writes it; a NIST curve).

    Raises:
        MisuseError: There is no such key in the file.
    """
    try:
        content = path.read_bytes()
        load = load_ssh_private_key if b"OPENSSH" in content else load_pem_private_key
        key = load(content, password)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MisuseError(f"{path}: cannot be read as a transport key ({error}).") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise MisuseError(f"{path}: is no elliptic-curve key, which Flower's fleet needs.")
    return key
