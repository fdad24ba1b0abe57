"""An active coordinator plays its best games against the sites' state machine.

Each attack is played where the rules stop it and where, by one step, they do not: only then does
the test show that it would see a leak.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
from secagg_federation import (
    Federation,
    federation,
    identity_of,
    model_digest,
    plain_sum,
    site_names,
)

from fedrx_protocol.messages.secure_aggregation import MaskedInput, ResolveRequest, UnmaskRequest
from fedrx_protocol.secagg import errors
from fedrx_protocol.secagg import keys as crypto
from fedrx_protocol.secagg.masking import add_keystreams
from fedrx_protocol.secagg.parameters import SecAggParameters
from fedrx_protocol.secagg.shamir import recover


@dataclass
class Colluders:
    """Sites that hand everything they hold to the coordinator and follow no rule."""

    stage: Federation
    names: list[str]
    context: bytes

    def roots(self, name, peer):
        return self.stage.parties[name]._held().roots[peer]

    def pair_seed(self, honest):
        return [
            crypto.mask_seed(self.roots(name, honest).mask, self.context) for name in self.names
        ]

    def share(self, name, message: MaskedInput):
        key = crypto.channel_key(self.roots(name, message.site).channel, self.context)
        return crypto.open_share(key, self.context, message.site, name, message.shares[name])


def open_sum(stage, messages, half, others, colluders):
    """The sum over the honest `half`, if the rules let its sites answer; raises what they raise."""
    context = next(iter(messages.values())).context
    survivors = tuple(sorted([*half, *colluders.names]))
    revealed = {
        site: stage.parties[site].resolve(ResolveRequest(context, tuple(sorted(others)))).seeds
        for site in half
    }
    replies = {}
    for site in half:
        sealed = {owner: messages[owner].shares[site] for owner in survivors if owner != site}
        replies[site] = stage.parties[site].unmask(UnmaskRequest(context, survivors, sealed))
    total = np.zeros(len(messages[half[0]].vector), dtype=np.uint32)
    for owner in half:
        total += messages[owner].vector
        shares = [(stage.keys.graph.points[site], replies[site].shares[owner]) for site in half]
        shares += [
            (stage.keys.graph.points[name], colluders.share(name, messages[owner]))
            for name in colluders.names
        ]
        committed = messages[owner].commitment
        seed, _ = recover(
            shares,
            stage.parameters.share_threshold,
            lambda found, o=owner, c=committed: crypto.commitment(found, context, o) == c,
        )
        add_keystreams(total, minus=[seed])
        pairs = {**revealed[owner]}
        pairs |= dict(zip(colluders.names, colluders.pair_seed(owner), strict=True))
        add_keystreams(
            total,
            plus=[pair for peer, pair in pairs.items() if peer < owner],
            minus=[pair for peer, pair in pairs.items() if peer > owner],
        )
    return total


def split_view(colluding):
    """n = 21, threshold 15: two halves of the honest sites are shown each other as dropped."""
    stage = Federation(21, SecAggParameters.for_roster(21, 15, max_colluding=8))
    names, vectors, request = site_names(21), stage.vectors(4), stage.request()
    messages = {message.site: message for message in stage.masked(request, vectors)}
    honest = names[colluding:]
    colluders = Colluders(stage, names[:colluding], request.context)
    need = max(stage.parameters.threshold - colluding, 0)
    halves = honest[:need], honest[need:]
    opened, refused = [], []
    for half, others in (halves, halves[::-1]):
        try:
            total = open_sum(stage, messages, half, others, colluders)
        except errors.TooFewSites as error:
            refused.append(error)
        else:
            opened.append(np.array_equal(total, plain_sum(vectors, half)))
    return opened, refused


def test_split_view_just_below_the_bound_opens_one_sum():
    opened, refused = split_view(colluding=8)
    assert opened == [True]
    assert len(refused) == 1


def test_split_view_at_the_bound_succeeds_so_the_test_can_see_it():
    opened, refused = split_view(colluding=9)
    assert opened == [True, True]
    assert not refused


def retry_without_one(single):
    """Open a sum over all, then ask for the same model again without one site, and subtract."""
    stage, names = federation(5, single=single), site_names(5)
    vectors, digest = stage.vectors(4), model_digest("round 1")
    everybody = stage.play(stage.request(1, digest=digest), vectors).result().vector
    again = stage.request(1, attempt=1, participants=names[1:], digest=digest)
    rest = stage.play(again, vectors).result().vector
    return everybody - rest, vectors[names[0]]


def test_retry_and_subtract_is_refused_where_sums_are_exact():
    with pytest.raises(errors.ModelAlreadyReleased):
        retry_without_one(single=True)


def test_retry_and_subtract_succeeds_without_the_rule_so_the_test_can_see_it():
    difference, victim = retry_without_one(single=False)
    assert np.array_equal(difference, victim)


def test_retry_is_refused_even_if_only_a_threshold_of_sites_was_asked():
    """The sites that have not answered are too few to form a list of their own."""
    stage, names = federation(9, single=True), site_names(9)
    vectors, digest = stage.vectors(4), model_digest("round 1")
    late = names[stage.parameters.threshold :]
    assert stage.play(stage.request(1, digest=digest), vectors, silent_unmask=late).can_open
    again = stage.request(1, attempt=1, digest=digest)
    refusals = 0
    for name in names:
        try:
            stage.parties[name].check(again)
        except errors.ModelAlreadyReleased:
            refusals += 1
    assert refusals == stage.parameters.threshold
    assert len(names) - refusals < stage.parameters.threshold


def test_retry_under_another_session_is_refused_too():
    stage = federation(5, single=True)
    digest = model_digest("shared start")
    stage.play(stage.request(1, digest=digest), stage.vectors(4))
    other = federation(5, single=True, run="another run")
    other.guards.update(stage.guards)
    other.parties = {name: other.party(name) for name in other.roster.ids}
    other.open_epoch(1)
    with pytest.raises(errors.ModelAlreadyReleased):
        other.parties["site-000"].check(other.request(1, digest=digest))


STUDY = b"s" * 32


def almost_the_same_model(stage, asked, second):
    """Open round 1 over all, and round 2 over `asked`; the models differ, the vectors hardly."""
    vectors = stage.vectors(4)
    everybody = stage.play(stage.request(1), vectors).result().vector
    request = second.request(2, participants=asked)
    return everybody - second.play(request, vectors).result().vector, vectors


def in_another_run(stage, **changes):
    """The same sites, with what they remember, in a run of its own."""
    other = federation(stage.n, run="another run", single=True, **changes)
    other.guards.update(stage.guards)
    other.parties = {name: other.party(name) for name in other.roster.ids}
    other.open_epoch(1)
    return other


@pytest.mark.parametrize("again", [False, True])
def test_a_barely_changed_model_with_one_site_fewer_gives_that_site_away(again):
    """What one list prevents: the models of both rounds differ, so neither was opened before."""
    stage, names = federation(5, single=True), site_names(5)
    second = in_another_run(stage) if again else stage
    difference, vectors = almost_the_same_model(stage, names[1:], second)
    assert np.array_equal(difference, vectors[names[0]])


@pytest.mark.parametrize("again", [False, True])
def test_one_list_refuses_it_before_anything_is_computed(again):
    stage, names = federation(5, single=True, one_list_of=STUDY), site_names(5)
    second = in_another_run(stage, one_list_of=STUDY) if again else stage
    with pytest.raises(errors.ListChanged, match="differs in 'site-000'"):
        almost_the_same_model(stage, names[1:], second)


def test_one_list_refuses_a_site_that_is_dropped_within_a_later_round():
    """The participants are the same; only the survivors are not."""
    stage, names = federation(5, single=True, one_list_of=STUDY), site_names(5)
    vectors = stage.vectors(4)
    for number in (1, 2, 3):
        assert stage.play(stage.request(number), vectors).can_open
    with pytest.raises(errors.ListChanged):
        stage.play(stage.request(4), vectors, silent_train=names[:1])


def test_one_list_is_that_of_the_first_sum_and_not_of_an_attempt_that_opened_nothing():
    stage, names = federation(5, single=True, one_list_of=STUDY), site_names(5)
    vectors = stage.vectors(4)
    stage.masked(stage.request(1), vectors)  # everybody took part, and nothing was unmasked
    for number in (2, 3):
        request = stage.request(number, participants=names[1:])
        total, survivors = stage.play(request, vectors).result()
        assert survivors == tuple(names[1:])
        assert np.array_equal(total, plain_sum(vectors, survivors))
    with pytest.raises(errors.ListChanged, match="differs in 'site-000'"):
        stage.parties[names[1]].check(stage.request(4))


def test_two_attempts_prepared_over_two_lists_cannot_both_be_opened():
    """Each run masked over its own list before any sum was opened."""
    stage, names = federation(5, single=True, one_list_of=STUDY), site_names(5)
    second, vectors = in_another_run(stage, one_list_of=STUDY), stage.vectors(4)
    request = second.request(1, participants=names[1:], digest=model_digest("almost"))
    waiting = second.masked(request, vectors)
    assert stage.play(stage.request(1), vectors).can_open
    unmask = UnmaskRequest(waiting[0].context, request.participants, {})
    with pytest.raises(errors.ListChanged):
        second.parties[names[1]].unmask(unmask)


def test_another_study_has_a_list_of_its_own():
    stage, names = federation(5, single=True, one_list_of=STUDY), site_names(5)
    assert stage.play(stage.request(1), stage.vectors(4)).can_open
    other = in_another_run(stage, one_list_of=b"t" * 32)
    other.parties[names[1]].check(other.request(2, participants=names[1:]))


def test_a_site_whose_key_was_exchanged_is_another_site():
    """Its place could be taken by the coordinator, whose vector is known: one site fewer."""
    stage = federation(5, single=True, one_list_of=STUDY)
    assert stage.play(stage.request(1), stage.vectors(4)).can_open
    other = in_another_run(stage, one_list_of=STUDY)
    party, first = other.parties["site-001"], other.roster.sites[0]
    imposter = replace(first, identity=identity_of("coordinator").public_key().public_bytes_raw())
    party._roster = replace(other.roster, sites=(imposter, *other.roster.sites[1:]))
    with pytest.raises(errors.ListChanged, match="differs in 'site-000'"):
        party.check(other.request(2))


def test_lists_that_differ_by_threshold_less_colluders_would_not_be_apart_enough():
    """Why one list, and not lists that differ by many: a colluder fills the difference up."""
    stage, names = federation(4, single=True), site_names(4)
    numbers, colluder = stage.parameters, names[3]
    assert numbers.threshold - numbers.max_colluding == 2
    vectors = stage.vectors(4)
    lists = names[:3], [*names[:2], colluder]
    assert len(set(lists[0]) ^ set(lists[1])) == 2
    one, two = (
        stage.play(stage.request(number, participants=asked), vectors).result().vector
        for number, asked in enumerate(lists, 1)
    )
    assert np.array_equal(one - two + vectors[colluder], vectors[names[2]])


def test_lists_that_are_far_apart_in_pairs_single_out_a_few_sites_together():
    """Why not even lists a whole threshold apart: three of nine sites, of which two may collude."""
    stage, names = federation(9, single=True, threshold=6), site_names(9)
    thirds = [set(names[:3]), set(names[3:6]), set(names[6:])]
    vectors, sums = stage.vectors(4), []
    for number, left_out in enumerate(thirds, 1):
        asked = [name for name in names if name not in left_out]
        sums.append(stage.play(stage.request(number, participants=asked), vectors).result().vector)
    assert all(len(a ^ b) == stage.parameters.threshold for a, b in combinations(thirds, 2))
    found = sums[0] + sums[2] - sums[1]
    assert np.array_equal(found, np.uint32(2) * plain_sum(vectors, thirds[1]))


def test_a_round_after_a_release_goes_on_with_the_next_model():
    stage, vectors = federation(5, single=True), federation(5).vectors(4)
    for number in (1, 2, 3):
        total, survivors = stage.play(stage.request(number), vectors).result()
        assert np.array_equal(total, plain_sum(vectors, survivors))


def test_two_attempts_prepared_at_once_cannot_both_be_opened():
    """Both are masked before either is unmasked; only the later one opens."""
    stage, names = federation(5, single=True), site_names(5)
    vectors, digest = stage.vectors(4), model_digest("round 1")
    first = stage.masked(stage.request(1, digest=digest), vectors)
    stage.masked(stage.request(1, attempt=1, digest=digest), vectors)
    with pytest.raises(errors.RoundWentBack):
        stage.parties[names[0]].unmask(UnmaskRequest(first[0].context, tuple(names), {}))


def test_a_changed_model_for_one_site_gives_noise():
    total, plain = views_summed(lambda stage: stage.request(digest=model_digest("forged")))
    assert not np.any(total == plain)


def test_the_same_model_for_all_gives_the_sum():
    total, plain = views_summed(lambda stage: stage.request())
    assert np.array_equal(total, plain)


def views_summed(odd_request):
    """All self masks removed, by knowing them: what is left is the sum, or noise."""
    stage, names = federation(5), site_names(5)
    vectors, drawn = stage.vectors(8), {}
    for name, party in stage.parties.items():
        party._entropy = remembering(party._entropy, drawn.setdefault(name, []))
    request = stage.request()
    messages = stage.masked(request, vectors, sites=names[1:])
    messages.append(stage.parties[names[0]].mask(odd_request(stage), vectors[names[0]].copy()))
    total = np.zeros(8, dtype=np.uint32)
    for message in messages:
        total += message.vector
        add_keystreams(total, minus=[drawn[message.site][0]])
    return total, plain_sum(vectors, names)


def remembering(entropy, kept):
    def draw(count):
        kept.append(entropy(count))
        return kept[-1]

    return draw
