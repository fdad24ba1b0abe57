"""The coordinator as a witness: the newest head is kept, one that goes back or forks is named."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrx_client.identity.identity import SiteIdentity
from fedrx_common.canonical_json import MalformedMessage
from fedrx_common.errors import MisuseError
from fedrx_common.hash_chain import ChainHead
from fedrx_protocol.trust.roster import Roster
from fedrx_protocol.trust.witness import HeadForged, SignedHead
from fedrx_server.consortium.consortium import Consortium
from fedrx_server.rounds.witness import OVERTAKEN_S, Witness, kept_heads, taken

NOW = 1_800_000_000


class Clock:
    now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def site(tmp_path):
    return SiteIdentity.create(tmp_path / "a", site="a", name="A", now=NOW)


@pytest.fixture
def roster(tmp_path, site) -> Roster:
    consortium = Consortium.create(tmp_path / "c", name="C", hosts=["localhost"], now=NOW)
    return consortium.enroll([site.request], now=NOW).roster


@pytest.fixture
def witness(tmp_path, clock):
    return Witness(tmp_path / "c", clock)


@pytest.fixture
def take(witness, site, roster):
    key = site.keys().identity

    def take(count, fill=b"x"):
        head = ChainHead(count, fill * 32)
        witness.take(SignedHead.sign("a", head, key).to_json(), roster)

    return take


def test_the_newest_head_is_kept_and_sent(witness, take):
    assert kept_heads(witness, {1: "a"}) == {}
    take(3)
    take(5)
    (kept,) = witness.all()
    assert (kept.newest.head.count, kept.time, kept.sentence) == (5, NOW, "")
    assert kept_heads(witness, {1: "a", 2: "node 2", 3: "../c"}) == {1: kept.newest.to_json()}


def test_an_answer_that_was_overtaken_is_no_contradiction(witness, take):
    take(5)
    take(4)
    assert witness.of("a").contradiction is None
    assert witness.of("a").newest.head.count == 5


def test_a_head_that_goes_back_is_named_and_stays_named(witness, take, clock, caplog):
    take(5)
    clock.now += OVERTAKEN_S + 1
    take(3)
    assert "older copy" in witness.of("a").sentence
    assert "site 'a' signed head 5:" in caplog.text
    take(6)
    assert witness.of("a").contradiction.head.count == 3
    witness.forget("a")
    assert witness.all() == ()
    with pytest.raises(MisuseError, match="nothing is kept"):
        witness.forget("a")


def test_a_fork_is_named_at_once(witness, take):
    take(5)
    take(5)
    assert witness.of("a").contradiction is None
    take(5, b"y")
    assert "older copy" in witness.of("a").sentence


def test_what_the_site_did_not_sign_is_not_kept(witness, roster, site, caplog):
    head = ChainHead(9, bytes(32))
    forged = SignedHead.sign("a", head, Ed25519PrivateKey.generate())
    with pytest.raises(HeadForged):
        witness.take(forged.to_json(), roster)
    stranger = SignedHead.sign("b", head, site.keys().identity)
    for data in (stranger.to_json(), b"{}", b"x" * 2000, forged.to_json()[:-1]):
        with pytest.raises(MalformedMessage):
            witness.take(data, roster)
        taken(witness, data, roster)  # a run goes on
    assert "not kept" in caplog.text
    assert witness.all() == ()


def test_a_damaged_file_ends_no_run(witness, take, tmp_path):
    take(5)
    (tmp_path / "c" / "witness" / "a.json").write_text("{}")
    with pytest.raises(MisuseError, match="--forget a"):
        witness.of("a")
    assert kept_heads(witness, {1: "a"}) == {}


def test_the_signed_head_is_frozen():
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    signed = SignedHead.sign("charite", ChainHead(7, b"\x01" * 32), key)
    assert signed.to_json() == FROZEN
    assert SignedHead.from_json(FROZEN) == signed
    signed.verify(key.public_key().public_bytes_raw())


FROZEN = (
    b'{"head":"7:0101010101010101010101010101010101010101010101010101010101010101",'
    b'"signature":"/FqikAVPWeJQ9BJ+E7TEedAty27iYJnt4MyDyYLP5v7AMPf6xddWWfWA1ZlM0pAbewEg8CqUzpDebuhQFonQAg==","site":"charite"}'
)
