"""Who is to blame for a sum that does not open: only the guilty is proved guilty.

Four sites, threshold three, as in the smallest consortium that can lose one.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from secagg_federation import federation, site_names

from fedrx_protocol.secagg import errors
from fedrx_protocol.secagg.blame import ShareFault, most_liars, owner_lied, proved_by_faults
from fedrx_protocol.secagg.coordinator import CoordinatorRound
from fedrx_protocol.secagg.shamir import PRIME, SECRET_BYTES, correctable, recover, split

A, B, C, D = NAMES = site_names(4)
WRONG = bytes(32) + b"\x01"


class Unmasking:
    """One attempt whose messages a test may change; every change is one site's lie."""

    def __init__(self, participants=NAMES, stage=None):
        self.stage = stage or federation(4)
        self.request = self.stage.request(participants=participants)
        self.current = CoordinatorRound(self.stage.keys, self.request, length=3)
        self.sealed = lambda message: message
        self.answer = lambda reply: reply

    def play(self, silent=()):
        for message in self.stage.masked(self.request, self.stage.vectors(3)):
            self.current.add(self.sealed(message))
        assert self.stage.resolve(self.current, [])
        for name, unmask in self.current.unmask_requests().items():
            if name not in silent:
                self.current.add_unmask(self.answer(self.stage.parties[name].unmask(unmask)))
        if self.current.can_open:
            try:
                self.current.result()
            except errors.ShareInvalid:
                return False, self.current.verdict
            return True, self.current.verdict
        return False, self.current.verdict


def changed(site, change):
    """What `site` sends is changed; the others are honest."""
    return lambda message: change(message) if message.site == site else message


def unopenable(message, holders):
    """Shares for these holders that do not decrypt."""
    garbage = {holder: bytes(49) for holder in holders if holder in message.shares}
    return replace(message, shares={**message.shares, **garbage})


def accuse(reply, owners):
    """A complaint about the shares of these owners."""
    kept = {owner: share for owner, share in reply.shares.items() if owner not in owners}
    return replace(reply, shares=kept, unreadable=tuple(sorted(owners)))


LYING_OWNERS = {
    "commitment": lambda message: replace(message, commitment=bytes(32)),
    "two shares": lambda message: unopenable(message, [B, C]),
    "all shares": lambda message: unopenable(message, [B, C, D]),
}


class TestAnOwnerThatLies:
    @pytest.mark.parametrize("how", LYING_OWNERS)
    def test_is_proved_where_everybody_answers(self, how):
        attempt = Unmasking()
        attempt.sealed = changed(A, LYING_OWNERS[how])
        opened, verdict = attempt.play()
        assert not opened
        assert verdict.proved == {A}
        assert verdict.doubtful == frozenset()

    def test_is_proved_if_its_shares_lie_on_no_polynomial(self):
        """Each holder opens a share of another polynomial, whatever the holders say of it."""
        attempt = Unmasking()
        points = attempt.stage.keys.graph.points
        attempt.answer = lambda reply: replace(
            reply,
            shares={
                owner: (pow(points[reply.site], 9) * 12345 % PRIME).to_bytes(33, "big")
                if owner == A
                else share
                for owner, share in reply.shares.items()
            },
        )
        opened, verdict = attempt.play()
        assert not opened
        assert verdict.proved == {A}

    @pytest.mark.parametrize("how", ["commitment", "all shares"])
    def test_is_not_proved_by_a_bare_threshold(self, how):
        attempt = Unmasking(participants=[A, B, C])
        attempt.sealed = changed(A, LYING_OWNERS[how])
        opened, verdict = attempt.play()
        assert not opened
        assert verdict.doubtful | verdict.proved == {A}
        # Two complaints are more than one site can make up; a commitment alone shows nothing.
        assert verdict.proved == ({A} if how == "all shares" else frozenset())

    def test_one_bad_share_costs_nothing_and_proves_nothing(self):
        attempt = Unmasking()
        attempt.sealed = changed(A, lambda message: unopenable(message, [B]))
        opened, verdict = attempt.play()
        assert opened
        assert verdict.proved == frozenset()
        assert verdict.faults == (ShareFault(owner=A, holder=B),)


