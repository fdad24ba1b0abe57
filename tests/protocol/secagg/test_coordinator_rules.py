"""What the coordinator refuses, names and works around; a bad reply leaves its sum as it was."""

from dataclasses import replace

import numpy as np
import pytest
from secagg_federation import federation, identity_of, keystream, plain_sum, site_names

from fedrx_common.canonical_json import MalformedMessage
from fedrx_protocol.messages.secure_aggregation import ResolveReply, UnmaskReply
from fedrx_protocol.secagg import errors
from fedrx_protocol.secagg.blame import ShareFault
from fedrx_protocol.secagg.coordinator import CoordinatorRound, KeyDirectory
from fedrx_protocol.secagg.keys import EpochKeys

NAMES = site_names(6)
WRONG_SHARE = bytes(32) + b"\x01"


@pytest.fixture
def stage():
    return federation(6, threshold=4)


@pytest.fixture
def vectors(stage):
    return stage.vectors(3)


@pytest.fixture
def current(stage):
    return CoordinatorRound(stage.keys, stage.request(), length=3)


@pytest.fixture
def messages(stage, vectors):
    return {message.site: message for message in stage.masked(stage.request(), vectors)}


@pytest.fixture
def unmasking(stage, current, messages):
    """The round with all vectors in, at UNMASK, and everybody's honest reply."""
    for message in messages.values():
        current.add(message)
    assert current.close() == {}
    requests = current.unmask_requests()
    return current, {name: stage.parties[name].unmask(requests[name]) for name in NAMES}


class TestAdverts:
    """The relay verifies what it relays, so that one bad site does not stop the others."""

    @pytest.fixture
    def relay(self, stage):
        return KeyDirectory(
            session=stage.session, epoch=2, roster=stage.roster, parameters=stage.parameters
        )

    def keys(self, stage, site="site-001", epoch=2, owner=None, seed=1):
        identity = identity_of(owner or site)
        return EpochKeys.draw(site, stage.session, epoch, identity, keystream(seed)).advert

    def test_another_epoch(self, stage, relay):
        with pytest.raises(errors.SessionMismatch):
            relay.add(self.keys(stage, epoch=1))

    def test_forged_and_unknown(self, stage, relay):
        with pytest.raises(errors.AdvertForged):
            relay.add(self.keys(stage, owner="stranger"))
        with pytest.raises(errors.UnknownSite):
            relay.add(self.keys(stage, site="site-900"))
        assert relay.members == ()

    def test_two_adverts_of_one_site(self, stage, relay):
        relay.add(self.keys(stage))
        relay.add(self.keys(stage))
        with pytest.raises(errors.ContextSpent):
            relay.add(self.keys(stage, seed=2))

    def test_a_key_of_another_site(self, stage, relay):
        relay.add(self.keys(stage))
        with pytest.raises(errors.KeysRepeated, match="site-001"):
            relay.add(self.keys(stage, site="site-002"))

    def test_a_low_order_key(self, stage, relay):
        advert = replace(self.keys(stage), channel_public=bytes(32))
        advert = replace(advert, signature=identity_of("site-001").sign(advert.signed_bytes))
        with pytest.raises(errors.AdvertForged, match="low order"):
            relay.add(advert)

    def test_members_and_lists(self, stage, relay):
        relay.add(self.keys(stage, "site-003", seed=3))
        relay.add(self.keys(stage, "site-001"))
        assert relay.members == ("site-001", "site-003")
        assert [advert.site for advert in relay.adverts().adverts] == ["site-001", "site-003"]
        relay.remove("site-001")
        assert relay.members == ("site-003",)


class TestRequests:
    """A round must fit its keys."""

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"epoch": 2}, errors.SessionMismatch),
            ({"threshold": 3}, errors.ThresholdChanged),
            ({"participants": ("site-000", "site-900")}, errors.ParticipantsInvalid),
        ],
    )
    def test_a_request_that_does_not_fit(self, stage, change, error):
        with pytest.raises(error):
            CoordinatorRound(stage.keys, replace(stage.request(), **change), length=3)


