"""Flower's own SuperNode at this SuperLink, through the proxy, with the installed ClientApp."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from live_consortium import free_ports, wait_until, write_certificates, write_site_key

from fedrx_protocol.errors import MisuseError
from fedrx_server.backstage import list_sites, register_site
from fedrx_server.live import live_run
from fedrx_server.proxy import Tls, find_nginx
from fedrx_server.superlink import Ports, SuperLink


def nginx_is_here() -> bool:
    try:
        find_nginx()
    except MisuseError:
        return False
    return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not nginx_is_here(),
        reason="NGINX MISSING: stock SuperNode not tested; apt-get install nginx-light",
    ),
]


@pytest.fixture
def link(tmp_path):
    write_certificates(tmp_path / "tls")
    tls = Tls(*(tmp_path / "tls" / name for name in ("ca.crt", "server.crt", "server.key")))
    ports = Ports(*free_ports(3), host="127.0.0.1")
    made = SuperLink(tmp_path / "coordinator", tls, ports)
    with made.running():
        yield made


@pytest.fixture
def supernode(link, tmp_path):
    """A stock SuperNode with a registered key; gives its log."""
    home = tmp_path / "site0"
    register_site(link.backstage, write_site_key(home), "site0")
    command = [
        Path(sys.executable).parent / "flower-supernode",
        *("--superlink", f"localhost:{link._ports.public}"),
        *("--root-certificates", link._tls.ca_certificate),
        *("--auth-supernode-private-key", home / "transport.key"),
        *("--port", str(free_ports(1)[0])),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "FLWR_HOME": str(home / "flower")}
    with (home / "supernode.log").open("wb") as log:
        process = subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, env=env, start_new_session=True
        )
    yield home / "supernode.log"
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def test_it_asks_the_installed_app_and_brings_its_answer_back(link, supernode):
    online = lambda: any(site.online for site in list_sites(link.backstage))  # noqa: E731
    wait_until(online, 60, "the SuperNode is online")
    with live_run(link.backstage, "stock") as exchange:
        headers = dict.fromkeys(exchange.nodes(), b"{}")
        replies = list(exchange.send("query.advertise", headers, attempt="1", deadline_s=60.0))
    # Nobody has told the app where the hospital's folder is, and so it refuses, by name.
    assert [reply.refusal for reply in replies] == ["MisuseError"], supernode.read_text()
