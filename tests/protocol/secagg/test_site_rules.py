"""Each misuse of a site has its own error, and leaves the site able to go on as if untried."""

from dataclasses import replace

import numpy as np
import pytest
from secagg_federation import (
    federation,
    identity_of,
    keystream,
    model_digest,
    plain_sum,
    roster_of,
    site_names,
)

from fedrx_protocol.messages.secure_aggregation import (
    AdvertList,
    AdvertRequest,
    ResolveRequest,
    UnmaskRequest,
)
from fedrx_protocol.secagg import errors
from fedrx_protocol.secagg.coordinator import CoordinatorRound
from fedrx_protocol.secagg.keys import EpochKeys
from fedrx_protocol.secagg.parameters import SecAggParameters
from fedrx_protocol.secagg.replay_guard import MemoryGuard
from fedrx_protocol.secagg.site import SiteParty

NAMES = site_names(5)


@pytest.fixture
def stage():
    return federation(5)


@pytest.fixture
def first(stage):
    return stage.parties[NAMES[0]]


def row(value=0, length=3):
    return np.full(length, value, dtype=np.uint32)


def still_works(stage, round_=9):
    vectors = stage.vectors(3)
    total, survivors = stage.play(stage.request(round_), vectors).result()
    assert np.array_equal(total, plain_sum(vectors, survivors))


class TestAdverts:
    """What a relayed list may not do."""

    @pytest.fixture
    def fresh(self, stage):
        """A site that has advertised for epoch 2, and the list that an honest relay would send."""
        relay = type(stage.keys)(
            session=stage.session, epoch=2, roster=stage.roster, parameters=stage.parameters
        )
        for party in stage.parties.values():
            relay.add(party.advertise(relay.request()))
        return stage.parties[NAMES[0]], relay.adverts()

    def changed(self, listed, site, /, **fields):
        adverts = [
            replace(advert, **fields) if advert.site == site else advert
            for advert in listed.adverts
        ]
        return AdvertList(listed.session, listed.epoch, tuple(adverts))

    def test_an_honest_list_is_accepted(self, fresh):
        party, listed = fresh
        party.accept(listed)

    @pytest.mark.parametrize("field", ["mask_public", "channel_public", "signature"])
    def test_a_forged_advert(self, fresh, field):
        party, listed = fresh
        forged = bytes([7]) * len(getattr(listed.adverts[1], field))
        with pytest.raises(errors.AdvertForged, match="site-001"):
            party.accept(self.changed(listed, "site-001", **{field: forged}))
        party.accept(listed)

    def test_a_replayed_advert_of_an_older_epoch(self, stage, fresh):
        party, listed = fresh
        old = next(advert for advert in stage.keys.adverts().adverts if advert.site == "site-001")
        with pytest.raises(errors.SessionMismatch, match="key epoch 1"):
            party.accept(self.changed(listed, "site-001", **vars(old)))

    def test_an_old_advert_dressed_as_a_new_one(self, stage, fresh):
        party, listed = fresh
        old = next(advert for advert in stage.keys.adverts().adverts if advert.site == "site-001")
        with pytest.raises(errors.AdvertForged):
            party.accept(self.changed(listed, "site-001", **{**vars(old), "epoch": 2}))

    def test_a_list_of_another_session_or_epoch(self, fresh):
        party, listed = fresh
        with pytest.raises(errors.SessionMismatch):
            party.accept(replace(listed, session=bytes(32)))
        with pytest.raises(errors.SessionMismatch):
            party.accept(replace(listed, epoch=3))

    def test_a_key_from_outside_the_roster(self, fresh):
        party, listed = fresh
        stranger = identity_of("stranger")
        keys = EpochKeys.draw("site-900", listed.session, 2, stranger, keystream(1))
        with pytest.raises(errors.UnknownSite, match="site-900"):
            party.accept(replace(listed, adverts=(*listed.adverts, keys.advert)))

    def test_a_member_s_name_with_a_stranger_s_key(self, fresh):
        party, listed = fresh
        keys = EpochKeys.draw("site-001", listed.session, 2, identity_of("stranger"), keystream(1))
        with pytest.raises(errors.AdvertForged, match="site-001"):
            party.accept(self.changed(listed, "site-001", **vars(keys.advert)))

    def test_the_own_advert_altered_or_missing(self, fresh):
        party, listed = fresh
        with pytest.raises(errors.OwnAdvertAltered):
            party.accept(self.changed(listed, "site-000", mask_public=bytes(32)))
        with pytest.raises(errors.OwnAdvertAltered):
            party.accept(replace(listed, adverts=listed.adverts[1:]))

    def test_a_key_used_twice(self, fresh):
        party, listed = fresh
        borrowed = listed.adverts[2]
        with pytest.raises(errors.KeysRepeated, match="site-002"):
            party.accept(self.changed(listed, "site-001", mask_public=borrowed.mask_public))

    def test_a_low_order_key(self, stage, fresh):
        party, listed = fresh
        keys = EpochKeys.draw("site-001", listed.session, 2, identity_of("site-001"), keystream(1))
        advert = replace(keys.advert, mask_public=bytes(32))
        advert = replace(advert, signature=identity_of("site-001").sign(advert.signed_bytes))
        with pytest.raises(errors.AdvertForged, match="low order"):
            party.accept(self.changed(listed, "site-001", **vars(advert)))

    def test_too_few_adverts(self, fresh):
        party, listed = fresh
        with pytest.raises(errors.TooFewSites, match="at least 4"):
            party.accept(replace(listed, adverts=listed.adverts[:3]))

    def test_a_second_list_in_one_epoch(self, fresh):
        party, listed = fresh
        party.accept(listed)
        with pytest.raises(errors.OutOfOrder, match="list accepted"):
            party.accept(listed)