class TestCollecting:
    """Vectors that do not enter the sum."""

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"site": "site-900"}, errors.ParticipantsInvalid),
            ({"context": bytes(32)}, errors.ContextMismatch),
            ({"vector": np.zeros(4, dtype=np.uint32)}, errors.VectorInvalid),
            ({"shares": {}}, errors.ParticipantsInvalid),
        ],
    )
    def test_a_bad_vector_changes_nothing(self, stage, current, messages, vectors, change, error):
        with pytest.raises(error):
            current.add(replace(messages[NAMES[0]], **change))
        assert current.answered == ()
        for message in messages.values():
            current.add(message)
        assert stage.resolve(current, [])
        for name, request in current.unmask_requests().items():
            current.add_unmask(stage.parties[name].unmask(request))
        assert np.array_equal(current.result().vector, plain_sum(vectors, NAMES))

    def test_a_second_vector(self, current, messages):
        current.add(messages[NAMES[0]])
        with pytest.raises(errors.ContextSpent):
            current.add(messages[NAMES[0]])

    def test_too_few_vectors_may_be_waited_for(self, current, messages):
        for name in NAMES[:3]:
            current.add(messages[name])
        assert current.close() is None
        current.add(messages[NAMES[3]])
        assert sorted(current.close()) == NAMES[:4]

    def test_steps_out_of_order(self, current, messages):
        for step in (current.unmask_requests, current.result, current.to_bytes):
            with pytest.raises(errors.OutOfOrder, match="collecting"):
                step()
        for message in messages.values():
            current.add(message)
        current.close()
        with pytest.raises(errors.OutOfOrder, match="unmasking"):
            current.add(messages[NAMES[0]])
        with pytest.raises(errors.OutOfOrder, match="unmasking"):
            current.close()


class TestResolving:
    """Seeds that were not asked for."""

    @pytest.fixture
    def resolving(self, stage, current, messages):
        for name in NAMES[:5]:
            current.add(messages[name])
        requests = current.close()
        return current, {name: stage.parties[name].resolve(requests[name]) for name in requests}

    def test_replies_that_do_not_fit(self, resolving):
        current, replies = resolving
        good = replies[NAMES[0]]
        for change, error in (
            ({"site": NAMES[5]}, errors.ParticipantsInvalid),
            ({"context": bytes(32)}, errors.ContextMismatch),
            ({"seeds": {}}, errors.ParticipantsInvalid),
            ({"seeds": {NAMES[4]: bytes(32)}}, errors.ParticipantsInvalid),
        ):
            with pytest.raises(error):
                current.add_resolve(replace(good, **change))

    def test_a_vector_that_comes_late_stays_out(self, resolving, messages):
        current, _ = resolving
        with pytest.raises(errors.OutOfOrder, match="resolving"):
            current.add(messages[NAMES[5]])

    def test_silence_in_resolve_takes_the_vector_out_again(self, stage, resolving, vectors):
        current, replies = resolving
        for name in NAMES[:4]:
            current.add_resolve(replies[name])
        again = current.close()
        assert sorted(again) == NAMES[:4]
        assert again[NAMES[0]].dropped == tuple(NAMES[4:])
        assert current.answered == tuple(NAMES[:4])
        for name, request in again.items():
            current.add_resolve(stage.parties[name].resolve(request))
        assert current.close() == {}
        for name, request in current.unmask_requests().items():
            current.add_unmask(stage.parties[name].unmask(request))
        assert np.array_equal(current.result().vector, plain_sum(vectors, NAMES[:4]))

    def test_silence_of_too_many_gives_the_attempt_up(self, resolving):
        current, replies = resolving
        for name in NAMES[:3]:
            current.add_resolve(replies[name])
        assert current.close() is None

    def test_a_reply_to_the_stage_before_is_refused(self, resolving):
        current, replies = resolving
        for name in NAMES[:4]:
            current.add_resolve(replies[name])
        current.close()
        with pytest.raises(errors.ParticipantsInvalid):
            current.add_resolve(replies[NAMES[0]])


