"""The network lines of a dry run, against real TLS servers on loopback."""

import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from connect_proxy import ConnectProxy
from cryptography.hazmat.primitives.asymmetric import ec
from live_consortium import write_certificates
from spare_ports import free_ports

from fedrx_client.checks.network import Network
from fedrx_client.connection.fleet import Endpoint
from fedrx_client.participation.settings import only_agent

DAY_S = 86_400


class NotFlower(BaseHTTPRequestHandler):
    """Answers with a date, and that nothing is here."""

    def do_HEAD(self):
        self.send_response(404)
        self.end_headers()

    def do_POST(self):
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    write_certificates(folder, "proxied.example.org")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), NotFlower)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def network(server, tmp_path):
    folder, port = server

    def of(address=None, clock=time.time, ca=folder):
        key = ec.generate_private_key(ec.SECP384R1())
        door = Endpoint(address or f"localhost:{port}", (ca / "ca.crt").read_bytes(), key)
        return Network(door, tmp_path, clock)

    return of


def test_a_coordinator_that_is_there(network):
    assert network().reachable().ok
    assert network().skew().ok


def test_nobody_listens(network):
    (port,) = free_ports(1)
    away = network(f"localhost:{port}")
    for check in away.checks():  # no proxy is named, so no line is about one
        line = check.line()
        assert not line.ok
        assert line.remedy
    assert "firewall" in away.reachable().remedy


@pytest.fixture
def proxied(server, monkeypatch):
    """A proxy that alone knows where the coordinator is; gives the coordinator's name for it."""
    proxy = ConnectProxy(server[1], user="jo:pass word")
    monkeypatch.setenv("HTTPS_PROXY", f"http://jo:pass%20word@{proxy.address}")
    monkeypatch.delenv("https_proxy", raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield proxy, f"proxied.example.org:{server[1]}"
    proxy.close()


def test_every_line_goes_through_the_proxy_and_names_it(network, proxied):
    proxy, name = proxied
    lines = {check.name: check.line() for check in network(name).checks()}
    assert proxy.address in lines["proxy"].text
    assert "pass word" not in "".join(line.text + line.remedy for line in lines.values())
    assert lines["coordinator"].ok
    assert "signed by the pinned CA" in lines["certificate"].text
    assert lines["clock"].ok
    assert "not enrolled" in lines["admitted"].text  # so the key was shown
    assert set(proxy.asked) == {f"CONNECT {name} HTTP/1.1"}
    assert len(proxy.asked) >= 4


def test_a_proxy_that_is_away_is_what_every_line_says(network, proxied):
    proxy, name = proxied
    proxy.close()
    lines = {check.name: check.line() for check in network(name).checks()}
    assert {name for name, line in lines.items() if line.ok} == {"proxy"}
    assert proxy.address in lines["coordinator"].text
    assert "HTTPS_PROXY" in lines["coordinator"].remedy
    assert proxy.address in lines["admitted"].text


def test_a_proxy_that_refuses(network, proxied, monkeypatch):
    proxy, name = proxied
    monkeypatch.setenv("HTTPS_PROXY", f"http://jo:wrong@{proxy.address}")
    line = network(name).reachable()
    assert "407" in line.text
    assert "password" in line.remedy
    assert "wrong" not in line.text + line.remedy


def test_loopback_and_exceptions_do_not_ask_the_proxy(network, proxied, monkeypatch):
    proxy, name = proxied
    assert network().reachable().ok
    assert network().skew().ok
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert "no address is known" in network(name).reachable().text
    assert proxy.asked == []


def test_a_name_that_leads_nowhere(network):
    line = network("coordinator.invalid:8443").reachable()
    assert not line.ok
    assert "no address is known" in line.text


def test_a_certificate_is_held_against_time(network):
    soon = network().certificate()  # the test's certificate is valid for a day
    assert not soon.ok
    assert "coordinator renew" in soon.remedy
    before = network(clock=lambda: time.time() - 20 * DAY_S).certificate()
    assert before.ok


def test_a_certificate_for_another_host(network, server, monkeypatch):
    connect, local = socket.create_connection, ("127.0.0.1", server[1])
    monkeypatch.setattr(
        socket, "create_connection", lambda _, *more, **rest: connect(local, *more, **rest)
    )
    line = network("fl.example.org:8443").certificate()
    assert not line.ok
    assert "fl.example.org" in line.text


def test_a_foreign_ca(network, tmp_path_factory):
    foreign = tmp_path_factory.mktemp("foreign")
    write_certificates(foreign)
    found = network(ca=foreign)
    line = found.certificate()
    assert not line.ok
    assert "somebody else answers" in line.remedy
    assert not found.skew().ok
    assert not found.admitted().ok


@pytest.mark.parametrize(("off", "side"), [(8, "ahead of"), (-400, "behind")])
def test_a_clock_that_is_off(network, off, side):
    line = network(clock=lambda: time.time() + off).skew()
    assert not line.ok
    assert side in line.text
    assert "NTP" in line.remedy


def test_a_key_that_is_not_admitted(network):
    line = network().admitted()
    assert not line.ok
    assert "not enrolled or was revoked" in line.text


def test_a_running_agent_is_left_alone(network, tmp_path):
    with only_agent(tmp_path):
        line = network().admitted()
    assert line.ok
    assert "agent is running" in line.text
