"""The network lines of a dry run, against real TLS servers on loopback."""

import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from live_consortium import write_certificates
from spare_ports import free_ports

from fedrx_client.fleet import Door
from fedrx_client.network_check import Network
from fedrx_client.site_settings import only_agent

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
    write_certificates(folder)
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
        door = Door(address or f"localhost:{port}", (ca / "ca.crt").read_bytes(), key)
        return Network(door, tmp_path, clock)

    return of


def test_a_coordinator_that_is_there(network):
    assert network().reachable().ok
    assert network().skew().ok


def test_nobody_listens(network):
    (port,) = free_ports(1)
    away = network(f"localhost:{port}")
    for check in away.checks():
        line = check.line()
        assert not line.ok
        assert line.remedy
    assert "firewall" in away.reachable().remedy


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
    connect = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda _, **more: connect(("127.0.0.1", server[1]), **more)
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
