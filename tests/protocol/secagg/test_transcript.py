"""What the coordinator sees, with threshold - 1 colluding sites, looks like random bytes.

Statistics cannot prove secrecy, but they find a mask used twice, a biased generator or a mask
left out. Entropy is fixed, so the tests give the same answer every time.
"""

import itertools

import numpy as np
import pytest
from secagg_federation import federation, model_digest, site_names

from fedrx_protocol.secagg import keys as crypto
from fedrx_protocol.secagg.errors import ShareInvalid
from fedrx_protocol.secagg.masking import add_keystreams
from fedrx_protocol.secagg.shamir import recover

NAMES = site_names(9)
THRESHOLD = 7
COLLUDING, HONEST = NAMES[: THRESHOLD - 1], NAMES[THRESHOLD - 1 :]
# 255 degrees of freedom: mean 255, standard deviation 22.6; five of them either way.
CHI_SQUARE_LOW, CHI_SQUARE_HIGH = 142, 368


def chi_square(data):
    counts = np.bincount(np.frombuffer(data, dtype=np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def looks_uniform(data):
    return CHI_SQUARE_LOW < chi_square(data) < CHI_SQUARE_HIGH


@pytest.fixture(scope="module")
def stage():
    return federation(9)


@pytest.fixture(scope="module")
def requests(stage):
    """Rounds, attempts and models that each need masks of their own."""
    return [
        stage.request(1),
        stage.request(1, attempt=1),
        stage.request(1, attempt=2, digest=model_digest("other")),
        stage.request(2),
        stage.request(3, digest=model_digest(1)),
        stage.request(4, participants=NAMES[1:]),
    ]


@pytest.fixture(scope="module")
def transcript(stage, requests):
    """Every message of every context; all vectors are zero, so a mask left out would show."""
    zeros = {name: np.zeros(4096, dtype=np.uint32) for name in NAMES}
    return {request.context: stage.masked(request, zeros) for request in requests}


def pair_seed(stage, site, peer, context):
    return crypto.mask_seed(stage.parties[site]._held().roots[peer].mask, context)


def without_colluders(stage, message):
    """An honest site's vector after colluders removed every mask they know."""
    left = message.vector.copy()
    for name in COLLUDING:
        if name in message.shares:
            seed = pair_seed(stage, name, message.site, message.context)
            add_keystreams(left, **{"minus" if name > message.site else "plus": [seed]})
    return left


def test_masked_vectors_are_uniform(transcript):
    for messages in transcript.values():
        for message in messages:
            assert looks_uniform(message.vector.tobytes())


def test_what_colluders_cannot_remove_is_uniform(stage, transcript):
    for messages in transcript.values():
        for message in messages:
            if message.site in HONEST:
                assert looks_uniform(without_colluders(stage, message).tobytes())


def test_the_statistic_sees_a_vector_that_is_not_masked():
    assert not looks_uniform(np.zeros(4096, dtype=np.uint32).tobytes())
    small = np.random.default_rng(0).integers(0, 2**31, 4096, dtype=np.uint32)
    assert not looks_uniform(small.tobytes())


def test_shares_commitments_and_keys_are_uniform(stage, transcript):
    shares, rest = [], []
    for message in itertools.chain.from_iterable(transcript.values()):
        shares += list(message.shares.values())
        rest.append(message.commitment)
    assert looks_uniform(b"".join(shares))
    assert looks_uniform(b"".join(rest))
    assert len(set(shares)) == len(shares)
    assert len(set(rest)) == len(rest)


def test_no_mask_serves_twice(stage, transcript):
    """Over sites, rounds, attempts, models and lists: no seed and no vector comes again."""
    seeds = [
        pair_seed(stage, site, peer, context)
        for context in transcript
        for site, peer in itertools.combinations(NAMES, 2)
    ]
    assert len(set(seeds)) == len(seeds)
    messages = list(itertools.chain.from_iterable(transcript.values()))
    words = np.concatenate([message.vector[:64] for message in messages])
    # 53 vectors of 64 words: about 0.001 equal pairs are expected by chance.
    assert len(np.unique(words)) == len(words)


def test_differences_between_rounds_are_uniform_too(transcript):
    """A reused mask would cancel in a difference."""
    by_site = {}
    for message in itertools.chain.from_iterable(transcript.values()):
        by_site.setdefault(message.site, []).append(message.vector)
    for vectors in by_site.values():
        for one, other in itertools.combinations(vectors, 2):
            assert looks_uniform((one - other).tobytes())


def test_another_session_or_epoch_has_other_masks(stage, requests):
    context = requests[0].context
    before = pair_seed(stage, NAMES[0], NAMES[1], context)
    other = federation(9, run="other")
    assert pair_seed(other, NAMES[0], NAMES[1], context) != before
    renewed = federation(9)
    renewed.open_epoch(2)
    assert pair_seed(renewed, NAMES[0], NAMES[1], context) != before


def test_threshold_minus_one_shares_do_not_open_a_seed(stage, transcript, requests):
    context = requests[0].context
    victim = next(message for message in transcript[context] if message.site == HONEST[0])
    shares = []
    for name in COLLUDING:
        key = crypto.channel_key(stage.parties[name]._held().roots[victim.site].channel, context)
        share = crypto.open_share(key, context, victim.site, name, victim.shares[name])
        shares.append((stage.keys.graph.points[name], share))

    def genuine(found):
        return crypto.commitment(found, context, victim.site) == victim.commitment

    with pytest.raises(ShareInvalid):
        recover(shares, THRESHOLD, genuine)
    with pytest.raises(ShareInvalid):
        recover(shares, THRESHOLD - 1, genuine)


def test_a_colluder_cannot_read_another_s_share(stage, transcript, requests):
    context = requests[0].context
    message = transcript[context][-1]
    wrong = crypto.channel_key(stage.parties[NAMES[0]]._held().roots[message.site].channel, context)
    with pytest.raises(ShareInvalid):
        crypto.open_share(wrong, context, message.site, NAMES[1], message.shares[NAMES[1]])


def test_a_share_of_one_context_does_not_open_in_another(stage, transcript, requests):
    first, second = requests[0].context, requests[1].context
    message = transcript[first][-1]
    roots = stage.parties[NAMES[0]]._held().roots[message.site]
    key = crypto.channel_key(roots.channel, second)
    with pytest.raises(ShareInvalid):
        crypto.open_share(key, second, message.site, NAMES[0], message.shares[NAMES[0]])