class TestAdvertise:
    """Asking for keys."""

    def test_the_same_epoch_gives_the_same_advert(self, stage, first):
        assert first.advertise(stage.keys.request()) == first.advertise(stage.keys.request())
        still_works(stage)

    def test_another_session(self, stage, first):
        with pytest.raises(errors.SessionMismatch):
            first.advertise(AdvertRequest(bytes(32), 1))

    def test_an_epoch_that_goes_back(self, stage, first):
        with pytest.raises(errors.RoundWentBack, match="epoch 0"):
            first.advertise(AdvertRequest(stage.session, 0))

    def test_an_epoch_that_goes_back_over_a_restart(self, stage):
        stage.open_epoch(4)
        stage.play(stage.request(), stage.vectors(3))
        with pytest.raises(errors.RoundWentBack, match="epoch 3"):
            stage.party(NAMES[0]).advertise(AdvertRequest(stage.session, 3))

    def test_keys_of_somebody_else_or_a_stranger(self, stage):
        for site, owner in (("site-000", "site-001"), ("stranger", "stranger")):
            with pytest.raises(errors.ParametersImpossible, match=f"'{site}'"):
                SiteParty(
                    site=site,
                    identity=identity_of(owner),
                    roster=stage.roster,
                    parameters=stage.parameters,
                    session=stage.session,
                    guard=MemoryGuard(),
                    single_context_per_model=False,
                )

    def test_parameters_of_another_roster(self, stage):
        with pytest.raises(errors.ParametersImpossible, match="for 6 sites"):
            SiteParty(
                site="site-000",
                identity=identity_of("site-000"),
                roster=roster_of(5),
                parameters=SecAggParameters.for_roster(6),
                session=stage.session,
                guard=MemoryGuard(),
                single_context_per_model=False,
            )


class TestRounds:
    """What a round's request may not ask."""

    def test_before_any_list_was_accepted(self, stage):
        with pytest.raises(errors.OutOfOrder, match="no keys yet"):
            stage.party(NAMES[0]).check(stage.request())

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"session": bytes(32)}, errors.SessionMismatch),
            ({"epoch": 2}, errors.SessionMismatch),
            ({"threshold": 3}, errors.ThresholdChanged),
            ({"threshold": 5}, errors.ThresholdChanged),
            ({"participants": tuple(NAMES[1:])}, errors.ParticipantsInvalid),
            ({"participants": (*NAMES, "site-900")}, errors.UnknownSite),
            ({"participants": tuple(NAMES[:3])}, errors.TooFewSites),
        ],
    )
    def test_a_request_that_lies(self, stage, first, change, error):
        request, vector = replace(stage.request(), **change), row(7)
        with pytest.raises(error):
            first.check(request)
        with pytest.raises(error):
            first.mask(request, vector)
        assert np.array_equal(vector, row(7))
        still_works(stage)

    def test_a_participant_whose_advert_was_never_shown(self):
        stage = federation(5)
        stage.epoch = 2
        relay = type(stage.keys)(
            session=stage.session, epoch=2, roster=stage.roster, parameters=stage.parameters
        )
        for name in NAMES[:4]:
            relay.add(stage.parties[name].advertise(relay.request()))
        stage.parties[NAMES[0]].accept(relay.adverts())
        with pytest.raises(errors.UnknownSite, match="site-004"):
            stage.parties[NAMES[0]].check(stage.request())

    def test_an_old_round(self, stage, first):
        first.mask(stage.request(5), row())
        with pytest.raises(errors.RoundWentBack, match="round 5"):
            first.mask(stage.request(4), row())
        with pytest.raises(errors.RoundWentBack):
            first.mask(stage.request(5, digest=model_digest("other")), row())
        first.mask(stage.request(5, attempt=1), row())

    def test_an_old_round_under_new_keys(self, stage):
        stage.play(stage.request(5), stage.vectors(3))
        stage.open_epoch(2)
        with pytest.raises(errors.RoundWentBack):
            stage.parties[NAMES[0]].check(stage.request(4))
        still_works(stage)

    def test_a_second_vector_in_one_context(self, stage, first):
        request = stage.request()
        first.mask(request, row())
        with pytest.raises(errors.ContextSpent, match="masked"):
            first.mask(request, row())

    @pytest.mark.parametrize(
        "vector",
        [
            np.zeros(3, dtype=np.int64),
            np.zeros((3, 1), dtype=np.uint32),
            np.zeros(0, dtype=np.uint32),
            np.broadcast_to(np.uint32(1), 3),
        ],
    )
    def test_a_vector_that_cannot_be_masked_in_place(self, stage, first, vector):
        with pytest.raises(errors.VectorInvalid):
            first.mask(stage.request(), vector)
        still_works(stage)


