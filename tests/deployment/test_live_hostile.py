"""A coordinator that lies to real sites: each lie is refused by name, and audited.

The lies are told over the real SuperLink by whoever holds the coordinator's folder, so nothing
but the sites' own rules stands in the way.
"""

import json
import secrets
import time
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from live_town import Town, founded

from fedrx_models.planning import make_plan
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.offer import OfferReply, RunOffer
from fedrx_protocol.messages.secure_aggregation import Advert, RoundRequest, UnmaskReply
from fedrx_protocol.messages.weights import model_bytes, model_digest
from fedrx_protocol.secagg.coordinator import CoordinatorRound, KeyDirectory
from fedrx_protocol.secagg.parameters import session_id
from fedrx_protocol.study.study import Study
from fedrx_protocol.trust.roster import Roster, SignedRoster, sign_roster
from fedrx_server.gateway.control import list_sites
from fedrx_server.rounds.exchange import Exchange, Reply
from fedrx_server.service.grid import live_run

pytestmark = pytest.mark.slow

SITES = 4


@pytest.fixture(scope="module")
def town(nursery, tmp_path_factory):
    with founded(nursery, tmp_path_factory.mktemp("hostile"), SITES) as town:
        town.open()
        for name in town.names:
            town.enter(name)
        town.approve(town.study("agreed"))
        stage = town.superlink_address
        online = partial(list_sites, stage)
        town.until(lambda: sum(site.online for site in online()) == SITES, 60, "all online")
        yield town


@dataclass
class Liar:
    """Holds what an honest coordinator holds, and sends what a test tells it to."""

    town: Town
    exchange: Exchange
    nodes: dict[str, int]
    run: str = field(default_factory=lambda: f"lie-{secrets.token_hex(4)}")

    def __post_init__(self) -> None:
        self.study = Study.load(self.town.folder / "agreed.toml")
        path = self.town.folder / "consortium" / "roster.json"
        self.roster: SignedRoster = SignedRoster.from_json(path.read_bytes())
        self.plan = make_plan(self.study, SITES)
        self.weights = np.zeros(self.plan.dimension, dtype=np.float32)

    def ask(self, kind: str, headers: dict[str, bytes], payload=None) -> dict[str, Reply]:
        names = {node: name for name, node in self.nodes.items()}
        sent = {self.nodes[name]: header for name, header in headers.items()}
        replies = self.exchange.send(
            kind, sent, attempt=secrets.token_hex(4), deadline_s=20, payload=payload
        )
        return {names[reply.node]: reply for reply in replies}

    def offer(self, **changes) -> dict[str, Reply]:
        honest = RunOffer(
            run=self.run,
            study=bytes.fromhex(self.study.digest),
            roster=self.roster.to_json(),
            version=version("fedrx"),
            time=int(time.time()),
        )
        header = codec.encode(replace(honest, **changes))
        return self.ask("query.open", dict.fromkeys(self.nodes, header))

    def advertise(self, epoch: int = 1) -> KeyDirectory:
        """Open the run and collect keys, as an honest coordinator would."""
        assert not any(reply.refusal for reply in self.offer().values())
        keys = KeyDirectory(
            session=session_id(self.run, self.study.digest, self.roster.roster.digest),
            epoch=epoch,
            roster=self.roster.roster,
            parameters=self.plan.parameters,
        )
        request = codec.encode(keys.request())
        for reply in self.ask("query.advertise", dict.fromkeys(self.nodes, request)).values():
            keys.add(codec.decode(reply.header, Advert))
        return keys

    def keys(self) -> KeyDirectory:
        """Open the run and let all sites accept each other's keys."""
        keys = self.advertise()
        lists = {site: codec.encode(keys.adverts(site)) for site in keys.members}
        assert not any(reply.refusal for reply in self.ask("query.keys", lists).values())
        return keys

    def request(self, keys: KeyDirectory, **changes) -> RoundRequest:
        honest = RoundRequest(
            session=session_id(self.run, self.study.digest, self.roster.roster.digest),
            epoch=keys.epoch,
            round=1,
            attempt=0,
            participants=keys.members,
            threshold=self.plan.parameters.threshold,
            model_digest=model_digest(model_bytes(self.weights)),
        )
        return replace(honest, **changes)

    def train(self, request: RoundRequest, *sites: str, weights=None) -> dict[str, Reply]:
        header = codec.encode(request)
        model = self.weights if weights is None else weights
        return self.ask("train.masked", dict.fromkeys(sites or self.nodes, header), model)


