"""Guard records survive as bytes, and the store finds the right one again."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_common.canonical_json import MalformedMessage
from fedrx_protocol.secagg.replay_guard import ContextRecord, MemoryGuard

DIGESTS = st.binary(min_size=32, max_size=32)
COUNTERS = st.integers(0, 2**53 - 1)
SITES = (
    st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), unique=True).map(sorted).map(tuple)
)

RECORDS = st.builds(
    ContextRecord,
    session=DIGESTS,
    context=DIGESTS,
    epoch=COUNTERS,
    round=COUNTERS,
    attempt=COUNTERS,
    model_digest=DIGESTS,
    participants=SITES,
    threshold=COUNTERS,
    kit=st.binary(),
    revealed_seeds=SITES.map(frozenset),
    unmask_survivors=st.none() | SITES,
    unmask_reply=st.none() | st.binary(),
)


def record(**changes):
    base = ContextRecord(
        session=b"s" * 32,
        context=b"c" * 32,
        epoch=1,
        round=2,
        attempt=0,
        model_digest=b"m" * 32,
        participants=("a", "b", "c"),
        threshold=3,
        kit=b"kit",
    )
    return replace(base, **changes)


@settings(max_examples=40, deadline=None)
@given(RECORDS)
def test_records_survive_as_bytes(made):
    assert ContextRecord.from_bytes(made.to_bytes()) == made


def test_the_bytes_are_frozen():
    made = record(revealed_seeds=frozenset({"c", "b"}), unmask_survivors=("a",), unmask_reply=b"r")
    assert made.to_bytes() == (
        b'{"attempt":0,"context":"Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2M=","epoch":1,'
        b'"kit":"a2l0","model_digest":"bW1tbW1tbW1tbW1tbW1tbW1tbW1tbW1tbW1tbW1tbW0=",'
        b'"participants":["a","b","c"],"revealed_seeds":["b","c"],"round":2,'
        b'"session":"c3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3M=","threshold":3,'
        b'"unmask_reply":"cg==","unmask_survivors":["a"]}'
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"epoch":1', b'"epoch":"1"'),
        (b'"epoch":1,', b""),
        (b'"epoch":1', b'"epoch":true'),
        (b'"epoch":1', b'"epocha":1,"epoch":1'),
        (b'["a","b","c"]', b"[1]"),
        (b'["a","b","c"]', b'"abc"'),
        (b'"a2l0"', b'"a2l"'),
        (b"{", b"["),
    ],
)
def test_damaged_records_are_refused(old, new):
    data = record().to_bytes()
    assert old in data
    with pytest.raises(MalformedMessage):
        ContextRecord.from_bytes(data.replace(old, new, 1))


def test_the_latest_is_by_round_then_epoch_then_attempt_not_by_time():
    guard = MemoryGuard()
    later = record(context=b"d" * 32, round=3)
    guard.save(later)
    guard.save(record())
    assert guard.latest(b"s" * 32) == later
    guard.save(replace(later, kit=b""))
    assert guard.latest(b"s" * 32).kit == b""
    assert guard.latest(b"t" * 32) is None


def test_an_answered_model_is_found_in_any_session():
    guard = MemoryGuard()
    guard.save(record())
    assert guard.answered_model(b"m" * 32) is None
    guard.save(record(unmask_survivors=("a", "b", "c"), unmask_reply=b"r"))
    assert guard.answered_model(b"m" * 32) == b"c" * 32
    assert guard.load(b"c" * 32).unmask_reply == b"r"
    assert guard.load(b"x" * 32) is None