class TestSecrets:
    """RESOLVE and UNMASK: one secret a site, one list a context."""

    @pytest.fixture
    def masked(self, stage):
        """A round in which all five have sent; nothing is resolved or unmasked."""
        request = stage.request()
        current = CoordinatorRound(stage.keys, request, length=3)
        for message in stage.masked(request, stage.vectors(3)):
            current.add(message)
        assert current.close() == {}
        return request.context, current.unmask_requests()[NAMES[0]]

    def test_both_secrets_unmask_after_resolve(self, first, masked):
        context, unmask = masked
        first.resolve(ResolveRequest(context, (NAMES[4],)))
        with pytest.raises(errors.BothSecretsAsked, match="site-004"):
            first.unmask(unmask)
        without = {site: share for site, share in unmask.shares.items() if site != NAMES[4]}
        first.unmask(UnmaskRequest(context, tuple(NAMES[:4]), without))

    def test_both_secrets_resolve_after_unmask(self, first, masked):
        context, unmask = masked
        first.unmask(unmask)
        with pytest.raises(errors.BothSecretsAsked, match="site-004"):
            first.resolve(ResolveRequest(context, (NAMES[4],)))

    def test_both_secrets_over_a_restart(self, stage, first, masked):
        context, unmask = masked
        first.resolve(ResolveRequest(context, (NAMES[4],)))
        with pytest.raises(errors.BothSecretsAsked, match="site-004"):
            stage.party(NAMES[0]).unmask(unmask)

    def test_a_second_unmask_list(self, stage, first, masked):
        context, unmask = masked
        reply = first.unmask(unmask)
        assert first.unmask(unmask) == reply
        for party in (first, stage.party(NAMES[0])):
            with pytest.raises(errors.ContextSpent, match="one is all"):
                party.unmask(UnmaskRequest(context, tuple(NAMES[:4]), {}))

    def test_survivors_beyond_the_round_or_without_the_reader(self, first, masked):
        context, _ = masked
        for survivors in ((*NAMES, "site-900"), tuple(NAMES[1:])):
            with pytest.raises(errors.ParticipantsInvalid):
                first.unmask(UnmaskRequest(context, survivors, {}))

    def test_too_few_survivors(self, first, masked):
        context, _ = masked
        with pytest.raises(errors.TooFewSites, match="3 survivors"):
            first.unmask(UnmaskRequest(context, tuple(NAMES[:3]), {}))

    def test_dropped_sites_that_cannot_be(self, first, masked):
        context, _ = masked
        for dropped in ((NAMES[0],), ("site-900",)):
            with pytest.raises(errors.ParticipantsInvalid):
                first.resolve(ResolveRequest(context, dropped))

    def test_dropped_sites_add_up(self, first, masked):
        context, _ = masked
        first.resolve(ResolveRequest(context, (NAMES[4],)))
        with pytest.raises(errors.TooFewSites):
            first.resolve(ResolveRequest(context, (NAMES[3],)))
        first.resolve(ResolveRequest(context, (NAMES[4],)))

    def test_a_context_the_site_never_masked(self, first, masked):
        with pytest.raises(errors.ContextMismatch):
            first.resolve(ResolveRequest(bytes(32), (NAMES[4],)))
        with pytest.raises(errors.ContextMismatch):
            first.unmask(UnmaskRequest(bytes(32), tuple(NAMES), {}))

    def test_a_closed_round(self, stage, first, masked):
        context, unmask = masked
        first.mask(stage.request(2), row())
        with pytest.raises(errors.RoundWentBack, match="closed"):
            first.unmask(unmask)
        with pytest.raises(errors.RoundWentBack, match="closed"):
            first.resolve(ResolveRequest(context, (NAMES[4],)))

    def test_resolve_needs_the_epoch_s_keys(self, stage, first, masked):
        context, _ = masked
        with pytest.raises(errors.OutOfOrder):
            stage.party(NAMES[0]).resolve(ResolveRequest(context, (NAMES[4],)))
        stage.open_epoch(2)
        with pytest.raises(errors.SessionMismatch, match="epoch"):
            first.resolve(ResolveRequest(context, (NAMES[4],)))

    def test_a_share_that_does_not_open_is_named(self, first, masked):
        context, unmask = masked
        swapped = dict(unmask.shares)
        swapped[NAMES[1]], swapped[NAMES[2]] = swapped[NAMES[2]], swapped[NAMES[1]]
        del swapped[NAMES[3]]
        reply = first.unmask(UnmaskRequest(context, unmask.survivors, swapped))
        assert reply.unreadable == (NAMES[1], NAMES[2], NAMES[3])
        assert sorted(reply.shares) == [NAMES[0], NAMES[4]]
