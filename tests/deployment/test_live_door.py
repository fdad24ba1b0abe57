"""Who may come in: keys, certificates and clocks, with a real coordinator and real sites."""

import datetime as dt
import re
import shutil
import ssl
import subprocess
import time
from base64 import b64encode
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from live_consortium import SiteProcess, wait_until, write_site_key
from live_town import Running, Town, founded
from spare_ports import free_ports

from fedrx_client.connection.fleet import load_transport_key
from fedrx_server.consortium.consortium import Consortium
from fedrx_server.gateway.control import list_sites
from fedrx_server.service.proxy import Tls, find_nginx, proxy_config

pytestmark = pytest.mark.slow

DAY_S = 86_400


@pytest.fixture(scope="module")
def town(nursery, tmp_path_factory):
    with founded(nursery, tmp_path_factory.mktemp("door"), 3) as town:
        town.open()
        yield town


@pytest.fixture
def other(nursery, tmp_path, town):
    """Another consortium, whose site knocks at our door."""
    with founded(nursery, tmp_path / "other", 1) as other:
        other.public = town.public
        yield other


def online(town: Town) -> set[str]:
    return {site.name for site in list_sites(town.superlink_address) if site.online}


def says(town: Town, running: Running, words: str) -> None:
    town.until(lambda: words in running.text, 30, words)


def notes(town: Town, pattern: str) -> None:
    """Wait until a line of the coordinator's own logs matches."""
    home = town.folder / "consortium"
    town.until(
        lambda: any(re.search(pattern, path.read_text()) for path in home.rglob("*.log")),
        30,
        f"the coordinator's log: {pattern}",
    )


def test_a_site_of_another_consortium_trusts_no_foreign_certificate(town, other):
    stranger = other.enter("site0")
    says(other, stranger, "certificate verify failed")
    notes(town, r"SSL_do_handshake\(\) failed .* alert unknown ca.* client: 127\.0\.0\.1")
    stranger.end()
    assert not online(town)


def test_a_site_whose_ca_is_not_of_its_consortium_does_not_even_knock(town, other):
    (other.home("site0") / "ca.crt").write_bytes((town.folder / "consortium/ca.crt").read_bytes())
    stranger = other.enter("site0")
    other.until(lambda: not stranger.alive(), 30, "it ends")
    assert stranger.status == 2
    assert "not signed by the pinned consortium key" in stranger.text


def test_a_key_that_was_never_enrolled_here(town, tmp_path):
    home = tmp_path / "stranger"
    write_site_key(home)
    (home / "ca.crt").write_bytes((town.folder / "consortium/ca.crt").read_bytes())
    stranger = SiteProcess(home, f"localhost:{town.public}", free_ports(1)[0])
    stranger.start()
    try:
        key = load_transport_key(home / "transport.key").public_key()
        shown = b64encode(public_key_to_bytes(key))
        wait_until(lambda: "not connected: the coordinator does not admit" in stranger.log, 30, "")
        fingerprint = sha256(shown).hexdigest()[:16]
        notes(town, rf"refused 127\.0\.0\.1 with key {fingerprint}: /v1/fleet/activate-node: 412")
        notes(town, r'refused 127\.0\.0\.1: "POST /v1/fleet/activate-node" 412')
    finally:
        assert stranger.stop() == 0
    assert not online(town)


def test_a_path_that_no_site_has_any_business_with(town):
    ca = ssl.create_default_context(cafile=town.folder / "consortium/ca.crt")
    path = f"/v1/control/start-run/{'x' * 500}"
    response = httpx.post(f"https://localhost:{town.public}{path}", verify=ca, trust_env=False)
    assert response.status_code == 404
    notes(town, rf'refused 127\.0\.0\.1: "POST {path[:80]}" 404')


def test_a_clock_that_is_off_by_a_day(town):
    wrong = town.enter("site1", fault={"clock_s": DAY_S})
    says(town, wrong, "clocks differ")
    notes(town, r"refused 127\.0\.0\.1 with key \w{16}: /v1/fleet/activate-node: 401")
    wrong.end()
    assert "site1" not in online(town)


def test_revoked_while_connected_then_enrolled_with_new_keys(town):
    site = town.enter("site2")
    town.until(lambda: "site2" in online(town), 30, "site2 is online")
    [node] = [one.node for one in list_sites(town.superlink_address) if one.name == "site2"]
    home = town.folder / "consortium"
    town.done("coordinator", "revoke", home, "site2", "--reason", "lost laptop")
    town.until(lambda: "site2" not in online(town), 30, "site2 is out")
    says(town, site, "not enrolled or was revoked")
    notes(town, rf"which says it is node {node}: /v1/fleet/take: 401")
    assert "site2" in town.coordinator.text
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
def proxy(town: Town, folder: Path, certificate: Path, key: Path):
    """The coordinator's own proxy once more, with another certificate; gives port and log."""
    [port] = free_ports(1)
    tls = Tls(town.folder / "consortium" / "ca.crt", certificate, key)
    config, log = folder / "nginx.conf", folder / "proxy.log"
    config.write_text(proxy_config(folder, tls, listen=f"127.0.0.1:{port}", inner_port=town.inner))
    with log.open("ab") as output:
        command = [find_nginx(), "-e", "stderr", "-p", folder, "-c", config]
        process = subprocess.Popen(command, stderr=output)
    try:
        yield port, log
    finally:
        process.terminate()
        process.wait(60)


def test_an_expired_certificate(town, tmp_path):
    home = tmp_path / "consortium"
    shutil.copytree(town.folder / "consortium", home, symlinks=True)
    consortium = Consortium(home)
    consortium.renew(now=int(time.time()) - 3 * 366 * DAY_S)
    assert consortium.certificate.not_valid_after_utc < dt.datetime.now(dt.UTC)
    files = consortium.files
    right = town.public
    with proxy(town, tmp_path, files.server_certificate, files.server_key) as (port, log):
        town.public = port
        try:
            site = town.enter("site1")
            says(town, site, "certificate has expired")
            site.end()
        finally:
            town.public = right
        wait_until(lambda: "alert certificate expired" in log.read_text(), 30, "proxy's log")