class TestUnmasking:
    """Shares that are wrong are found, named and worked around."""

    def test_replies_that_do_not_fit(self, unmasking):
        current, replies = unmasking
        good = replies[NAMES[0]]
        current.add_unmask(good)
        for change, error in (
            ({"site": "site-900"}, errors.ParticipantsInvalid),
            ({"context": bytes(32)}, errors.ContextMismatch),
            ({"site": NAMES[1], "shares": {"site-900": WRONG_SHARE}}, errors.ParticipantsInvalid),
            ({}, errors.ContextSpent),
        ):
            with pytest.raises(error):
                current.add_unmask(replace(good, **change))

    def test_any_threshold_of_answers_is_enough(self, unmasking, vectors):
        current, replies = unmasking
        for name in NAMES[2:5]:
            current.add_unmask(replies[name])
        assert not current.can_open
        with pytest.raises(errors.TooFewSites, match="3 of 6"):
            current.result()
        current.add_unmask(replies[NAMES[5]])
        assert current.can_open
        assert np.array_equal(current.result().vector, plain_sum(vectors, NAMES))
        assert current.faults == ()

    def test_a_lying_holder_is_found_and_worked_around(self, unmasking, vectors):
        current, replies = unmasking
        liar = NAMES[1]
        for name, reply in replies.items():
            lie = dict.fromkeys(reply.shares, WRONG_SHARE)
            current.add_unmask(replace(reply, shares=lie) if name == liar else reply)
        assert np.array_equal(current.result().vector, plain_sum(vectors, NAMES))
        assert {fault.holder for fault in current.faults} == {liar}

    def test_one_wrong_share_is_named_with_its_owner(self, unmasking, vectors):
        current, replies = unmasking
        for name, reply in replies.items():
            shares = dict(reply.shares)
            if name == NAMES[0]:
                shares[NAMES[3]] = WRONG_SHARE
            current.add_unmask(replace(reply, shares=shares))
        assert np.array_equal(current.result().vector, plain_sum(vectors, NAMES))
        assert current.faults == (ShareFault(owner=NAMES[3], holder=NAMES[0]),)

    def test_unreadable_shares_are_named(self, unmasking, vectors):
        current, replies = unmasking
        for name, reply in replies.items():
            shares = {owner: share for owner, share in reply.shares.items() if owner != NAMES[2]}
            lost = replace(reply, shares=shares, unreadable=(NAMES[2],))
            current.add_unmask(lost if name == NAMES[0] else reply)
        assert np.array_equal(current.result().vector, plain_sum(vectors, NAMES))
        assert current.faults == (ShareFault(owner=NAMES[2], holder=NAMES[0]),)

    def test_a_false_commitment_names_its_site(self, stage, current, messages):
        for name, message in messages.items():
            lie = replace(message, commitment=bytes(32))
            current.add(lie if name == NAMES[2] else message)
        assert stage.resolve(current, [])
        for name, request in current.unmask_requests().items():
            current.add_unmask(stage.parties[name].unmask(request))
        with pytest.raises(errors.ShareInvalid, match="site-002"):
            current.result()


class TestCrash:
    """The stored state continues with the same requests."""

    def test_a_resumed_round_asks_the_same_and_opens_the_same(self, stage, vectors):
        current = CoordinatorRound(stage.keys, stage.request(), length=3)
        for message in stage.masked(stage.request(), vectors)[:5]:
            current.add(message)
        assert stage.resolve(current, [])
        stored = current.to_bytes()
        before = {
            name: stage.parties[name].unmask(request)
            for name, request in current.unmask_requests().items()
        }
        resumed = CoordinatorRound.from_bytes(stored, stage.roster)
        assert resumed.request == current.request
        assert resumed.unmask_requests() == current.unmask_requests()
        assert resumed.to_bytes() == stored
        for name, request in resumed.unmask_requests().items():
            again = stage.parties[name].unmask(request)
            assert again == before[name]
            resumed.add_unmask(again)
        assert np.array_equal(resumed.result().vector, plain_sum(vectors, NAMES[:5]))

    def test_nothing_to_store_before_the_list_stands(self, current):
        with pytest.raises(errors.OutOfOrder):
            current.to_bytes()

    def test_a_damaged_state(self, stage, unmasking):
        current, _ = unmasking
        stored = current.to_bytes()
        for damaged in (b"", stored[:5], stored[:300], stored[:-1], stored[:-4], b"\xff" * 40):
            with pytest.raises(MalformedMessage):
                CoordinatorRound.from_bytes(damaged, stage.roster)

    def test_a_state_of_another_roster(self, unmasking):
        current, _ = unmasking
        with pytest.raises(errors.ParametersImpossible):
            CoordinatorRound.from_bytes(current.to_bytes(), federation(5).roster)


def test_replies_compare_by_value():
    assert UnmaskReply("a", bytes(32), {}) == UnmaskReply("a", bytes(32), {})
    assert ResolveReply("a", bytes(32), {}) != ResolveReply("b", bytes(32), {})
