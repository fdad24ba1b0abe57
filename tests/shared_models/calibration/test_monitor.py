"""Stay or pivot: false alarms come as rarely as asked, and a change is found."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrx_common.errors import MisuseError
from fedrx_models.calibration.conformal import ScoreGrid, ScoreTotals
from fedrx_models.calibration.monitor import (
    PEAKS,
    Monitor,
    Watch,
    alarm_level,
    follow,
    level_of_rate,
    peaks,
)
from fedrx_models.calibration.scores import Arrivals

GRID = ScoreGrid.of_signed(100)
WEEK = 7.0
MONTHS_PER_DAY = 1 / 30.4375


def totals(seed=0, patients=3000):
    rng = np.random.default_rng(seed)
    return ScoreTotals(GRID, GRID.total(list(rng.normal(size=(patients, 4)))))


QUIET = totals()


def monitor(rate=0.05, direction="up", streams=1):
    return Monitor((QUIET,) * streams, direction, MONTHS_PER_DAY, level_of_rate(rate))


def course(scores, patient=0):
    scores = np.asarray(scores, dtype=np.float64).reshape(len(scores), -1)
    times = WEEK * np.arange(1, len(scores) + 1)
    return Arrivals(patient, 0.0, float(times[-1]), times, scores)


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_betting_alone_calls_no_more_false_alarms_than_asked(direction):
    rng, watching = np.random.default_rng(1), monitor(0.1, direction)
    alarms = sum(
        bool((follow(watching, course(rng.normal(size=40))) >= watching.level).any())
        for _ in range(120)
    )
    months = 120 * 40 * WEEK * MONTHS_PER_DAY
    assert alarms / months <= 0.1


def test_a_calibrated_level_calls_as_many_as_asked_though_patients_differ():
    """Each patient is a little off all the time, which bets on scores alone cannot know."""
    rng, watching = np.random.default_rng(2), monitor()
    drawn = [course(0.5 * rng.normal() + rng.normal(size=20), i) for i in range(500)]
    months = 250 * 20 * WEEK * MONTHS_PER_DAY
    reached = peaks(watching, drawn[:250], 250)
    level = alarm_level(ScoreTotals(PEAKS, PEAKS.total(reached)), months, 0.05)
    seen = sum(bool((follow(watching, one) >= level).any()) for one in drawn[250:]) / months
    assert 0.03 <= seen <= 0.065


def test_a_change_is_found_and_dated():
    rng, watching = np.random.default_rng(3), monitor(0.05)
    delays, dated = [], []
    for _ in range(60):
        scores = rng.normal(size=40)
        scores[20:] += 1.5
        watch, found = watching.begin(0.0), None
        for i, score in enumerate(scores):
            watch = watching.update(watch, WEEK * (i + 1), np.array([score]))
            told = watching.judge(watch)
            if told.decision == "pivot" and i >= 20 and found is None:
                found = told
                delays.append(i - 19)
        if found is not None:
            dated.append(abs(found.since - WEEK * 21) <= 4 * WEEK)
            assert found.distance > 0
            assert found.seen >= found.outside > 0
            assert found.lasted >= 0
    assert len(delays) >= 57
    assert np.median(delays) <= 6
    assert np.mean(dated) >= 0.7


def test_the_state_can_be_kept_between_visits_and_nothing_is_changed_in_place():
    watching = monitor(direction="both", streams=2)
    scores = np.random.default_rng(4).normal(size=(12, 2))
    whole = follow(watching, course(scores))
    watch = watching.begin(0.0)
    for i, row in enumerate(scores):
        before = dataclasses.replace(watch)
        kept = Watch.from_dict(json.loads(json.dumps(watch.to_dict())))
        assert kept == watch
        watch = watching.update(kept, WEEK * (i + 1), row)
        assert kept == before
    assert watch.evidence == pytest.approx(whole[-1])


def test_an_unmeasured_stream_bets_nothing_and_time_passes_all_the_same():
    watching = monitor(streams=2)
    one = watching.update(watching.begin(0.0), 7.0, np.array([np.nan, np.nan]))
    assert one.evidence == pytest.approx(math.log(7.0 * MONTHS_PER_DAY))
    assert one.seen == 0
    same = watching.update(one, 7.0, np.array([np.nan, np.nan]))
    assert same.evidence == pytest.approx(one.evidence)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=30))
def test_evidence_rises_with_the_scores_and_stays_finite(scores):
    watching = monitor()
    low, high = (follow(watching, course(np.array(scores) + shift)) for shift in (0.0, 0.7))
    assert np.isfinite(low).all()
    assert (high >= low - 1e-9).all()


def test_noise_raises_the_level_of_an_alarm_and_too_few_patients_make_it_infinite():
    reached = ScoreTotals(PEAKS, PEAKS.total([np.array([x]) for x in np.linspace(-3, 6, 500)]))
    plain = alarm_level(reached, 4000.0, 0.01)
    noisy = alarm_level(ScoreTotals(PEAKS, reached.counts, 2.0), 4000.0, 0.01)
    assert plain < noisy
    assert alarm_level(reached, 1.0, 0.01) == math.inf


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda m: m.update(m.begin(5.0), 4.0, np.zeros(1)), "cannot follow"),
        (lambda m: m.update(m.begin(0.0), 4.0, np.zeros(2)), "another monitor"),
        (lambda m: level_of_rate(0.0), "impossible"),
        (lambda m: dataclasses.replace(m, totals=()), "at least one stream"),
        (lambda m: dataclasses.replace(m, level=math.nan), "not a number"),
        (lambda m: dataclasses.replace(m, months_per_unit=0.0), "above 0"),
        (lambda m: Watch.from_dict({}), "damaged"),
        (lambda m: Watch.from_dict({**m.begin(0.0).to_dict(), "time": "x"}), "damaged"),
        (lambda m: Watch.from_dict({**m.begin(0.0).to_dict(), "more": 1}), "damaged"),
        (lambda m: Watch.from_dict({**m.begin(0.0).to_dict(), "stakes": []}), "damaged"),
    ],
)
def test_misuse_is_refused(broken, said):
    with pytest.raises(MisuseError, match=said):
        broken(monitor())
