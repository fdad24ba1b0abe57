"""Starts Flower's SuperLink and the proxy before it, and keeps both running.

The SuperLink listens on loopback only, with TLS, node authentication and its state in a file; it
gives tasks only to a caller that has a secret of the coordinator's folder. Sites reach the proxy.
Neither outlives the process that supervises them.
"""

import errno
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc  # type: ignore[import-untyped]  # ships no types
import httpx
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from fedrx_common.address import Address, require_host
from fedrx_common.errors import MisuseError
from fedrx_common.tls import trusting
from fedrx_server.gateway.control import SuperLinkAddress, SuperLinkUnusable
from fedrx_server.service.process import SETTING, Child
from fedrx_server.service.proxy import Tls, find_nginx, proxy_config

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.1

# An address that means all interfaces cannot be connected to.
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound

# Flower's own switches: nothing is reported, nothing is installed.
_QUIET: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_LOG_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class Ports:
    """Where the coordinator listens.

    Args:
        public: The proxy, the only one that sites reach.
        inner: The SuperLink, on loopback.
        health: `grpc.health.v1`, on loopback.
        host: The proxy's address; the default is every interface.
    """

    public: int = 8443
    inner: int = 9443
    health: int = 9444
    host: str = "0.0.0.0"  # noqa: S104 - sites come from outside; the proxy is what they meet

    def __post_init__(self) -> None:
        """Check the host, and that there are three different ports.

        Raises:
            MisuseError: Says which is wrong.
        """
        require_host(self.host)
        numbers = (self.public, self.inner, self.health)
        if len(set(numbers)) < 3 or not all(0 < number < 2**16 for number in numbers):
            raise MisuseError(f"ports {numbers}: choose three different ones from 1 to 65535.")

    @property
    def listen(self) -> Address:
        """Where the proxy listens."""
        return Address(self.host, self.public)

    @property
    def door(self) -> Address:
        """Where this machine itself reaches the proxy."""
        return Address(_EVERYWHERE.get(self.host, self.host), self.public)


