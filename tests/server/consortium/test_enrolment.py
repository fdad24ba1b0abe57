"""The rules of coming in and leaving, without files or keys."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedrx_common.files import FolderDamaged
from fedrx_protocol.trust.enrolment import LIMITS, EnrolmentRequest, point_of
from fedrx_protocol.trust.roster import Roster
from fedrx_server.consortium.enrolment import EnrolmentRefused, admit, dismiss, register_of

NOW = 1_800_000_000


def request(site="a", number=1, **changes):
    identity = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    supernode = ec.derive_private_key(number, ec.SECP384R1())
    values = {
        "site": site,
        "name": f"Hospital {site}",
        "identity": identity.public_key().public_bytes_raw(),
        "authentication": point_of(supernode.public_key()),
        "not_before": NOW - 60,
        "not_after": NOW + 1000,
        "version": "0.1.0",
        "time": NOW,
    }
    return EnrolmentRequest(**(values | changes))


A, B, A2 = request("a", 1), request("b", 2), request("a", 3)


class Book:
    """A register that grows as the folder's does."""

    def __init__(self, tmp_path=None):
        self.rosters, self.requests = [Roster((), 0)], []

    @property
    def register(self):
        return register_of(self.rosters, self.requests, where="here")

    @property
    def roster(self):
        return self.rosters[-1]

    def admit(self, *requests, rotate=False, now=NOW):
        roster = admit(self.register, requests, now=now, rotate=rotate)
        self.requests += requests
        self.rosters.append(roster)

    def dismiss(self, site):
        self.rosters.append(dismiss(self.register, site))


@pytest.fixture
def book():
    book = Book()
    book.admit(A, B)
    return book


def test_new_sites_come_in_together(book):
    assert book.roster.ids == ("a", "b")
    assert book.roster.serial == 1
    entry = book.roster.entry("a")
    assert (entry.name, entry.identity, entry.not_after) == ("Hospital a", A.identity, A.not_after)


def test_a_site_whose_clock_is_ahead_is_valid_at_once(book):
    ahead = request("c", 9, not_before=NOW + LIMITS.max_ahead_s)
    book.admit(ahead)
    assert book.roster.entry("c").not_before == NOW


def test_rotation_keeps_the_id_and_ends_the_key(book):
    book.admit(A2, rotate=True)
    assert book.roster.entry("a").identity == A2.identity
    assert book.register.ended == {A.identity}
    assert book.roster.ids == ("a", "b")


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        ([], "No request"),
        ([A], "on the roster with this key already"),
        ([A2], "taken by another key.*--rotate"),
        ([request("c", 4), request("c", 5)], "same site id"),
        ([request("c", 4), request("d", 4)], "same identity key"),
        ([request("c", 4), request("d", 5, authentication=request("c", 4).authentication)],
         "same SuperNode key"),
        ([request("c", 1)], "a key that another site has"),
        ([request("c", 4, authentication=B.authentication)], "a key that another site has"),
        ([request("c", 4, not_after=NOW)], "does not cover this moment"),
        ([request("c", 4, not_before=NOW + LIMITS.max_ahead_s + 1, not_after=NOW + 900)],
         "does not cover this moment"),
    ],
)  # fmt: skip
def test_who_is_refused(book, requests, says):
    with pytest.raises(EnrolmentRefused, match=says):
        book.admit(*requests)


def test_one_bad_request_keeps_all_out(book):
    with pytest.raises(EnrolmentRefused):
        book.admit(request("c", 4), A)
    assert book.roster.ids == ("a", "b")


def test_rotating_needs_new_keys_and_a_place(book):
    with pytest.raises(EnrolmentRefused, match="already"):
        book.admit(A, rotate=True)
    with pytest.raises(EnrolmentRefused, match="another site has"):
        book.admit(request("a", 3, authentication=A.authentication), rotate=True)
    with pytest.raises(EnrolmentRefused, match="the sites are: a, b"):
        book.admit(request("c", 4), rotate=True)


def test_a_revoked_or_replaced_key_never_comes_back(book):
    book.admit(A2, rotate=True)
    book.dismiss("b")
    for old, rotate in ((A, True), (B, False)):
        with pytest.raises(EnrolmentRefused, match="revoked or replaced"):
            book.admit(old, rotate=rotate)
    new = request("b", 4)
    for half in ({"authentication": B.authentication}, {"identity": B.identity}):
        with pytest.raises(EnrolmentRefused, match="revoked or replaced"):
            book.admit(replace(new, **half))
    book.admit(request("b", 5))
    assert book.roster.ids == ("a", "b")


def test_only_members_can_be_revoked(book):
    book.dismiss("a")
    assert book.roster.ids == ("b",)
    with pytest.raises(EnrolmentRefused, match="'a' is not on the roster; the sites are: b"):
        book.dismiss("a")
    book.dismiss("b")
    with pytest.raises(EnrolmentRefused, match="none yet"):
        book.dismiss("b")


def test_a_request_of_a_change_that_was_cut_off_counts_for_nothing(book):
    book.requests.append(A2)  # stored, but its roster was never signed
    assert A2.identity not in book.register.requests
    book.admit(A2, rotate=True)
    assert book.roster.entry("a").identity == A2.identity


def test_a_missing_request_is_damage(book):
    book.requests.remove(B)
    with pytest.raises(FolderDamaged, match="request of site 'b' is missing"):
        _ = book.register


class Histories(RuleBasedStateMachine):
    """Whatever is tried in whatever order, a key belongs to one site for one stretch of time."""

    def __init__(self):
        super().__init__()
        self.book = Book()
        self.dead: set[bytes] = set()

    @rule(site=st.sampled_from("abc"), number=st.integers(1, 8), rotate=st.booleans())
    def ask(self, site, number, rotate):
        before = {entry.identity for entry in self.book.roster.sites}
        try:
            self.book.admit(request(site, number), rotate=rotate)
        except EnrolmentRefused:
            return
        self.dead |= before - {entry.identity for entry in self.book.roster.sites}

    @precondition(lambda self: self.book.roster.sites)
    @rule(index=st.integers(0, 2))
    def leave(self, index):
        entry = self.book.roster.sites[index % len(self.book.roster.sites)]
        self.book.dismiss(entry.site)
        self.dead.add(entry.identity)

    @invariant()
    def the_dead_stay_dead(self):
        living = {entry.identity for entry in self.book.roster.sites}
        assert not living & self.dead
        assert self.book.register.ended == self.dead

    @invariant()
    def serials_count_up(self):
        assert [roster.serial for roster in self.book.rosters] == list(
            range(len(self.book.rosters))
        )

    @invariant()
    def no_two_sites_share_a_supernode_key(self):
        register = self.book.register
        keys = [register.requests[e.identity].authentication for e in register.roster.sites]
        assert len(set(keys)) == len(keys)


Histories.TestCase.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
TestHistories = Histories.TestCase