@pytest.fixture
def liar(town):
    stage = town.superlink_address
    with live_run(stage, "hostile") as exchange:
        yield Liar(town, exchange, {site.name: site.node for site in list_sites(stage)})


def refusals(replies: dict[str, Reply]) -> set[str]:
    return {reply.refusal or "answered" for reply in replies.values()}


def audited(town: Town, words: str) -> bool:
    """Whether every site has written down what was tried."""
    return all(any(words in json.dumps(entry) for entry in town.audit(name)) for name in town.names)


def test_a_study_that_nobody_approved(town, liar):
    other = liar.study.with_(training={"rounds": 3})
    assert refusals(liar.offer(study=bytes.fromhex(other.digest))) == {"NotApproved"}
    assert audited(town, "NotApproved")


def test_rosters_that_are_not_the_pinned_one(town, liar):
    entries = liar.roster.roster.sites
    forger = sign_roster(Roster(entries, serial=99), Ed25519PrivateKey.generate())
    assert refusals(liar.offer(roster=forger.to_json())) == {"RosterSignatureInvalid"}
    first = town.folder / "consortium" / "rosters"
    oldest = min(first.iterdir()).read_bytes()
    assert refusals(liar.offer(roster=oldest)) == {"RosterOutdated"}
    for words in ("RosterSignatureInvalid", "RosterOutdated"):
        assert audited(town, words)


def test_another_release_opens_nothing(liar):
    replies = liar.offer(version="99.0")
    own = {codec.decode(reply.header, OfferReply).version for reply in replies.values()}
    assert own == {version("fedrx")}
    keys = KeyDirectory(
        session=b"s" * 32, epoch=1, roster=liar.roster.roster, parameters=liar.plan.parameters
    )
    request = dict.fromkeys(liar.nodes, codec.encode(keys.request()))
    assert refusals(liar.ask("query.advertise", request)) == {"RunUnknown"}


def test_a_clock_that_is_off_by_a_day(liar):
    assert refusals(liar.offer(time=int(time.time()) - 86_400)) == {"ClockSkewed"}


def test_another_model_than_the_request_names(town, liar):
    request = liar.request(liar.keys())
    before = {name: town.releases(name) for name in town.names}
    assert refusals(liar.train(request, weights=liar.weights + 1)) == {"ModelMismatch"}
    assert {name: town.releases(name) for name in town.names} == before


def test_another_model_for_one_site_ends_in_another_context(town, liar):
    request = liar.request(liar.keys())
    singled, *others = town.names
    other = liar.weights + 1
    lied = replace(request, model_digest=model_digest(model_bytes(other)))
    replies = {
        **liar.train(lied, singled, weights=other),
        **liar.train(request, *others),
    }
    length = liar.plan.round(1, 0).layout.length
    masked = {
        name: codec.decode_masked(reply.header, reply.payload, length)
        for name, reply in replies.items()
    }
    contexts = {name: one.context for name, one in masked.items()}
    assert contexts[singled] == lied.context != request.context
    assert {contexts[name] for name in others} == {request.context}
    # The honest three are below the threshold of four sites less one: their sum does not open,
    # and with the singled-out site's vector in it the masks do not cancel.
    total = np.sum([one.vector for one in masked.values()], axis=0, dtype=np.uint32)
    assert np.abs(total.view(np.int32).astype(np.int64)).max() > 2**24


def test_a_lower_threshold(liar):
    request = liar.request(liar.keys())
    lowered = replace(request, threshold=request.threshold - 1)
    assert refusals(liar.train(lowered)) == {"ThresholdChanged"}