class SuperLink:
    """The SuperLink and its proxy as child processes.

    Args:
        folder: State, secret and logs; made with mode 0700. Belongs on an encrypted disk.
        tls: The coordinator's certificates.
        ports: Where to listen.
        admits: Whether it is ready as soon as both run; else once `admit` is called.

    Raises:
        MisuseError: nginx is missing or a port is taken.
    """

    def __init__(self, folder: Path, tls: Tls, ports: Ports, *, admits: bool = True) -> None:
        self._folder, self._tls, self._ports = folder.resolve(), tls, ports
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._secret = _secret(self._folder / "tasks.secret")
        self._superlink = self._make_superlink()
        self._proxy = self._make_proxy()
        self._admits = admits
        self._health = health.HealthServicer()
        self._tell(ready=False)

    @property
    def superlink_address(self) -> SuperLinkAddress:
        """The way to the Control and Runtime paths, for the coordinator's own commands."""
        return SuperLinkAddress(
            f"127.0.0.1:{self._ports.inner}", self._tls.ca_certificate.read_bytes(), self._secret
        )

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of `superlink` and `proxy`."""
        return {child.name: child.pid for child in (self._superlink, self._proxy)}

    @contextmanager
    def running(self, timeout_s: float = 60.0) -> Iterator["SuperLink"]:
        """Both processes, from ready to stopped.

        Raises:
            MisuseError: A port is taken.
            SuperLinkUnusable: One of them does not come up in time.
        """
        with self._probes():
            try:
                for address in (self._ports.listen, Address("127.0.0.1", self._ports.inner)):
                    _check_free(address)
                children = (self._superlink, self._proxy)
                for child in children:
                    child.begin_log()
                    child.start()
                end = time.monotonic() + timeout_s
                while not self.is_ready():
                    for child in children:
                        if not child.alive or time.monotonic() > end:
                            raise SuperLinkUnusable(
                                f"the {child.name} did not come up; see {child.log}."
                            )
                    time.sleep(_LOOK_EVERY_S)
                if self._admits:
                    self.admit()
                yield self
            finally:
                self._tell(ready=False)
                self._proxy.stop()
                self._superlink.stop()

    def admit(self) -> None:
        """Report to the log and to probes that it is ready and admits the roster's sites."""
        self._admits = True
        self._tell(ready=True)
        logger.info("ready: sites reach %s", self._ports.listen)

    def supervise(self, stop: threading.Event) -> None:
        """Start again what dies, until a signal to stop."""
        children = (self._superlink, self._proxy)
        while not stop.wait(_LOOK_EVERY_S):
            for child in children:
                child.trim_log()
                child.revive()
            self._tell(ready=self._admits and all(child.alive for child in children))

    def is_ready(self) -> bool:
        """Whether a site's call passes the proxy and is answered by the SuperLink."""
        inner = f"https://127.0.0.1:{self._ports.inner}/health"
        # An empty call without a signature: the SuperLink says 401, the proxy alone 502.
        door = f"https://{self._ports.door}/v1/fleet/pull-messages"
        kind = {"content-type": PROTOBUF_MEDIA_TYPE}
        # At any address, its certificate is for this name too.
        named = {"sni_hostname": "localhost"}
        trust = trusting(self._tls.ca_certificate.read_bytes())
        try:
            with httpx.Client(verify=trust, trust_env=False, timeout=5.0) as client:
                if client.get(inner, extensions=named).status_code != 200:
                    return False
                answer = client.post(door, headers=kind, extensions=named)
                return answer.status_code == 401
        except httpx.HTTPError:
            return False

    def _tell(self, *, ready: bool) -> None:
        state = health_pb2.HealthCheckResponse
        self._health.set("", state.SERVING if ready else state.NOT_SERVING)

    @contextmanager
    def _probes(self) -> Iterator[None]:
        server = grpc.server(ThreadPoolExecutor(max_workers=2), options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            server.add_insecure_port(f"127.0.0.1:{self._ports.health}")
        except RuntimeError:
            raise MisuseError(f"port {self._ports.health} is taken; choose another.") from None
        server.start()
        try:
            yield
        finally:
            server.stop(grace=None)

    def _make_superlink(self) -> Child:
        tls = self._tls
        command = [
            *(sys.executable, "-m", "fedrx_server.gateway"),
            *("--host", "127.0.0.1", "--port", str(self._ports.inner)),
            *("--ssl-ca-certfile", str(tls.ca_certificate.resolve())),
            *("--ssl-certfile", str(tls.certificate.resolve())),
            *("--ssl-keyfile", str(tls.key.resolve())),
            "--enable-supernode-auth",
            *("--database", str(self._folder / "state.db")),
            "--disable-runtime-dependency-installation",
            *("--isolation", "process"),
            *("--superexec-auth-secret-file", str(self._folder / "tasks.secret")),
        ]
        home = {"PATH": os.defpath, "FLWR_HOME": str(self._folder / "flower")}
        env = {**home, **_QUIET, **SETTING}
        return Child("superlink", command, self._folder / "superlink.log", env)

    def _make_proxy(self) -> Child:
        folder = self._folder / "proxy"
        folder.mkdir(exist_ok=True)
        listen = str(self._ports.listen)
        config = folder / "nginx.conf"
        config.write_text(
            proxy_config(folder, self._tls, listen=listen, inner_port=self._ports.inner),
            encoding="utf-8",
        )
        command = [find_nginx(), "-e", "stderr", "-p", str(folder), "-c", str(config)]
        return Child("proxy", command, self._folder / "proxy.log", {"PATH": os.defpath})


def _secret(path: Path) -> bytes:
    """The secret of the task queue, made once; only this user may read it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(32))
    return path.read_bytes()


def _check_free(address: Address) -> None:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise MisuseError(
            f"{address.host}: no address is known for it ({error.strerror}); give one of this "
            "machine's with --host."
        ) from None
    for family, _, _, _, place in found:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(place)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise MisuseError(
                        f"port {address.port} is taken: another coordinator may run, or choose "
                        "another port."
                    ) from None
                raise MisuseError(
                    f"nothing can listen on {address} ({error.strerror}): choose an address of "
                    "this machine and a port that this account may use."
                ) from None
