"""Who is ranked above whom in survival: by the whole curve, held against scikit-survival."""

import csv

import numpy as np
import pytest
from sksurv.metrics import concordance_index_censored

from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode_outcome
from fedrx_models.fitting import fit, predict
from fedrx_models.metrics.survival import SurvivalPlan, exact_survival, mean_survival_time
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import FeatureSchema, SurvivalTarget
from fedrx_protocol.study.study import ModelSection

EDGES = {"equal": (6.0, 12.0, 18.0, 24.0), "unequal": (1.0, 3.0, 10.0, 24.0), "one": (24.0,)}


def target(edges, hazard=0.2):
    return SurvivalTarget(
        kind="survival", name="event", time_unit="months", edges=edges, hazard=hazard
    )


def oracle(predicted, actual, one):
    """Harrell's concordance by scikit-survival, on the same bins, risks by the area.

    An event counts in its bin; whoever leaves is known to the end of the last bin seen through.
    """
    happened, at_risk = encode_outcome(one, actual)
    event = happened.any(axis=1)
    seen = (at_risk & ~happened.astype(bool)).sum(axis=1)
    time = np.where(event, happened.argmax(axis=1) + 1, seen)
    curve = np.concatenate([np.ones((len(predicted), 1)), predicted], axis=1)
    risk = -np.trapezoid(curve, np.array([0.0, *one.edges]), axis=1)
    return concordance_index_censored(event, time, np.round(risk, 12))[0]


def patients(edges, censoring, n=500, seed=0):
    """Hazards that differ most early, curves that know them with error, and who leaves when."""
    rng = np.random.default_rng(seed)
    bins, effect = len(edges), rng.normal(0, 1, (n, 1))
    decline = np.linspace(1.0, -0.3, bins)  # early hazards part the patients, late ones cross
    odds = 0.25 * np.exp(effect * decline + rng.normal(0, 0.2, (n, bins)))
    hazards = odds / (1 + odds)
    happens = rng.random((n, bins)) < hazards
    ends = np.array(edges)
    begins = np.array([0.0, *edges[:-1]])
    k = np.where(happens.any(axis=1), happens.argmax(axis=1), bins)
    within = rng.uniform(0.01, 1.0, n)
    time = np.where(
        k < bins,
        begins[np.minimum(k, bins - 1)] + within * (ends - begins)[np.minimum(k, bins - 1)],
        2 * edges[-1],
    )
    leaves = {
        "none": np.full(n, 3 * edges[-1]),
        "late": np.full(n, float(edges[-1])),
        "random": rng.uniform(0, 1.5 * edges[-1], n),
        "at edges": rng.choice(ends, n),
        "heavy": rng.exponential(edges[-1] / 6, n),
    }[censoring]
    actual = np.stack([np.minimum(time, leaves), (time <= leaves).astype(float)], axis=1)
    return (1 - hazards).cumprod(axis=1), actual


@pytest.mark.parametrize("censoring", ["none", "late", "random", "at edges", "heavy"])
@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES)
def test_exact_concordance_is_scikit_survivals(edges, censoring):
    one = target(edges)
    predicted, actual = patients(edges, censoring)
    assert exact_survival(predicted, actual, one).concordance == pytest.approx(
        oracle(predicted, actual, one), abs=1e-12
    )


def test_curves_that_part_early_and_meet_at_the_end_are_told_apart():
    """Survival at the last edge alone says nothing of them."""
    one = target(EDGES["equal"])
    predicted = np.array([[0.5, 0.4, 0.35, 0.3], [0.9, 0.8, 0.6, 0.3]])
    actual = np.array([[5.0, 1.0], [20.0, 1.0]])
    assert exact_survival(predicted, actual, one).concordance == 1.0
    assert exact_survival(predicted[::-1], actual, one).concordance == 0.0
    plan = SurvivalPlan(final=False, target=one)
    assert plan.from_state(plan.state(predicted, actual)).concordance == 1.0


def test_the_mean_survival_time_is_the_area_under_the_curve():
    one = target(EDGES["unequal"])
    curve = np.array([[0.8, 0.6, 0.5, 0.1], [1.0, 1.0, 1.0, 1.0]])
    by_hand = 1 * 0.9 + 2 * 0.7 + 7 * 0.55 + 14 * 0.3
    assert mean_survival_time(curve, one) == pytest.approx([by_hand, 24.0])


