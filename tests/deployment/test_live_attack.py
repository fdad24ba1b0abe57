"""A stranger at the door of a real coordinator: what it can make it hold, while a site works on.

The stranger calls from 127.0.0.2, the site from 127.0.0.1, so that they count as two addresses.
"""

import re
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from live_consortium import SiteProcess, wait_until, write_certificates, write_site_key
from spare_ports import free_ports

from fedrx_client.connection.fleet import load_transport_key
from fedrx_common.tls import trusting
from fedrx_server.gateway.control import list_sites, register_site
from fedrx_server.gateway.limits import DEFAULT_LIMITS
from fedrx_server.service.grid import live_run
from fedrx_server.service.proxy import CALLS_OF_AN_ADDRESS, Tls
from fedrx_server.service.superlink import Ports, SuperLink

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nginx")]

STRANGER = "127.0.0.2"
PART_BYTES = 8 * 2**20
UPLOADS = 50
# Of both processes together; without limits it was 800 MiB.
GROWTH_MIB = 48


@dataclass
class Live:
    """A coordinator with one site, whose agent echoes."""

    link: SuperLink
    folder: Path
    node: int
    public: int
    inner: int

    def stranger(self, *, secured: bool = True) -> socket.socket:
        """A connection from the stranger's address."""
        plain = socket.create_connection(("127.0.0.1", self.public), 60, (STRANGER, 0))
        if not secured:
            return plain
        trust = trusting((self.folder / "tls/ca.crt").read_bytes())
        return trust.wrap_socket(plain, server_hostname="localhost")

    def held_mib(self) -> float:
        """What proxy and SuperLink hold, pages that they share counted once."""
        pids = [pid for child in self.link.pids.values() for pid in (child, *children(child))]
        rolled = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
        return sum(int(re.search(r"^Pss: +(\d+)", text, re.M).group(1)) for text in rolled) / 1024

    def exchange(self, values: int = 1_000_000) -> bool:
        """Whether the site answers with the model that it was sent."""
        model = np.arange(values, dtype=np.float32)
        with live_run(self.link.superlink_address, "echo") as exchange:
            headers = {self.node: b"are you there"}
            [reply] = exchange.send(
                "query.echo", headers, attempt="1", deadline_s=120.0, payload=model
            )
        return reply.payload == model.tobytes()


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacked")
    write_certificates(folder / "tls")
    tls = Tls(*(folder / "tls" / name for name in ("ca.crt", "server.crt", "server.key")))
    public, inner, health, probe = free_ports(4)
    link = SuperLink(folder / "run", tls, Ports(public, inner, health, host="127.0.0.1"))
    stop = threading.Event()
    watch = threading.Thread(target=link.supervise, args=(stop,))
    with link.running():
        watch.start()
        node = register_site(link.superlink_address, write_site_key(folder / "site"), "site")
        (folder / "site/ca.crt").write_bytes(tls.ca_certificate.read_bytes())
        site = SiteProcess(folder / "site", f"localhost:{public}", probe)
        site.start()
        try:
            wait_until(
                lambda: any(s.online for s in list_sites(link.superlink_address)), 40, "the site"
            )
            yield Live(link, folder, node, public, inner)
        finally:
            site.stop()
            stop.set()
            watch.join()


