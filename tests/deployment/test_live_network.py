"""Proxies in the environment, and IPv6: real commands, a real proxy, a real coordinator."""

import json
import re

import grpc
import pytest
from connect_proxy import ConnectProxy
from grpc_health.v1 import health_pb2, health_pb2_grpc
from live_town import Running, Town, founded
from spare_ports import free_ports

from fedrx_server.gateway.control import list_sites

pytestmark = pytest.mark.slow

NAME = "fl.example.test"  # which no DNS knows


def environment(proxy: str) -> dict[str, str]:
    """What a hospital sets for everybody; nothing is excepted."""
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy")
    return {**dict.fromkeys(names, f"http://{proxy}"), "no_proxy": "", "NO_PROXY": ""}


def check(town: Town, name: str, address: str, **arranged) -> dict[str, dict]:
    """The network's lines of `fedrx site check`, by name."""
    study = town.study()
    data, mapping = town.files(name)
    argv = ("site", "check", town.home(name), study, "--data", data, "--mapping", mapping)
    # The approval is missing, so it says that not all is well.
    text = town.done(*argv, "--coordinator", address, "--json", code=2, **arranged)
    return {line["name"]: line for line in json.loads(text.strip().splitlines()[-1])["lines"]}


def is_serving(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return reply.status == health_pb2.HealthCheckResponse.SERVING


def online(town: Town) -> set[str]:
    return {site.name for site in list_sites(town.superlink_address) if site.online}


def test_a_dead_proxy_stops_no_coordinator_and_a_real_one_carries_a_site(nursery, tmp_path):
    dead = environment(f"127.0.0.1:{free_ports(1)[0]}")
    with founded(nursery, tmp_path, 2, hosts=(NAME,)) as town:
        town.open(environment=dead)
        assert "cannot be reached" not in town.coordinator.text
        proxy = ConnectProxy(town.public, user="jo:pass word")
        try:
            through = environment(f"jo:pass%20word@{proxy.address}")
            lines = check(town, "site0", f"https://{NAME}:{town.public}", environment=through)
            network = ("proxy", "coordinator", "certificate", "clock", "admitted")
            assert {name: lines[name]["ok"] for name in network} == dict.fromkeys(network, True)
            assert proxy.address in lines["proxy"]["text"]
            assert "pass" not in lines["proxy"]["text"]

            site = town.enter("site0", door=NAME, environment=through)
            town.until(lambda: "site0" in online(town), 60, "site0 is online")
            assert f"through the proxy http://jo@{proxy.address}" in site.text
            assert {line.split()[1] for line in proxy.asked} == {f"{NAME}:{town.public}"}

            # Loopback asks no proxy, whatever the environment says.
            town.enter("site1", environment=dead)
            town.until(lambda: "site1" in online(town), 60, "site1 is online")
        finally:
            proxy.close()


def test_a_coordinator_and_a_site_on_ipv6(nursery, tmp_path):
    with founded(nursery, tmp_path, 1, hosts=("[::1]",), listen="::1") as town:
        town.open()
        assert f"sites reach [::1]:{town.public} " in town.coordinator.text
        lines = check(town, "site0", f"[::1]:{town.public}")
        network = ("coordinator", "certificate", "clock", "admitted")
        assert {name: lines[name]["ok"] for name in network} == dict.fromkeys(network, True)
        town.enter("site0", door="[::1]")
        town.until(lambda: "site0" in online(town), 60, "site0 is online")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("https://fl.example.org", "neither a DNS name nor an IP address"),
        ("192.0.2.7", "choose an address of this machine"),
        ("fl.example.test", "no address is known"),
    ],
)
def test_an_address_to_listen_on_that_cannot_be(nursery, tmp_path, host, words):
    town = Town(tmp_path, nursery, ())
    home = town.folder / "consortium"
    town.done("coordinator", "init", home, "--name", "Town", "--host", "localhost")
    ports = ("--port", town.public, "--inner-port", town.inner, "--health-port", town.probe)
    said = town.done("coordinator", "start", home, *ports, "--host", host, code=2)
    assert words in " ".join(said.split())


def test_ready_is_said_once_the_sites_can_be_admitted_and_not_before(nursery, tmp_path):
    with founded(nursery, tmp_path, 1) as town:
        [request] = (town.folder / "consortium/sites").glob("*.json")
        aside = request.rename(town.folder / "aside")
        argv = ("coordinator", "start", town.folder / "consortium", "--host", "127.0.0.1")
        ports = ("--port", town.public, "--inner-port", town.inner, "--health-port", town.probe)
        output = town.folder / "coordinator.txt"
        pid = nursery.start([*argv, *ports], output)
        town.coordinator = Running(nursery, pid, output)
        town.until(lambda: "cannot be admitted" in town.coordinator.text, 60, "the reason")
        assert not re.search("Ready|ready:", town.coordinator.text)
        assert not is_serving(town.probe)
        aside.rename(request)
        town.until(lambda: "Ready: sites reach" in town.coordinator.text, 60, "it is ready")
        town.until(lambda: is_serving(town.probe), 30, "probes see it")
