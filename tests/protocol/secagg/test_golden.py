"""Frozen bytes: a change here breaks sites that are already in the field.

Derivations are computed a second time with `hmac` and `hashlib` from the standard library, so that
the vectors do not merely repeat the code.
"""

import hashlib
import hmac
from dataclasses import replace

import numpy as np
import pytest
from secagg_federation import federation, identity_of, keystream, roster_of

from fedrx_protocol.messages import codec
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
from fedrx_protocol.secagg import keys as crypto
from fedrx_protocol.secagg import shamir
from fedrx_protocol.secagg.graph import Graph
from fedrx_protocol.secagg.parameters import SecAggParameters, session_id

SESSION, CONTEXT, ROOT = b"s" * 32, b"c" * 32, bytes(range(32))
ADVERT = Advert("a", SESSION, 1, b"\x01" * 32, b"\x02" * 32, b"\x03" * 64)
REQUEST = RoundRequest(SESSION, 1, 2, 3, ("a", "b"), 3, b"m" * 32)


def prefixed(label, *fields):
    """Label, zero byte, then every field behind its length in four bytes."""
    return label.encode() + b"\0" + b"".join(len(f).to_bytes(4, "big") + f for f in fields)


def expand_once(key, info):
    """HKDF-Expand (RFC 5869) for 32 bytes: one HMAC."""
    return hmac.digest(key, info + b"\x01", "sha256")


@pytest.mark.parametrize(
    ("derive", "label", "frozen"),
    [
        (
            crypto.mask_seed,
            "fedrx/1 round mask",
            "2a68be7a35344c8e11c930fdd9bdf05483c3f67fac1fea01d8b06747e1d96d1c",
        ),
        (
            crypto.channel_key,
            "fedrx/1 round channel",
            "32e9b347bfe5c2db829d0ae75fd904a8b5822e22b31f0eab9096cd27557c9896",
        ),
    ],
)
def test_round_secrets(derive, label, frozen):
    derived = derive(ROOT, CONTEXT)
    assert derived == expand_once(ROOT, prefixed(label, CONTEXT))
    assert derived.hex() == frozen


def test_pair_roots():
    """X25519, HKDF-Extract with the session as salt, HKDF-Expand with label and both ids."""
    mine = crypto.EpochKeys.draw("b", SESSION, 1, identity_of("b"), keystream("b"))
    peer = crypto.EpochKeys.draw("a", SESSION, 1, identity_of("a"), keystream("a"))
    roots = mine.joined([peer.advert]).roots["a"]
    assert peer.joined([mine.advert]).roots["b"] == roots
    for label, root, private, public in (
        ("fedrx/1 mask", roots.mask, mine.mask_private, peer.advert.mask_public),
        ("fedrx/1 channel", roots.channel, mine.channel_private, peer.advert.channel_public),
    ):
        key = crypto.X25519PrivateKey.from_private_bytes(private)
        shared = key.exchange(crypto.X25519PublicKey.from_public_bytes(public))
        extracted = hmac.digest(SESSION, shared, "sha256")
        assert root == expand_once(extracted, prefixed(label, b"a", b"b"))
    assert roots.mask.hex() == "e1bc41c843773d681bc4afb76c780fe3dd8b10fb035007273b393dc834c18e8d"
    assert roots.channel.hex() == "3e59b849cbb41720ab742132e96d9040b03898f6bb008b7dd733877791ece106"


def test_session_and_context():
    session = session_id("run-1", "ab" * 32, b"r" * 32)
    expected = prefixed("fedrx/1 session", b"run-1", b"ab" * 32, b"r" * 32)
    assert session == hashlib.sha256(expected).digest()
    assert session.hex() == "1e516f04d8a15e4cfcb4c7f8983ae09f37b95e4b31bb04456fa3a0d8dd8e0915"
    listed = prefixed("participants", b"a", b"b")
    numbers = [value.to_bytes(8, "big") for value in (1, 2, 3)]
    expected = prefixed(
        "fedrx/1 context", SESSION, *numbers, b"m" * 32, listed, (3).to_bytes(8, "big")
    )
    assert REQUEST.context == hashlib.sha256(expected).digest()
    assert (
        REQUEST.context.hex() == "c4f3eac0cdefdc230107c1232804d351a3e803d9e3fef68a6608fb311288869d"
    )


def test_every_part_of_a_request_is_in_its_context():
    changed = [
        replace(REQUEST, session=b"t" * 32),
        replace(REQUEST, epoch=2),
        replace(REQUEST, round=3),
        replace(REQUEST, attempt=4),
        replace(REQUEST, participants=("a", "b", "c")),
        replace(REQUEST, threshold=4),
        replace(REQUEST, model_digest=b"n" * 32),
    ]
    assert len({REQUEST.context, *(request.context for request in changed)}) == 8


