"""HOST:PORT: what is understood, how it is written again, and what is answered."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrx_common.address import Address, AddressInvalid, bare_host


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("fl.example.org:8443", "fl.example.org", 8443),
        ("localhost:1", "localhost", 1),
        ("192.0.2.7:65535", "192.0.2.7", 65535),
        ("[2001:db8::7]:8443", "2001:db8::7", 8443),
        ("[::1]:37691", "::1", 37691),
        ("https://fl.example.org:8443", "fl.example.org", 8443),
        ("HTTPS://[::1]:8443/", "::1", 8443),
    ],
)
def test_what_is_understood(text, host, port):
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert Address.parse(str(address)) == address
    assert Address.parse(f"https://{address}") == address


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("fl.example.org", "no HOST:PORT, e.g."),
        ("fl.example.org:", "no HOST:PORT"),
        (":8443", "no HOST:PORT"),
        ("", "no HOST:PORT"),
        ("https://fl.example.org", "no HOST:PORT"),
        ("fl.example.org:http", "no HOST:PORT"),
        ("fl.example.org:0", "from 1 to 65535"),
        ("fl.example.org:70000", "from 1 to 65535"),
        ("::1:37691", r"\[::1\]:37691"),
        ("2001:db8::7:8443", r"\[2001:db8::7\]:8443"),
        ("[fl.example.org]:8443", "only an IPv6 address"),
        ("[192.0.2.7]:8443", "only an IPv6 address"),
        ("[::1:8443", "brackets"),
        ("10.0.0.300:8443", "neither a DNS name nor an IP address"),
        ("no_one!:8443", "neither a DNS name"),
        ("fl.exämple.org:8443", "neither a DNS name"),
        ("http://fl.example.org:8443", "always https"),
        ("https://fl.example.org:8443/fleet", "without a path"),
        ("https://me@fl.example.org:8443", "a user"),
        ("fl.example.org:8443 ", "HOST:PORT alone"),
    ],
)
def test_what_is_answered(text, answer):
    with pytest.raises(AddressInvalid, match=answer):
        Address.parse(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_every_ip_address_is_read_as_it_is_written(ip, port):
    address = Address(str(ip), port)
    assert Address.parse(str(address)) == address


@given(st.text())
def test_no_text_does_more_than_be_answered(text):
    with suppress(AddressInvalid):
        address = Address.parse(text)
        assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost.example.org", False),
        ("128.0.0.1", False),
        ("2001:db8::1", False),
    ],
)
def test_what_is_loopback(host, here):
    assert Address(host, 1).on_loopback == here


def test_a_host_alone():
    assert bare_host("[::1]") == bare_host("::1") == "::1"
    assert bare_host("fl.example.org") == "fl.example.org"
    for wrong in ("[fl]", "https://fl", "fl:8443", "", "a b"):
        with pytest.raises(AddressInvalid):
            bare_host(wrong)
