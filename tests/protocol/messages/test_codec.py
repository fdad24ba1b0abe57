"""Every message as bytes and back: one spelling, limits, and nothing else gets through."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_protocol.messages.codec import (
    CodecLimits,
    MalformedMessage,
    decode,
    decode_masked,
    encode,
    encode_masked,
)
from fedrx_protocol.messages.offer import OfferReply, RunOffer
from fedrx_protocol.messages.secure_aggregation import (
    Advert,
    AdvertList,
    AdvertRequest,
    MaskedInput,
    ResolveReply,
    ResolveRequest,
    RoundRequest,
    UnmaskReply,
    UnmaskRequest,
)

DIGESTS = st.binary(min_size=32, max_size=32)
COUNTERS = st.integers(0, 2**53 - 1)
SITE = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
SITES = st.sets(SITE, max_size=4).map(sorted).map(tuple)


def blobs(size):
    return st.dictionaries(SITE, st.binary(min_size=size, max_size=size), max_size=5)


ADVERTS = st.builds(
    Advert,
    site=SITE,
    session=DIGESTS,
    epoch=COUNTERS,
    mask_public=DIGESTS,
    channel_public=DIGESTS,
    signature=st.binary(min_size=64, max_size=64),
)
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", fullmatch=True)
MESSAGES = st.one_of(
    st.builds(RunOffer, NAME, DIGESTS, st.binary(min_size=1, max_size=99), NAME, COUNTERS),
    st.builds(OfferReply, NAME),
    st.builds(AdvertRequest, DIGESTS, COUNTERS),
    ADVERTS,
    st.builds(
        AdvertList,
        DIGESTS,
        COUNTERS,
        st.lists(ADVERTS, unique_by=lambda advert: advert.site, max_size=4)
        .map(lambda adverts: sorted(adverts, key=lambda advert: advert.site))
        .map(tuple),
    ),
    st.builds(RoundRequest, DIGESTS, COUNTERS, COUNTERS, COUNTERS, SITES, COUNTERS, DIGESTS),
    st.builds(ResolveRequest, DIGESTS, SITES),
    st.builds(ResolveReply, SITE, DIGESTS, blobs(32)),
    st.builds(UnmaskRequest, DIGESTS, SITES, blobs(49)),
    st.builds(UnmaskReply, SITE, DIGESTS, blobs(33), SITES),
)
REQUEST = RoundRequest(b"s" * 32, 1, 2, 0, ("a", "b", "c"), 3, b"m" * 32)


def masked(length=3):
    vector = np.arange(length, dtype=np.uint32) + 2**31
    return MaskedInput("a", b"c" * 32, vector, b"k" * 32, {"b": b"x" * 49})


@settings(max_examples=40, deadline=None)
@given(MESSAGES)
def test_messages_survive_as_bytes(message):
    data = encode(message)
    assert decode(data, type(message)) == message
    assert encode(decode(data, type(message))) == data


@settings(max_examples=40, deadline=None)
@given(MESSAGES, st.data())
def test_a_message_is_read_as_its_own_type_only(message, data):
    others = [AdvertRequest, Advert, RoundRequest, ResolveRequest, UnmaskReply]
    other = data.draw(st.sampled_from([kind for kind in others if kind is not type(message)]))
    with pytest.raises(MalformedMessage):
        decode(encode(message), other)


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused_by_name(data):
    for kind in (Advert, RoundRequest, UnmaskReply):
        with pytest.raises(MalformedMessage):
            decode(data, kind)


@settings(max_examples=40, deadline=None)
@given(MESSAGES, st.data())
def test_a_changed_byte_is_refused_or_gives_another_message(message, data):
    raw = bytearray(encode(message))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        read = decode(bytes(raw), type(message))
    except MalformedMessage:
        return
    assert read != message


def test_a_masked_input_travels_in_two_parts():
    message = masked()
    header, payload = encode_masked(message)
    assert payload.hex() == "000000800100008002000080"
    read = decode_masked(header, payload, 3)
    assert np.array_equal(read.vector, message.vector)
    assert not read.vector.flags.owndata  # no second copy of a long vector
    assert (read.site, read.context, read.commitment, read.shares) == (
        message.site,
        message.context,
        message.commitment,
        message.shares,
    )


def test_a_payload_of_the_wrong_length():
    header, payload = encode_masked(masked())
    for bad, length in ((payload[:-1], None), (payload, 4), (payload + bytes(4), 3)):
        with pytest.raises(MalformedMessage):
            decode_masked(header, bad, length)
    with pytest.raises(MalformedMessage):
        decode_masked(header, payload, limits=CodecLimits(vector_length=2))
    with pytest.raises(MalformedMessage, match="decode_masked"):
        decode(header, MaskedInput)


def changed(**fields):
    document = json.loads(encode(REQUEST)) | fields
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"v": 2},
        {"type": "advert"},
        {"extra": 1},
        {"epoch": "1"},
        {"epoch": 1.0},
        {"epoch": True},
        {"epoch": -1},
        {"epoch": 2**53},
        {"epoch": None},
        {"session": "AAAA"},
        {"session": 7},
        {"session": "?"},
        {"participants": "abc"},
        {"participants": [1]},
        {"participants": ["b", "a"]},
        {"participants": ["a", "a"]},
        {"participants": ["a b"]},
        {"participants": {"a": 1}},
    ],
)
def test_a_field_that_does_not_fit(fields):
    assert decode(changed(), RoundRequest) == REQUEST
    with pytest.raises(MalformedMessage):
        decode(changed(**fields), RoundRequest)


@pytest.mark.parametrize(
    "data",
    [
        encode(REQUEST).replace(b'"epoch":1', b'"epoch":0,"epoch":1'),
        encode(REQUEST).replace(b'"epoch":1', b'"epoch": 1'),
        encode(REQUEST) + b"\n",
        encode(REQUEST).replace(b'"epoch":1,', b""),
        encode(REQUEST).replace(b'"epoch":1', b'"epoch":NaN'),
        b"[" * 100_000,
        b"1" * 10_000,
        b"[]",
        b"",
        b"\xff",
    ],
)
def test_another_spelling(data):
    with pytest.raises(MalformedMessage):
        decode(data, RoundRequest)


@pytest.mark.parametrize("field", ["seeds", "site"])
def test_maps_and_texts_that_do_not_fit(field):
    reply = ResolveReply("a", b"c" * 32, {"b": bytes(32)})
    document = json.loads(encode(reply)) | {field: []}
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(MalformedMessage):
        decode(data, ResolveReply)


def test_adverts_that_do_not_fit():
    listed = AdvertList(b"s" * 32, 1, ())
    for adverts in ([7], [{}], [{"site": "a"}]):
        document = json.loads(encode(listed)) | {"adverts": adverts}
        data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        with pytest.raises(MalformedMessage, match="no advert"):
            decode(data, AdvertList)


def test_limits_hold():
    with pytest.raises(MalformedMessage, match="exceeds 10"):
        decode(encode(REQUEST), RoundRequest, CodecLimits(header_bytes=10))
    with pytest.raises(MalformedMessage, match="at most 2"):
        decode(encode(REQUEST), RoundRequest, CodecLimits(sites=2))
    reply = ResolveReply("a", b"c" * 32, {"b": bytes(32), "c": bytes(32)})
    with pytest.raises(MalformedMessage, match="at most 1"):
        decode(encode(reply), ResolveReply, CodecLimits(sites=1))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (AdvertRequest, (b"short", 1)),
        (AdvertRequest, (bytes(32), -1)),
        (ResolveRequest, (bytes(32), ("b", "a"))),
        (ResolveReply, ("a b", bytes(32), {})),
        (ResolveReply, ("a", bytes(32), {"b": b"short"})),
        (UnmaskReply, ("a", bytes(32), {"b c": bytes(33)})),
        (MaskedInput, ("a", bytes(32), np.zeros(3), bytes(32), {})),
        (MaskedInput, ("a", bytes(32), np.zeros((1, 3), dtype=np.uint32), bytes(32), {})),
    ],
)
def test_a_malformed_message_cannot_be_built(kind, values):
    with pytest.raises(MalformedMessage):
        kind(*values)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", "../other"),
        ("run", ""),
        ("version", "0.1 or so"),
        ("study", b"short"),
        ("roster", b""),
        ("roster", bytes(2**20 + 1)),
        ("time", -1),
    ],
)
def test_an_offer_that_names_nothing_usable_is_malformed(field, value):
    fields = {"run": "r", "study": b"s" * 32, "roster": b"{}", "version": "1", "time": 1}
    with pytest.raises(MalformedMessage):
        RunOffer(**{**fields, field: value})


def test_the_bytes_of_an_offer_are_frozen():
    assert encode(RunOffer("run-1", b"s" * 32, b"{}", "0.1.0", 7)) == (
        b'{"roster":"e30=","run":"run-1","study":"c3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3M=",'
        b'"time":7,"type":"run_offer","v":1,"version":"0.1.0"}'
    )
    assert encode(OfferReply("0.1.0")) == b'{"type":"offer_reply","v":1,"version":"0.1.0"}'
