"""The door's log: who and why, once, however often it is tried."""

import logging

from starlette.requests import Request
from starlette.responses import Response

from fedrx_server.gateway.access_log import Refusals


def call(address: str = "10.0.0.7", key: str = "", path: str = "/v1/fleet/take") -> Request:
    headers = [(b"fedrx-address", address.encode())]
    headers += [(b"flwr-public-key", key.encode())] if key else []
    return Request({"type": "http", "path": path, "headers": headers, "query_string": b""})


def no(reason: bytes = b"no", code: int = 401) -> Response:
    return Response(reason, code)


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_line_says_who_and_why(caplog):
    Refusals().write(call(key="AAAA"), no(b"unknown"))
    assert lines(caplog) == [
        "refused 10.0.0.7 with key 63c1dd951ffedf6f: /v1/fleet/take: 401 b'unknown'"
    ]


def test_the_same_again_and_again_is_counted(caplog):
    now = [0.0]
    refusals = Refusals(60, clock=lambda: now[0])
    for _ in range(1000):
        refusals.write(call(), no())
    assert len(lines(caplog)) == 1
    now[0] = 61
    refusals.write(call(), no())
    assert len(lines(caplog)) == 2
    assert lines(caplog)[1].endswith("(999 more like it since the last line)")


def test_others_are_still_seen_and_long_answers_are_cut(caplog):
    caplog.set_level(logging.WARNING)
    refusals = Refusals()
    for i in range(3):
        refusals.write(call("10.0.0.7"), no())
        refusals.write(call(f"10.0.1.{i}"), no(b"x" * 10_000))
    assert len(lines(caplog)) == 4
    assert max(map(len, lines(caplog))) < 300


def test_what_is_remembered_is_limited():
    refusals = Refusals()
    for i in range(2000):
        refusals.write(call(key=f"{i}"), no())
    assert len(refusals._seen) == 256
