"""The coordinator's own way to its SuperLink: on loopback, with the secret of the task queue.

Admits sites and shuts them out. Flower is pinned to one version, because the names used here are
not a public interface.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import httpx
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClient, ProtobufClientInterceptor
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.version import package_version

from fedrx_common.address import Address
from fedrx_common.documents import read_json
from fedrx_common.errors import FedRxError, MisuseError
from fedrx_common.tls import trusting

FLOWER_VERSION: Final = "1.41.0"
_ACQUIRE: Final = "/flwr.proto.Runtime/AcquireTask"
_GATEWAY_CODES: Final = frozenset({500, 502, 503, 504})
_TIMEOUT_S: Final = 30.0

C = TypeVar("C", bound=ProtobufClient)


class SuperLinkUnusable(FedRxError):
    """The SuperLink or its proxy is not there, did not start, or refused; a run can go on later."""


@dataclass(frozen=True)
class SuperLinkAddress:
    """The SuperLink's own address on the coordinator's host, which no site can reach.

    Args:
        address: Host and port on loopback.
        ca_certificate: PEM of the consortium's CA.
        secret: The shared secret without which the SuperLink gives no task away.
    """

    address: str
    ca_certificate: bytes
    secret: bytes

    def __post_init__(self) -> None:
        """Check the version, the address and the secret.

        Raises:
            MisuseError: Another Flower is installed, or the address is not on loopback.
        """
        if package_version != FLOWER_VERSION:
            raise MisuseError(
                f"FedRx needs Flower {FLOWER_VERSION} and found {package_version}: "
                f"run `pip install flwr=={FLOWER_VERSION}`."
            )
        if not Address.parse(self.address).on_loopback:
            raise MisuseError(f"{self.address}: the SuperLink itself may only be on loopback.")
        if not self.secret:
            raise MisuseError("the SuperLink's task secret is empty; start the coordinator anew.")

    def http(
        self, base_url: str = "", headers: Mapping[str, str] | None = None, keep_s: float = 5.0
    ) -> httpx.Client:
        """A client that uses no proxy of the environment: this is loopback.

        Args:
            base_url: Before every path.
            headers: Of every call.
            keep_s: How long an idle connection is kept.
        """
        return httpx.Client(
            base_url=base_url,
            headers=headers,
            verify=trusting(self.ca_certificate),
            timeout=_TIMEOUT_S,
            trust_env=False,
            limits=httpx.Limits(keepalive_expiry=keep_s),
        )

    def reached_by(
        self,
        kind: type[C],
        interceptors: Sequence[ProtobufClientInterceptor],
        retry_invoker: RetryInvoker | None = None,
    ) -> C:
        """One of Flower's clients, on the HTTP client of `http` instead of its own."""
        trust = trusting(self.ca_certificate)
        client = kind(
            f"https://{self.address}",
            interceptors=interceptors,
            verify=trust,
            retry_invoker=retry_invoker,
        )
        client.close()
        client._client = self.http()  # noqa: SLF001 - Flower has no other way
        return client


@dataclass(frozen=True)
class SiteNode:
    """A site as the SuperLink knows it.

    Args:
        node: Flower's node id.
        name: The name it was registered under.
        public_key: PEM of its transport key.
        online: Whether it has shown itself lately.
    """

    node: int
    name: str
    public_key: bytes
    online: bool


def register_site(superlink_address: SuperLinkAddress, public_key: bytes, name: str) -> int:
    """Admit a site's transport key (PEM) and return its node id.

    Raises:
        SuperLinkUnusable: The key is not of a NIST curve, or is registered already.
    """
    request = RegisterNodeRequest(public_key=public_key, name=name)
    with control_client(superlink_address) as control:
        return int(control.RegisterNode(request).node_id)


def unregister_site(superlink_address: SuperLinkAddress, node: int) -> None:
    """Shut a site out at once.

    Raises:
        SuperLinkUnusable: There is no such node.
    """
    with control_client(superlink_address) as control:
        control.UnregisterNode(UnregisterNodeRequest(node_id=node))


def list_sites(superlink_address: SuperLinkAddress) -> list[SiteNode]:
    """The registered sites.

    Raises:
        SuperLinkUnusable: The SuperLink is not there.
    """
    with control_client(superlink_address) as control:
        nodes = control.ListNodes(ListNodesRequest()).nodes_info
    return [
        SiteNode(node.node_id, node.name, node.public_key, node.status == "online")
        for node in nodes
        if node.status != "unregistered"
    ]


@contextmanager
def control_client(superlink_address: SuperLinkAddress) -> Iterator[ControlHttpClient]:
    """A client of the Control paths."""
    client = superlink_address.reached_by(ControlHttpClient, [])
    with translated(), client:
        yield client


@contextmanager
def task_queue(superlink_address: SuperLinkAddress) -> Iterator[RuntimeHttpClient]:
    """A client of the Runtime paths that may take tasks."""
    secret = SuperExecAuthHttpInterceptor(
        master_secret=superlink_address.secret, protected_methods={_ACQUIRE}
    )
    version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
    client = superlink_address.reached_by(RuntimeHttpClient, [version, secret])
    with translated(), client:
        yield client


def retries(patience_s: float) -> RetryInvoker:
    """Calls again while the SuperLink is away, e.g. restarts."""
    return RetryInvoker(
        partial(exponential, base_delay=0.1, max_delay=2),
        (httpx.TransportError, httpx.HTTPStatusError),
        max_tries=None,
        max_time=patience_s,
        should_giveup=_is_final,
    )


def _is_final(error: Exception) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code not in _GATEWAY_CODES
    return "certificate" in str(error).lower()


@contextmanager
def translated() -> Iterator[None]:
    """Turn what HTTP says into one error of ours."""
    try:
        yield
    except httpx.TransportError as error:
        raise SuperLinkUnusable(
            f"the SuperLink cannot be reached ({error}): is `fedrx coordinator start` running?"
        ) from None
    except httpx.HTTPStatusError as error:
        try:
            body = read_json(error.response.text)
            said = str(body.get("message") or body.get("detail") or body)
        except (ValueError, AttributeError):
            said = f"HTTP {error.response.status_code}"
        raise SuperLinkUnusable(f"the SuperLink refused {error.request.url.path}: {said}") from None
