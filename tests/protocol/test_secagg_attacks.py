"""An active coordinator plays its best games against the sites' state machine.

Each attack is played where the rules stop it and where, by one step, they do not: only then does
the test show that it would see a leak.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from secagg_federation import Federation, federation, model_digest, plain_sum, site_names

from fedrx_protocol.secagg import errors
from fedrx_protocol.secagg import keys as crypto
from fedrx_protocol.secagg.field import recover
from fedrx_protocol.secagg.masking import add_keystreams
from fedrx_protocol.secagg.messages import MaskedInput, ResolveRequest, UnmaskRequest
from fedrx_protocol.secagg.parameters import SecAggParameters


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
