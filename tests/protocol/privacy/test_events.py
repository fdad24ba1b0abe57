"""A release record says what was done, and refuses what cannot have been."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrx_protocol.privacy.errors import ReleaseInvalid
from fedrx_protocol.privacy.events import Release

GOOD = {
    "time": "2025-03-01T12:00:00Z",
    "study": "ab" * 32,
    "run": "first",
    "round": 1,
    "attempt": 0,
    "purpose": "training",
    "mechanism": "gaussian",
    "noise_multiplier": 4.0,
    "sample_rate": 1.0,
    "steps": 1,
    "clipping_norm": 1.0,
    "cohort": "cd" * 32,
    "grid_slack": 0.0,
}

releases = st.builds(
    Release,
    time=st.just("2025-03-01T12:00:00+00:00"),
    study=st.binary(min_size=1).map(bytes.hex),
    run=st.text(min_size=1),
    round=st.integers(1, 10**6),
    attempt=st.integers(0, 100),
    purpose=st.sampled_from(["training", "metrics"]),
    noise_multiplier=st.floats(0, 1e9),
    sample_rate=st.floats(1e-9, 1),
    steps=st.integers(1, 10**6),
    clipping_norm=st.floats(1e-9, 1e9),
    cohort=st.binary(min_size=1).map(bytes.hex),
    grid_slack=st.floats(0, 1),
)


@given(releases)
def test_json_restores_the_release_and_is_canonical(release):
    text = release.to_json()
    again = Release.from_json(text)
    assert again == release
    assert again.to_json() == text


def test_canonical_form_is_frozen():
    assert Release(**GOOD).to_json() == (
        '{"attempt":0,"clipping_norm":1.0,"cohort":"' + "cd" * 32 + '","grid_slack":0.0,'
        '"mechanism":"gaussian","noise_multiplier":4.0,"purpose":"training","round":1,'
        '"run":"first","sample_rate":1.0,"steps":1,"study":"' + "ab" * 32 + '",'
        '"time":"2025-03-01T12:00:00Z"}'
    )


def test_whole_numbers_and_decimals_have_one_canonical_form():
    assert (
        Release(**GOOD | {"noise_multiplier": 4, "clipping_norm": 1}).to_json()
        == Release(**GOOD).to_json()
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("time", "yesterday"),
        ("time", "2025-03-01T12:00:00"),
        ("time", "2025-03-01T12:00:00+01:00"),
        ("time", 5),
        ("study", ""),
        ("study", "ABCD"),
        ("study", "abc"),
        ("cohort", "xy"),
        ("run", ""),
        ("round", 0),
        ("round", 1.0),
        ("round", True),
        ("attempt", -1),
        ("steps", 0),
        ("purpose", "other"),
        ("mechanism", "laplace"),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", float("nan")),
        ("noise_multiplier", float("inf")),
        ("noise_multiplier", "4"),
        ("noise_multiplier", True),
        ("sample_rate", 0.0),
        ("sample_rate", 1.1),
        ("clipping_norm", 0.0),
        ("grid_slack", -1e-9),
    ],
)
def test_impossible_value_is_refused_by_name(key, value):
    with pytest.raises(ReleaseInvalid, match=key):
        Release(**GOOD | {key: value})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        json.dumps(GOOD | {"epsilon": 1}),
        json.dumps({k: v for k, v in GOOD.items() if k != "steps"}),
        json.dumps(GOOD)[:-1] + ',"steps":2}',
        json.dumps(GOOD | {"noise_multiplier": float("nan")}),
        "[" * 100_000,
    ],
)
def test_text_that_is_no_release_is_refused(text):
    with pytest.raises(ReleaseInvalid):
        Release.from_json(text)


def test_release_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Release(**GOOD).steps = 2