def test_equal_curves_are_a_tie_wherever_they_stand():
    one = target(tuple(float(i) for i in range(1, 18)))
    curve = np.cumprod(np.full(17, 0.93))
    _, actual = patients((5.0, 10.0, 17.0), "random", n=97)
    assert exact_survival(np.tile(curve, (97, 1)), actual, one).concordance == 0.5


@pytest.mark.parametrize("edges", [EDGES["equal"], EDGES["unequal"]], ids=["equal", "unequal"])
def test_released_counts_rank_by_the_area_too(edges):
    one = target(edges)
    predicted, actual = patients(edges, "random", n=4000)
    plan = SurvivalPlan(final=True, target=one)
    found = plan.from_state(plan.state(predicted, actual)).concordance
    assert found == pytest.approx(oracle(predicted, actual, one), abs=0.02)


def test_the_interval_for_the_choice_of_patients_covers_as_often_as_it_says():
    one = target(EDGES["equal"])
    truth = exact_survival(*patients(one.edges, "random", n=60_000, seed=99), one).concordance
    plan, covered = SurvivalPlan(final=True, target=one), {"exact": 0, "released": 0}
    for seed in range(200):
        predicted, actual = patients(one.edges, "random", n=200, seed=seed)
        low, high = exact_survival(predicted, actual, one).concordance_ci
        covered["exact"] += low <= truth <= high
        noise = np.random.default_rng(seed).normal(0, 1.0, plan.size)
        found = plan.from_state(plan.state(predicted, actual) + noise, noise_sd=1.0)
        covered["released"] += found.concordance_ci[0] <= truth <= found.concordance_ci[1]
    assert all(180 <= count <= 199 for count in covered.values()), covered


REAL = {
    "pbc": {
        "file": ("pbcseq", "pbc.csv"),
        "time": lambda row: float(row["time"]) / 365.25,
        "event": lambda row: row["status"] == "2",  # a transplant ends the follow-up
        "key": "id",
        "numbers": {"age": (50, 10), "bili": (3, 4), "albumin": (3.5, 0.4), "protime": (10.7, 1)},
        "edges": (1.0, 2.0, 3.0, 5.0, 8.0, 12.0),
    },
    "aids": {
        "file": ("aids", "aids_ddI_ddC.csv"),
        "time": lambda row: float(row["Time"]),
        "event": lambda row: row["death"] == "1",
        "key": "patient",
        "numbers": {"CD4": (7, 4.5)},
        "edges": (4.0, 8.0, 12.0, 16.0, 20.0),
    },
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_a_trained_models_ranking_of_real_patients_is_scikit_survivals(real_data_root, name, model):
    about = REAL[name]
    with (real_data_root.joinpath(*about["file"])).open(encoding="utf-8") as file:
        first = {row[about["key"]]: row for row in reversed(list(csv.DictReader(file)))}
    rows = [first[key] for key in sorted(first)]
    one = target(about["edges"], hazard=0.1)
    schema = FeatureSchema.model_validate(
        {
            "features": [
                {"kind": "number", "name": name.lower(), "unit": "1", "minimum": 0,
                 "maximum": 1000, "mean": mean, "scale": scale}
                for name, (mean, scale) in about["numbers"].items()
            ],
            "target": one.model_dump(),
        }
    )  # fmt: skip
    values = {
        column.lower(): np.array([float(row[column] or "nan") for row in rows])
        for column in about["numbers"]
    }
    actual = np.array([[about["time"](row), about["event"](row)] for row in rows], dtype=float)
    cohort = Cohort("all", schema, tuple(sorted(first)), values, actual)
    test = np.arange(len(rows)) % 2 == 0
    trained = fit(build_model(ModelSection(name=model), schema, seed=0), cohort.select(~test), 0)
    predicted = predict(trained, cohort.select(test))
    found = exact_survival(predicted, actual[test], one)
    assert found.concordance == pytest.approx(oracle(predicted, actual[test], one), abs=1e-9)
    assert found.concordance > 0.6
    plan = SurvivalPlan(final=True, target=one)
    released = plan.from_state(plan.state(predicted, actual[test])).concordance
    assert released == pytest.approx(found.concordance, abs=0.03)