def upload(live: Live, call: str, length: int) -> socket.socket:
    """A call without a key that sends all of its body but the end, and then nothing."""
    connection = live.stranger()
    head = (
        f"POST /v1/fleet/{call} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/protobuf\r\nContent-Length: {length}\r\n\r\n"
    )
    with suppress(OSError):  # the door may close first
        connection.sendall(head.encode())
        for _ in range(length // 2**16 - 1):
            connection.sendall(bytes(2**16))
    return connection


def test_stalled_uploads_without_a_key_fill_nothing_and_the_site_works_on(live):
    assert live.exchange()
    before, peak, over = live.held_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], live.held_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ExitStack() as opened, ThreadPoolExecutor(UPLOADS) as pool:
        calls = [("push-object", PART_BYTES), ("give", 2**18)] * (UPLOADS // 2)
        for connection in pool.map(lambda call: upload(live, *call), calls):
            opened.enter_context(connection)
        over.set()
        watcher.join()
        assert peak[0] - before < GROWTH_MIB
        assert live.exchange()


def closes(connection: socket.socket) -> float:
    """Seconds until the door closes a connection on which nothing more is said."""
    began = time.monotonic()
    connection.settimeout(120)
    with suppress(OSError):
        while connection.recv(4096):
            pass
    return time.monotonic() - began


def test_half_a_handshake_and_half_a_header_are_not_waited_for(live):
    """Slow on purpose: they trickle, and the door counts from their beginning."""
    with ExitStack() as opened:
        hello, header = live.stranger(secured=False), live.stranger()
        opened.enter_context(hello)
        opened.enter_context(header)
        hello.sendall(b"\x16\x03\x01\x02\x00\x01")
        header.sendall(b"POST /v1/fleet/take HTTP/1.1\r\nHost: localhost\r\n")
        done = threading.Event()

        def trickle() -> None:
            for byte in b"x: y" * 100:
                if done.wait(1):
                    return
                for connection in (hello, header):
                    with suppress(OSError):
                        connection.sendall(bytes([byte]))

        drip = threading.Thread(target=trickle)
        drip.start()
        try:
            with ThreadPoolExecutor(2) as pool:
                # Each would take 100 s and more if a byte now and then kept it open.
                assert max(pool.map(closes, (hello, header))) < 60
        finally:
            done.set()
            drip.join()


def test_one_address_has_so_many_calls_and_others_are_let_in(live):
    """Many sites behind one address: with valid keys, so that each call waits for a message."""
    sites = CALLS_OF_AN_ADDRESS // DEFAULT_LIMITS.calls_of_a_site + 1
    keys = {}
    for number in range(sites):
        home = live.folder / f"behind-{number}"
        node = register_site(live.link.superlink_address, write_site_key(home), home.name)
        keys[node] = load_transport_key(home / "transport.key")
    trust = trusting((live.folder / "tls/ca.crt").read_bytes())
    transport = httpx.HTTPTransport(
        verify=trust, local_address=STRANGER, limits=httpx.Limits(max_connections=None)
    )
    calls = [item for item in keys.items() for _ in range(DEFAULT_LIMITS.calls_of_a_site)]
    with httpx.Client(transport=transport, trust_env=False, timeout=240) as client:
        full = threading.Event()

        def ask(node: int, key: ec.EllipticCurvePrivateKey) -> int:
            content = PullMessagesRequest(node=Node(node_id=node)).SerializeToString()
            url = f"https://localhost:{live.public}/v1/fleet/take"
            kind = {"content-type": "application/protobuf"}
            request = client.build_request("POST", url, content=content, headers=kind)
            sign = NodeAuthHttpInterceptor(key, key.public_key())
            sign.intercept(ProtobufRequestContext("", Node(), request), lambda _: None)
            return client.send(request).status_code

        def take(node: int, key: ec.EllipticCurvePrivateKey) -> set[int]:
            found = set()
            while not full.is_set():
                found.add(ask(node, key))
                if 503 in found:
                    full.set()
            return found

        with ThreadPoolExecutor(len(calls)) as pool:
            answers = [pool.submit(take, *call) for call in calls]
            try:
                wait_until(full.is_set, 60, "the address is full")
                assert live.exchange(10)
            finally:
                full.set()
            assert set().union(*(answer.result() for answer in answers)) == {200, 503}


@pytest.mark.parametrize("port", ["public", "inner"])
@pytest.mark.parametrize(
    ("ciphers", "agreed"),
    [
        ("ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES256-SHA", None),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ],
)
def test_only_ciphers_that_authenticate_what_they_encrypt(live, port, ciphers, agreed):
    trust = trusting((live.folder / "tls/ca.crt").read_bytes())
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    trust.set_ciphers(ciphers)
    plain = socket.create_connection(("127.0.0.1", getattr(live, port)), 60)
    if agreed is None:
        with plain, pytest.raises(ssl.SSLError, match=r"(?i)handshake failure|EOF"):
            trust.wrap_socket(plain, server_hostname="localhost")
    else:
        with trust.wrap_socket(plain, server_hostname="localhost") as secured:
            assert secured.cipher()[0] == agreed
