"""Who may come in: keys, certificates and clocks, with a real coordinator and real sites."""

import datetime as dt
import socket
import ssl
import threading
import time
from contextlib import contextmanager

import pytest
from live_consortium import free_ports
from live_town import Running, Town, founded

from fedrx_server.backstage import list_sites
from fedrx_server.consortium import Consortium

pytestmark = pytest.mark.slow

DAY_S = 86_400


@pytest.fixture(scope="module")
def town(nursery, tmp_path_factory):
    with founded(nursery, tmp_path_factory.mktemp("door"), 3) as town:
        town.open()
        yield town


def online(town: Town) -> set[str]:
    return {site.name for site in list_sites(town.backstage) if site.online}


def says(town: Town, running: Running, words: str) -> None:
    town.until(lambda: words in running.text, 30, words)


def coordinator_log(town: Town) -> str:
    return "\n".join(p.read_text() for p in (town.folder / "consortium").rglob("*.log"))


def test_a_site_of_another_consortium_trusts_no_foreign_certificate(town, nursery, tmp_path):
    with founded(nursery, tmp_path / "other", 1) as other:
        other.public = town.public
        stranger = other.enter("site0")
        says(other, stranger, "certificate")
        assert "site0" not in online(town)
        stranger.end()


def test_a_key_that_was_never_enrolled_here(town, nursery, tmp_path):
    with founded(nursery, tmp_path / "other", 1) as other:
        # The stranger even trusts our CA; our coordinator still does not know the key.
        ca = town.folder / "consortium" / "ca.crt"
        other.public = town.public
        authority = other.home("site0") / "ca.crt"
        authority.write_bytes(ca.read_bytes())
        stranger = other.enter("site0")
        other.until(lambda: not stranger.alive() or "not enrolled" in stranger.text, 30, "refused")
        assert not online(town)
        stranger.end()


def test_a_clock_that_is_off_by_a_day(town):
    wrong = town.enter("site1", fault={"clock_s": DAY_S})
    says(town, wrong, "clock")
    assert "site1" not in online(town)
    wrong.end()
    assert "401" in coordinator_log(town)


def test_revoked_while_connected_then_enrolled_with_new_keys(town):
    site = town.enter("site2")
    town.until(lambda: "site2" in online(town), 30, "site2 is online")
    home = town.folder / "consortium"
    town.done("coordinator", "revoke", home, "site2", "--reason", "lost laptop", "--yes")
    town.until(lambda: "site2" not in online(town), 30, "site2 is out")
    says(town, site, "not enrolled or was revoked")
    assert "site2" in coordinator_log(town)
    site.end()


def test_rotated_keys_come_in_and_the_old_ones_are_out(town):
    site = town.enter("site0")
    town.until(lambda: "site0" in online(town), 30, "site0 is online")
    town.done("site", "rotate", town.home("site0"))
    request = town.home("site0") / "enrolment-request.json"
    home = town.folder / "consortium"
    town.done("coordinator", "enroll", home, request, "--rotate", "--yes")
    says(town, site, "not enrolled or was revoked")
    site.end()
    town.done("site", "join", town.home("site0"), "--roster", home / "roster.json")
    town.enter("site0")
    town.until(lambda: "site0" in online(town), 30, "site0 is online with new keys")


@contextmanager
def serving(certificate, key):
    """A TLS server that lets the handshake happen and nothing more; gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    [port] = free_ports(1)
    with socket.create_server(("127.0.0.1", port)) as server:
        stop = threading.Event()
        thread = threading.Thread(target=_shake, args=(server, context, stop))
        thread.start()
        try:
            yield port
        finally:
            stop.set()
            thread.join()


def _shake(server, context, stop):
    server.settimeout(0.1)
    while not stop.is_set():
        try:
            with context.wrap_socket(server.accept()[0], server_side=True):
                pass
        except (TimeoutError, OSError):
            continue


def test_an_expired_certificate(town):
    consortium = Consortium(town.folder / "consortium")
    kept = {
        path: path.read_bytes()
        for path in (consortium.files.server_certificate, consortium.files.server_key)
    }
    try:
        consortium.renew(now=int(time.time()) - 3 * 366 * DAY_S)
        assert consortium.certificate.not_valid_after_utc < dt.datetime.now(dt.UTC)
        with serving(consortium.files.server_certificate, consortium.files.server_key) as port:
            town.public, right = port, town.public
            site = town.enter("site1")
            says(town, site, "expired")
            site.end()
            town.public = right
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