def test_commitment_and_sealed_share():
    assert crypto.commitment(ROOT, CONTEXT, "a") == hashlib.sha256(ROOT + CONTEXT + b"a").digest()
    assert (
        crypto.commitment(ROOT, CONTEXT, "a").hex()
        == "f2f22ac59e2e247d32392c93e6f59425df74cbcf34541a53ce94cbf9fc219c3e"
    )
    share = bytes(range(33))
    there = crypto.seal_share(ROOT, CONTEXT, "a", "b", share)
    back = crypto.seal_share(ROOT, CONTEXT, "b", "a", share)
    assert there == bytes.fromhex(
        "0ebdb7ddb12985ba00a1a33e14219f96c25244403c9476389887a998d9e243496e"
        "b0c5f36970f14d3d95d8e21776de57b9"
    )
    # Both directions use one key, so they must not use one nonce.
    assert there[:33] != back[:33]
    assert crypto.open_share(ROOT, CONTEXT, "a", "b", there) == share


def test_shares():
    shares = shamir.split(ROOT, 2, {"a": 1, "b": 2}, keystream("shares"))
    assert shares["a"].hex() == "005e2ce75ef1ab70198ad4e91df65a6336d99ca2cb19b57b73f3c74bf2d874ae27"
    assert shares["b"].hex() == "00bc58ccbadf51da2c0da0c830e0a7b85ea32833831f55e0d0cf757dca94cc3e2f"


def test_the_ring_of_a_session():
    graph = Graph.of(roster_of(65), SecAggParameters.for_roster(65), SESSION)
    listed = ",".join(graph.peers("site-000", graph.sites)).encode()
    assert (
        hashlib.sha256(listed).hexdigest()
        == "c9673aaa207d785b08d5bdace43918bb41181d86f67a8977e4b30b02482c2114"
    )


@pytest.mark.parametrize(
    ("message", "frozen"),
    [
        (
            AdvertRequest(SESSION, 1),
            "d9bff8abe715df7879358431f9e198029ad5e75e5752bf8f0dfbb8ff03baa62f",
        ),
        (ADVERT, "56650295b9b7c62598ce6eb2b09b224684e98ae93fb4538b0c20d219ac9dfa85"),
        (
            AdvertList(SESSION, 1, (ADVERT,)),
            "4fe3f642af6b8daa625b532850be511527a7b635aa7546047aab1aa1b4a7aff3",
        ),
        (REQUEST, "2afb22b3eac0b32bbd1b959344e268cb7b1d71b64af911889c52c122281ff7cf"),
        (
            MaskedInput("a", CONTEXT, np.zeros(1, dtype=np.uint32), b"k" * 32, {"b": b"x" * 49}),
            "4198a4da25765fa35b82fbbe387e5766f0f4db710d5236928f6a98c54704dbf8",
        ),
        (
            ResolveRequest(CONTEXT, ("b",)),
            "03a9b1c1ff94ae601aa68b090fa7047c35c0a44ae6b059c7906737abd39ed640",
        ),
        (
            ResolveReply("a", CONTEXT, {"b": b"y" * 32}),
            "0197788434cfc5f1d3a8e9f9d59ce6a0df9c4090e5a4017e1a47159b2039037b",
        ),
        (
            UnmaskRequest(CONTEXT, ("a", "b"), {"b": b"x" * 49}),
            "5526440ee01467c7c49acdb5f6e295a101464de54edc669521e8222025272301",
        ),
        (
            UnmaskReply("a", CONTEXT, {"b": b"z" * 33}, ("c",)),
            "e313c625cc49e0e0f39529c11ac143cd28489e155856644546ce812cdd27b028",
        ),
    ],
)
def test_wire_format(message, frozen):
    """SHA-256 of each header; one is spelled out below."""
    assert hashlib.sha256(codec.encode(message)).hexdigest() == frozen


def test_wire_format_spelled_out():
    assert codec.encode(ResolveRequest(CONTEXT, ("b", "c"))) == (
        b'{"context":"Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2M=","dropped":["b","c"],'
        b'"type":"resolve_request","v":1}'
    )


def test_a_whole_round_is_frozen():
    """Keys, shares and masks of three sites with fixed entropy, to the last bit."""
    stage = federation(3)
    zeros = {name: np.zeros(4, dtype=np.uint32) for name in stage.roster.ids}
    transcript = hashlib.sha256()
    for message in stage.masked(stage.request(), zeros):
        header, payload = codec.encode_masked(message)
        transcript.update(header + payload)
    assert (
        transcript.hexdigest() == "93226ed69fdba4a77e2e910cb8737fe6c9032ec8da175b28a5b5ceec6a9ec8b3"
    )
