"""A site that was killed can finish its UNMASK and nothing else of the round (decision 0002)."""

import json

import numpy as np
import pytest
from secagg_federation import federation, plain_sum, site_names

from fedrx_protocol.secagg import errors
from fedrx_protocol.secagg.coordinator import CoordinatorRound
from fedrx_protocol.secagg.recovery import RecoveryRecord
from fedrx_protocol.secagg.replay_guard import ContextRecord, MemoryGuard

NAMES = site_names(5)


class SerialGuard(MemoryGuard):
    """A store that keeps bytes, as one on disk does, and can fail like one."""

    def __init__(self):
        super().__init__()
        self.blobs = {}
        self.broken = False

    def save(self, record):
        if self.broken:
            raise OSError("disk full")
        self.blobs[record.context] = record.to_bytes()
        super().save(ContextRecord.from_bytes(self.blobs[record.context]))


@pytest.fixture
def stage():
    made = federation(5, single=True)
    made.guards = {name: SerialGuard() for name in NAMES}
    made.parties = {name: made.party(name) for name in NAMES}
    made.open_epoch(2)
    return made


def at_unmask(stage, vectors, round_=1):
    request = stage.request(round_)
    current = CoordinatorRound(stage.keys, request, length=3)
    for message in stage.masked(request, vectors):
        current.add(message)
    assert current.close() == {}
    return current


def test_every_site_restarts_between_train_and_unmask(stage):
    vectors = stage.vectors(3)
    current = at_unmask(stage, vectors)
    for name, request in current.unmask_requests().items():
        current.add_unmask(stage.party(name).unmask(request))
    assert np.array_equal(current.result().vector, plain_sum(vectors, NAMES))


def test_a_restarted_site_in_a_new_epoch_still_finishes_the_old_round(stage):
    vectors = stage.vectors(3)
    current = at_unmask(stage, vectors)
    stage.parties = {name: stage.party(name) for name in NAMES}
    stage.open_epoch(3)
    for name, request in current.unmask_requests().items():
        current.add_unmask(stage.parties[name].unmask(request))
    assert np.array_equal(current.result().vector, plain_sum(vectors, NAMES))
    later = stage.play(stage.request(2), vectors)
    assert np.array_equal(later.result().vector, plain_sum(vectors, NAMES))


def test_the_same_list_gives_the_same_bytes_after_a_restart(stage):
    current = at_unmask(stage, stage.vectors(3))
    request = current.unmask_requests()[NAMES[0]]
    before = stage.parties[NAMES[0]].unmask(request)
    stored = stage.guards[NAMES[0]].blobs[request.context]
    assert stage.party(NAMES[0]).unmask(request) == before
    assert stage.guards[NAMES[0]].blobs[request.context] == stored


def test_the_kit_is_dropped_when_a_later_round_begins(stage):
    vectors = stage.vectors(3)
    first = at_unmask(stage, vectors)
    guard, context = stage.guards[NAMES[0]], first.request.context
    assert guard.load(context).kit
    for name, request in first.unmask_requests().items():
        stage.parties[name].unmask(request)
    assert guard.load(context).kit
    stage.parties[NAMES[0]].mask(stage.request(2), vectors[NAMES[0]])
    assert guard.load(context).kit == b""
    assert guard.latest(stage.session).kit


def test_the_kit_holds_nothing_that_resolve_or_another_round_would_need(stage):
    current = at_unmask(stage, stage.vectors(3))
    guard = stage.guards[NAMES[0]]
    kit = RecoveryRecord.from_bytes(guard.load(current.request.context).kit)
    assert sorted(kit.channels) == NAMES[1:]
    roots = stage.parties[NAMES[0]]._held().roots
    secrets = {root for pair in roots.values() for root in (pair.mask, pair.channel)}
    assert not secrets & {*kit.channels.values(), kit.share}
    assert set(json.loads(kit.to_bytes())) == {"channels", "share"}
    assert "kit" not in repr(guard.load(current.request.context))


def test_nothing_leaves_if_the_guard_cannot_write(stage):
    vectors = stage.vectors(3)
    party, guard = stage.parties[NAMES[0]], stage.guards[NAMES[0]]
    guard.broken = True
    untouched = vectors[NAMES[0]].copy()
    with pytest.raises(OSError, match="disk full"):
        party.mask(stage.request(), untouched)
    assert np.array_equal(untouched, vectors[NAMES[0]])
    guard.broken = False
    current = at_unmask(stage, vectors)
    guard.broken = True
    with pytest.raises(OSError, match="disk full"):
        party.unmask(current.unmask_requests()[NAMES[0]])
    assert guard.load(current.request.context).unmask_reply is None


def test_keys_travel_to_another_process_of_the_site(stage):
    vectors = stage.vectors(3)
    stage.parties = {name: moved(stage, name, party) for name, party in stage.parties.items()}
    request = stage.request()
    current = CoordinatorRound(stage.keys, request, length=3)
    for message in stage.masked(request, vectors, sites=NAMES[1:]):
        current.add(message)
    stage.parties = {name: moved(stage, name, party) for name, party in stage.parties.items()}
    assert stage.resolve(current, [])
    for name, unmask in current.unmask_requests().items():
        current.add_unmask(stage.parties[name].unmask(unmask))
    assert np.array_equal(current.result().vector, plain_sum(vectors, NAMES[1:]))


def moved(stage, name, party):
    """A new process of the same site that got the keys and shares the guard."""
    fresh = stage.party(name)
    fresh.restore_keys(party.export_keys())
    assert fresh.export_keys() == party.export_keys()
    return fresh


def test_keys_that_were_advertised_but_not_accepted_travel_too(stage):
    relay = type(stage.keys)(
        session=stage.session, epoch=5, roster=stage.roster, parameters=stage.parameters
    )
    for party in stage.parties.values():
        relay.add(party.advertise(relay.request()))
    fresh = moved(stage, NAMES[0], stage.parties[NAMES[0]])
    fresh.accept(relay.adverts())


def test_keys_of_another_site_or_session_are_refused(stage):
    exported = stage.parties[NAMES[1]].export_keys()
    with pytest.raises(errors.SessionMismatch, match="site-001"):
        stage.party(NAMES[0]).restore_keys(exported)
    foreign = federation(5, run="other").parties[NAMES[0]].export_keys()
    with pytest.raises(errors.SessionMismatch, match="another session"):
        stage.parties[NAMES[0]].restore_keys(foreign)
    with pytest.raises(errors.MalformedMessage):
        stage.parties[NAMES[0]].restore_keys(b"{}x")
    with pytest.raises(errors.MalformedMessage, match="lack a field"):
        stage.parties[NAMES[0]].restore_keys(b"{}")
    with pytest.raises(errors.MalformedMessage, match="lacks a field"):
        RecoveryRecord.from_bytes(b"{}")


def test_a_site_without_keys_exports_nothing(stage):
    fresh = stage.party(NAMES[0])
    assert fresh.export_keys() == b""
    fresh.restore_keys(b"")


def test_secrets_stay_out_of_representations(stage):
    keys = stage.parties[NAMES[0]]._held()
    secret = next(iter(keys.roots.values())).mask
    assert repr(secret)[2:-1] not in repr(keys)
