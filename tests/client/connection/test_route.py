"""Which proxy a site takes, and that a tunnel through a real one is what it says it is."""

import httpcore
import pytest
from connect_proxy import ConnectProxy
from spare_ports import free_ports

from fedrx_client.connection.route import Proxy, Route, proxy_for
from fedrx_common.address import Address, AddressInvalid

TARGET = Address("fl.example.org", 8443)
PROXY = "http://proxy.example.org:3128"


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": PROXY}, "http://proxy.example.org:3128 (HTTPS_PROXY)"),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://x:1"}, f"{PROXY} (https_proxy)"),
        ({"ALL_PROXY": PROXY}, f"{PROXY} (ALL_PROXY)"),
        ({"HTTP_PROXY": PROXY, "http_proxy": PROXY}, None),  # for what is not encrypted
        ({"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "http://proxy/"}, "http://proxy:80 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "https://[2001:db8::3]:443"}, "https://[2001:db8::3]:443 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "http://jo%40x:p%2Fw@p:1"}, "http://jo@x@p:1 (HTTPS_PROXY)"),
    ],
)
def test_the_proxy_that_the_environment_names(environment, proxy):
    found = proxy_for(TARGET, environment)
    assert (str(found) if found else None) == proxy


def test_user_and_password_are_decoded_and_the_password_is_never_shown():
    found = proxy_for(TARGET, {"HTTPS_PROXY": "http://jo%40x:p%2Fw%3A@p:1"})
    assert (found.user, found.password) == ("jo@x", "p/w:")
    assert "p/w" not in str(found) + repr(found)


@pytest.mark.parametrize(
    "text",
    [
        "socks5://jo:secret@proxy:1080",
        "http://jo:secret@proxy:99999",
        "http://jo:secret@pro xy:1",
        "http://jo:sec/ret@proxy:1",
        "http://jo:secret@proxy:1/path",
        "http://",
    ],
)
def test_a_proxy_that_cannot_be_used_is_said_without_its_password(text):
    with pytest.raises(
        AddressInvalid, match="HTTPS_PROXY in the environment is no proxy"
    ) as caught:
        proxy_for(TARGET, {"HTTPS_PROXY": text})
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    ("exceptions", "host", "direct"),
    [
        ("*", "fl.example.org", True),
        ("example.org", "fl.example.org", True),
        (".example.org", "fl.example.org", True),
        ("*.example.org", "fl.example.org", True),
        ("a.de, FL.example.ORG", "fl.example.org", True),
        ("a.de fl.example.org.", "fl.example.org", True),
        ("fl.example.org:8443", "fl.example.org", True),
        ("fl.example.org:443", "fl.example.org", False),
        ("ample.org", "fl.example.org", False),
        ("fl.example.org.evil", "fl.example.org", False),
        (",", "fl.example.org", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.0/24", "192.0.2.7", True),
        ("192.0.2.7:8443", "192.0.2.7", True),
        ("192.0.3.0/24", "192.0.2.7", False),
        ("2", "192.0.2.7", False),
        ("2001:db8::/32", "2001:db8::7", True),
        ("[2001:db8::7]", "2001:db8::7", True),
        ("[2001:db8::7]:8443", "2001:db8::7", True),
        ("2001:db9::/32", "2001:db8::7", False),
    ],
)
def test_exceptions(exceptions, host, direct):
    environment = {"HTTPS_PROXY": PROXY, "NO_PROXY": exceptions}
    assert (proxy_for(Address(host, 8443), environment) is None) == direct
    environment["no_proxy"] = "other.example.org"
    assert proxy_for(Address(host, 8443), environment) is not None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "here.localhost"])
def test_loopback_never_has_a_proxy(host):
    assert proxy_for(Address(host, 8443), {"HTTPS_PROXY": PROXY}) is None


def proxy_of(address: str, user: str = "", password: str = "") -> Proxy:
    return Proxy(Address.parse(address), secured=False, variable="V", user=user, password=password)


def test_a_tunnel_names_an_ipv6_address_in_brackets():
    proxy = ConnectProxy(port=1)
    try:
        with pytest.raises(httpcore.ProxyError, match=r"no tunnel to \[2001:db8::7\]:8443: .*403"):
            Route(proxy_of(proxy.address)).connect_tcp("2001:db8::7", 8443, 30)
        assert proxy.asked == ["CONNECT [2001:db8::7]:8443 HTTP/1.1"]
    finally:
        proxy.close()


def test_a_proxy_that_wants_a_password():
    proxy = ConnectProxy(port=1, user="jo:pä:ss")
    try:
        for password, answer in (("wrong", "407"), ("pä:ss", "403")):
            way = Route(proxy_of(proxy.address, "jo", password))
            with pytest.raises(httpcore.ProxyError, match=answer) as caught:
                way.connect_tcp("fl.example.org", 8443, 30)
            assert password not in str(caught.value)
    finally:
        proxy.close()


def test_a_proxy_that_is_away_is_named():
    away = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(httpcore.ConnectError, match=f"proxy http://{away} .* does not answer"):
        Route(proxy_of(away)).connect_tcp("fl.example.org", 8443, 30)