def test_fewer_participants_than_the_threshold(liar):
    request = liar.request(liar.keys())
    few = replace(request, participants=request.participants[:2])
    assert refusals(liar.train(few, *few.participants)) == {"TooFewSites"}


def test_a_second_unmasking_over_another_list(town, liar):
    keys = liar.keys()
    request = liar.request(keys)
    length = liar.plan.round(1, 0).layout.length
    current = CoordinatorRound(keys, request, length=length)
    for reply in liar.train(request).values():
        current.add(codec.decode_masked(reply.header, reply.payload, length))
    assert current.close() == {}
    honest = current.unmask_requests()
    first = liar.ask("query.unmask", {site: codec.encode(one) for site, one in honest.items()})
    assert refusals(first) == {"answered"}
    again = liar.ask("query.unmask", {site: codec.encode(one) for site, one in honest.items()})
    assert {n: r.header for n, r in again.items()} == {n: r.header for n, r in first.items()}
    for reply in first.values():
        current.add_unmask(codec.decode(reply.header, UnmaskReply))
    assert current.result()[0].shape == (length,)

    left_out, *rest = town.names
    headers = {
        site: codec.encode(
            replace(
                one,
                survivors=tuple(rest),
                shares={peer: s for peer, s in one.shares.items() if peer != left_out},
            )
        )
        for site, one in honest.items()
        if site != left_out
    }
    assert refusals(liar.ask("query.unmask", headers)) == {"ContextSpent"}
    assert audited(town, "ContextSpent") or "ContextSpent" in town.refusals(rest[0])


def test_forged_and_replayed_adverts(town, liar):
    first = liar.advertise(epoch=1)
    old = {site: first.adverts(site) for site in first.members}
    second = liar.advertise(epoch=2)
    fresh = {site: second.adverts(site) for site in second.members}
    a, b, *_ = fresh

    def exchanged(site: str, changed: Advert) -> bytes:
        kept = [changed if one.site == b else one for one in fresh[site].adverts]
        return codec.encode(replace(fresh[site], adverts=tuple(kept)))

    def shown_to_a(changed: Advert) -> set[str]:
        return refusals(liar.ask("query.keys", {a: exchanged(a, changed)}))

    genuine = next(one for one in fresh[a].adverts if one.site == b)
    replayed = next(one for one in old[a].adverts if one.site == b)
    assert shown_to_a(replace(genuine, mask_public=secrets.token_bytes(32))) == {"AdvertForged"}
    assert shown_to_a(replayed) == {"SessionMismatch"}
    assert shown_to_a(genuine) == {"answered"}
    assert all(name in town.refusals(a) for name in ("AdvertForged", "SessionMismatch"))


@pytest.mark.parametrize("header", [b"", b"{}", b"\x00\xff" * 50, b'{"type":"run_offer","v":1}'])
def test_malformed_messages(liar, header):
    for kind in ("query.open", "query.advertise", "query.keys", "train.masked", "query.unmask"):
        found = refusals(liar.ask(kind, dict.fromkeys(liar.nodes, header), liar.weights))
        assert found <= {"MalformedMessage", "RunUnknown"}, (kind, found)


def test_a_huge_message_neither_fills_memory_nor_ends_a_site(town, liar):
    before = {name: running.pid for name, running in town.sites.items()}
    huge = dict.fromkeys(liar.nodes, b"x" * 8_000_000)
    assert refusals(liar.ask("query.open", huge)) == {"MalformedMessage"}
    assert all(running.alive() for running in town.sites.values())
    assert {name: running.pid for name, running in town.sites.items()} == before
    assert max(resident_mib(pid) for pid in before.values()) < 1500
    assert refusals(liar.offer()) == {"answered"}


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def test_an_unknown_kind_of_message_is_refused_by_its_class(liar):
    replies = liar.ask("query.everything", dict.fromkeys(liar.nodes, b"{}"))
    assert all(reply.lost or reply.refusal for reply in replies.values())
