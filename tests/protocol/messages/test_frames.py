"""Frames in one body: whatever pieces it comes in, and nothing longer than agreed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrx_protocol.messages.frames import FrameInvalid, FrameReader, body, body_bytes, pieces

LONG = b"\x07" * 300_000


def read(data: bytes, cuts=(), longest=2**20) -> list[bytes]:
    reader, got, start = FrameReader(longest), [], 0
    for end in [*sorted(cuts), len(data)]:
        got += reader.feed(data[start:end])
        start = end
    reader.close()
    return got


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_any_frames_in_any_pieces(frames, data):
    whole = body(frames)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8))
    assert read(whole, cuts) == frames
    assert body_bytes(map(len, frames)) == len(whole)


def test_a_long_frame_is_sent_as_it_is_and_short_ones_together():
    parts = list(pieces([b"a", b"b", LONG, b"c"]))
    assert len(parts) == 3
    assert parts[1] is LONG
    assert read(b"".join(parts)) == [b"a", b"b", LONG, b"c"]


def test_the_bytes_on_the_wire():
    assert body([b"ab", b""]) == b"\x00\x00\x00\x02ab\x00\x00\x00\x00"


def test_a_frame_longer_than_agreed_is_refused_before_it_comes():
    reader = FrameReader(10)
    with pytest.raises(FrameInvalid, match="exceeds 10"):
        list(reader.feed(b"\x00\x00\x00\x0b"))


def test_the_limit_may_grow_after_the_first_frame():
    reader = FrameReader(1)
    [head] = reader.feed(body([b"a"]))
    reader.longest = 100
    assert (head, list(reader.feed(body([b"longer"])))) == (b"a", [b"longer"])


@pytest.mark.parametrize("kept", [1, 3, 4, 5])
def test_a_body_that_ends_too_early(kept):
    reader = FrameReader(10)
    assert not list(reader.feed(body([b"ab"])[:kept]))
    with pytest.raises(FrameInvalid, match="within a frame"):
        reader.close()
