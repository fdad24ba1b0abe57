"""Seeded faults: how often, at which stage, how late; and that studies get through them."""

import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from hypothesis import given
from hypothesis import strategies as st

import fedrx
from fedrx_common.errors import MisuseError
from fedrx_protocol.fixed_point import SumLayout
from fedrx_simulation.federation.faults import Faults, faults_mod
from fedrx_simulation.federation.inprocess import InProcessGrid

STAGES = ("train.masked", "query.resolve", "query.unmask")
ROUNDS = [f"{number}.0" for number in range(1, 401)]
SITES = [f"site-{i}" for i in range(10)]


def _lost(faults):
    """Every loss as (site, attempt, stage, before)."""
    return [
        (site, attempt, stage, before)
        for site in SITES
        for attempt in ROUNDS
        for stage in STAGES
        for before in (True, False)
        if faults.loses(site, attempt, stage, before=before)
    ]


def test_sites_drop_as_often_as_asked_and_evenly_over_the_stages():
    lost = _lost(Faults(dropout=0.3, seed=1))
    # 4,000 draws with chance 0.3: four standard deviations are 0.029.
    assert len(lost) / 4000 == pytest.approx(0.3, abs=0.03)
    stages = Counter((stage, before) for _, _, stage, before in lost)
    assert set(stages) == {
        ("train.masked", True),
        ("train.masked", False),
        ("query.unmask", True),
    }
    assert all(count == pytest.approx(400, abs=80) for count in stages.values())


def test_a_site_drops_once_in_an_attempt():
    lost = _lost(Faults(dropout=0.5, seed=2))
    assert len({(site, attempt) for site, attempt, _, _ in lost}) == len(lost)


def test_without_faults_nobody_is_lost():
    assert _lost(Faults(seed=1)) == []


def test_the_seed_decides_who_drops_when():
    first, again, other = (_lost(Faults(dropout=0.2, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_new_attempt_has_new_dropouts():
    faults = Faults(dropout=0.5, seed=1)

    def dropped(attempt):
        return [
            site
            for site in SITES
            if any(
                faults.loses(site, attempt, stage, before=before)
                for stage in STAGES
                for before in (True, False)
            )
        ]

    assert dropped("7.0") != dropped("7.1")


@pytest.mark.parametrize(("mean_s", "deadline_s"), [(60.0, 60.0), (60.0, 180.0)])
def test_replies_are_late_as_an_exponential_delay_is(mean_s, deadline_s):
    faults = Faults(delay_s=mean_s, deadline_s=deadline_s, seed=4)
    late = sum(
        faults.loses(site, attempt, "train.masked", before=False)
        for site in SITES
        for attempt in ROUNDS
    )
    assert late / 4000 == pytest.approx(np.exp(-deadline_s / mean_s), abs=0.03)
    assert not any(
        faults.loses(site, "1.0", stage, before=True) for site in SITES for stage in STAGES
    )


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2**31), st.text(max_size=5))
def test_any_chance_and_any_name_will_do(dropout, seed, site):
    faults = Faults(dropout=dropout, delay_s=1.0, seed=seed)
    for stage in STAGES:
        assert faults.loses(site, "1.0", stage, before=True) in {True, False}


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"dropout": 1.0}, "dropout is 1: give a chance from 0 to below 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"delay_s": -1.0}, "delay is -1 s"),
        ({"delay_s": float("nan")}, "delay is nan s"),
        ({"delay_s": float("inf")}, "delay is inf s"),
        ({"deadline_s": 0.0}, "deadline is 0 s"),
    ],
)
def test_impossible_faults_are_refused(knobs, sentence):
    with pytest.raises(MisuseError, match=sentence):
        Faults(**knobs)


@pytest.fixture
def in_a_run():
    """Flower's messages ask who is sending."""
    InProcessGrid(ClientApp(), 1, 1)


def _ask(faults, stage):
    """One message through the mod: the reply, and whether the site was asked."""
    asked = []

    def site(message, context):
        asked.append(message)
        return Message(RecordDict(), reply_to=message)

    context = Context(1, 1000, {"partition-id": 0}, RecordDict(), {})
    message = Message(RecordDict(), 1000, stage, group_id="1.0")
    message.metadata.__dict__["_message_id"] = "m"
    return faults_mod(faults, ["site-0"])(message, context, site), bool(asked)


class _Always(Faults):
    """Loses every site at one stage, before or after its work."""

    def loses(self, site, attempt, stage, *, before):
        return (stage, before) == ("train.masked", self.seed == 1)


@pytest.mark.usefixtures("in_a_run")
@pytest.mark.parametrize(("seed", "asked"), [(1, True), (0, False)])
def test_a_lost_site_looks_like_a_node_that_cannot_be_reached(seed, asked):
    reply, was_asked = _ask(_Always(seed=seed), "train.masked")
    assert reply.has_error()
    assert reply.error.code == ErrorCode.NODE_UNAVAILABLE
    assert was_asked != asked
    reply, was_asked = _ask(_Always(seed=seed), "query.unmask")
    assert was_asked
    assert not reply.has_error()


SMALL = fedrx.SyntheticSites(sites=8, patients=(30, 40))


def _simulate(folder, rounds=12, **options):
    study = fedrx.override(fedrx.default_study()[0], rounds=rounds, privacy="none")
    return fedrx.simulate(
        study, source=SMALL, seed=6, baselines=False, output=folder / "run", **options
    )


def test_with_dropouts_every_opened_sum_is_exact(tmp_path, monkeypatch):
    """The masked sum is the plain integer sum over the survivors, to the last bit."""
    sent, opened = {}, []
    encode, decode = SumLayout.encode, SumLayout.decode

    def remember(layout, grids):
        vector = encode(layout, grids)
        sent.setdefault(len(opened), []).append(vector.copy())
        return vector

    def note(layout, total):
        opened.append(total.copy())
        return decode(layout, total)

    monkeypatch.setattr(SumLayout, "encode", remember)
    monkeypatch.setattr(SumLayout, "decode", note)
    result = _simulate(tmp_path, dropout=0.3)
    assert len(opened) == 13
    assert sum(record.dropped for record in result.rounds) > 5
    for number, total in enumerate(opened):
        record = result.rounds[number]
        if record.attempt == 0 and record.survivors == len(sent[number]):
            assert np.array_equal(total, np.sum(sent[number], axis=0, dtype=np.uint32))
        elif record.attempt == 0:
            assert _is_sum_of_some(total, sent[number], record.survivors)


def _is_sum_of_some(total, vectors, count):
    return any(
        np.array_equal(total, np.sum(chosen, axis=0, dtype=np.uint32))
        for chosen in combinations(vectors, count)
    )


def test_late_replies_are_dropouts(tmp_path):
    """A mean of a third of the deadline loses 5 % of the replies."""
    result = _simulate(tmp_path, delay_s=200.0)
    lost = sum(record.dropped for record in result.rounds)
    asked = sum(record.participants for record in result.rounds)
    assert 0 < lost < asked / 4
    assert len(result.rounds) == 13


def test_dropouts_are_seen_in_the_report_and_not_in_the_account(tmp_path):
    study = fedrx.override(fedrx.default_study()[0], rounds=12)
    result = fedrx.simulate(
        study, source=SMALL, seed=6, dropout=0.3, baselines=False, output=tmp_path / "run"
    )
    assert result.privacy.epsilon <= 1.0
    assert sum(result.report.cost.dropped_by_round) == sum(r.dropped for r in result.rounds)
    lines = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["survivors"] for line in lines] == [r.survivors for r in result.rounds]