class TestAHolderThatLies:
    def test_never_makes_an_owner_guilty_where_everybody_answers(self):
        for owners in ([A], [A, B], [A, B, C]):
            attempt = Unmasking()
            attempt.answer = changed(D, lambda reply, owners=owners: accuse(reply, owners))
            opened, verdict = attempt.play()
            assert opened
            assert verdict.proved == (frozenset() if len(owners) == 1 else {D})

    def test_never_makes_an_owner_guilty_at_a_bare_threshold(self):
        lies = {
            "wrong": lambda reply: replace(reply, shares={**reply.shares, A: WRONG}),
            "accusing": lambda reply: accuse(reply, [A]),
        }
        for lie in lies.values():
            attempt = Unmasking(participants=[A, B, C])
            attempt.answer = changed(B, lie)
            opened, verdict = attempt.play()
            assert not opened
            assert verdict.proved == frozenset()
            assert verdict.doubtful == {A}

    def test_that_is_wrong_about_its_own_share_is_proved(self):
        attempt = Unmasking()
        attempt.answer = changed(A, lambda reply: replace(reply, shares={**reply.shares, A: WRONG}))
        opened, verdict = attempt.play()
        assert opened
        assert verdict.proved == {A}

    @pytest.mark.parametrize(
        "change",
        [
            lambda reply: replace(reply, shares={A: reply.shares[A]}),
            lambda reply: accuse(reply, [A]),
            lambda reply: replace(reply, unreadable=(B,)),
        ],
        ids=["leaves some out", "accuses itself", "says both"],
    )
    def test_must_answer_once_for_each_share(self, change):
        attempt = Unmasking()
        attempt.answer = changed(A, change)
        with pytest.raises(errors.ParticipantsInvalid, match=f"'{A}'"):
            attempt.play()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_so_many_liars_do_no_honest_site_is_proved_guilty(seed):
    """And where everybody answers, a sum that does not open has a guilty one."""
    draw = np.random.default_rng(seed)
    n = int(draw.integers(4, 10))
    stage = federation(n)
    names, numbers = site_names(n), stage.parameters
    liars = set(draw.choice(names, most_liars(numbers), replace=False))
    members = sorted(draw.choice(names, draw.integers(numbers.threshold, n + 1), replace=False))
    silent = {name for name in members if len(members) < n and draw.random() < 0.1}

    attempt = Unmasking(stage=stage, participants=members)
    attempt.sealed = lambda message: (
        sealed_badly(message, draw) if message.site in liars else message
    )
    attempt.answer = lambda reply: answered_badly(reply, draw) if reply.site in liars else reply
    opened, verdict = attempt.play(silent)
    assert verdict.proved <= liars
    if not (opened or silent) and len(members) >= numbers.threshold + len(liars):
        assert verdict.proved


def sealed_badly(message, draw):
    """Any mixture of an owner's lies."""
    holders = [holder for holder in message.shares if draw.random() < draw.random()]
    message = unopenable(message, holders)
    return replace(message, commitment=bytes(32)) if draw.random() < 0.3 else message


def answered_badly(reply, draw):
    """Any mixture of a holder's lies; one that answers at all gives its own share."""
    shares = {
        owner: WRONG if draw.random() < 0.4 else share for owner, share in reply.shares.items()
    }
    reply = replace(reply, shares=shares)
    others = [owner for owner in shares if owner != reply.site and draw.random() < 0.4]
    return accuse(reply, {*others, *reply.unreadable})


def test_silence_proves_nothing():
    opened, verdict = Unmasking().play(silent=[B, C])
    assert not opened
    assert (verdict.proved, verdict.doubtful, verdict.faults) == (frozenset(), frozenset(), ())


def test_faults_with_more_sites_than_can_lie():
    faults = [ShareFault(A, B), ShareFault(C, A)]
    assert proved_by_faults(faults, liars=1) == {A}
    assert proved_by_faults(faults, liars=2) == frozenset()
    assert proved_by_faults([ShareFault(A, B)] * 3, liars=1) == frozenset()
    assert proved_by_faults([ShareFault(B, B)], liars=5) == {B}


@pytest.mark.parametrize(
    ("shares", "complaints", "liars", "proved"),
    [
        (4, 0, 1, True),  # one may be wrong, and would be found
        (3, 0, 1, False),  # that one could be the holder
        (3, 1, 1, True),  # who complains is the one liar, so three are right
        (1, 2, 1, True),  # two do not lie
        (2, 1, 1, False),
        (3, 0, 0, True),
    ],
)
def test_when_a_lost_seed_proves_its_owner_wrong(shares, complaints, liars, proved):
    assert owner_lied(shares, complaints, 3, liars) is proved


@pytest.mark.parametrize(("shares", "threshold"), [(4, 3), (7, 4), (9, 7), (6, 6), (20, 14)])
def test_what_is_called_correctable_is_corrected(shares, threshold):
    secret = bytes(range(SECRET_BYTES))
    points = {str(point): point for point in range(1, shares + 1)}
    iid_partition = split(secret, threshold, points, lambda count: bytes([7]) * count)
    errors_found = correctable(shares, threshold)
    for wrong in list(combinations(points, errors_found))[::17]:
        given = [
            (
                points[holder],
                bytes([0, points[holder]]) * 16 + b"\x00" if holder in wrong else share,
            )
            for holder, share in iid_partition.items()
        ]
        found, blamed = recover(given, threshold, lambda candidate: candidate == secret)
        assert found == secret
        assert blamed <= {points[holder] for holder in wrong}
