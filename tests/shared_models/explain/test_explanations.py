"""What every explanation promises, on models with untrained, shaken weights."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from flux_cohorts import flux_cohort, flux_schema
from omics_cohorts import TARGETS, omics_cohort, omics_schema

from fedrx_common.errors import DataError, MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode, output_count
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.explain.attribution import METHODS
from fedrx_models.explain.explanation import effects_by_key, explain, summed_up
from fedrx_models.explain.outcome import Question
from fedrx_models.metrics.survival import mean_survival_time
from fedrx_models.personal import PrivateHead
from fedrx_models.registry import build_model, models_of
from fedrx_protocol.study.study import ModelSection

PATIENTS = 2
SMALL = {
    "mlp": {"hidden": [6]},
    "genomic_cnn": {"channels": 4, "hidden": 6},
    "genomic_transformer": {"size": 8, "heads": 2, "feed_forward": 8, "hidden": 16},
    "drug_gene_gnn": {"size": 4, "hidden": 6},
    "multiomics_vae": {"latent": 3, "hidden": 8, "head_hidden": 6},
    "tcn": {"channels": 6, "layers": 2},
    "lstm": {"size": 6},
    "transformer": {"size": 8, "heads": 2, "feed_forward": 8},
}
CASES = [
    *((name, kind) for name in models_of("pharmacogenomic") for kind in TARGETS),
    *((name, "forecast") for name in models_of("flux")),
]


def drawn(kind):
    schema = flux_schema(most=6) if kind == "forecast" else omics_schema(kind)
    draw = flux_cohort if kind == "forecast" else omics_cohort
    return draw(schema, PATIENTS)


def shaken(name, schema, sd=0.15, **parameters):
    section = ModelSection.model_validate({"name": name, **SMALL.get(name, {}), **parameters})
    model = build_model(section, schema, seed=1)
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(0).normal(0, sd, vector.shape))
    return model


def headline(model, cohort):
    """The predicted number that the default question asks about, `(n,)`."""
    batch, target = encode(cohort, cohort.schema), cohort.schema.target
    mean = model.predict(batch).mean
    if target.kind == "survival":
        return mean_survival_time(mean, target)
    if target.kind == "panel":
        return mean[:, 0]
    if target.kind == "forecast":
        newest = batch.lengths().long().numpy() - 1
        return mean[np.arange(len(cohort)), newest, -1, 0, 0]
    return mean


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_effects_add_up_to_what_the_model_predicts(name, kind):
    cohort = drawn(kind)
    model = shaken(name, cohort.schema)
    # Methods see a game, not a kind of outcome: all of them are tried on one kind a model.
    every = kind in ("continuous", "forecast")
    for method in METHODS if every and name != "linear" else ("auto", "integrated_gradients"):
        if method == "exact" and kind == "continuous":
            continue  # up to 14 parts: `auto` counts fewer, and samples these
        found = explain(model, cohort, method=method, samples=8 if "sampling" in method else 48)
        assert max(abs(one.missed) for one in found) <= 1e-3
        told = [one.prediction for one in found]
        assert told == pytest.approx(headline(model, cohort), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", ["continuous", "forecast"])
@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_and_no_patient_changes_anothers(kind, method):
    cohort = drawn(kind)
    model = shaken("mlp" if kind == "continuous" else "lstm", cohort.schema)
    before = torch.random.get_rng_state()
    both = explain(model, cohort, method=method, samples=16, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert both == explain(model, cohort, method=method, samples=16, seed=5)
    alone = explain(model, cohort.select([1]), method=method, samples=16, seed=5)
    assert alone[0].patient == both[1].patient
    assert [r.effect for r in alone[0].reasons] == pytest.approx(
        [r.effect for r in both[1].reasons], abs=1e-9
    )


def test_sampled_methods_come_near_the_exact_values():
    cohort = drawn("continuous")
    model = shaken("mlp", cohort.schema)
    exact = effects_by_key(explain(model, cohort, method="exact"))
    for method, samples in (("kernel_shap", 600), ("shapley_sampling", 24)):
        near = effects_by_key(explain(model, cohort, method=method, samples=samples))
        for key, effects in exact.items():
            assert near[key] == pytest.approx(effects, abs=0.25)


def test_the_baseline_is_the_public_reference_and_no_patient():
    """By hand: a patient who has the reference's values is predicted the baseline."""
    schema = omics_schema("continuous")
    reference = Cohort(
        site="a",
        schema=schema,
        patients=("nobody",),
        values={"age": np.array([60.0])},
        target=np.zeros(1),
        blocks={block.name: np.zeros((1, len(block.genes))) for block in schema.blocks},
    )
    model = shaken("multiomics_vae", schema)
    wanted = pytest.approx(headline(model, reference)[0], abs=1e-5)
    assert all(one.baseline == wanted for one in explain(model, drawn("continuous")))
    (own,) = explain(model, reference)
    assert all(reason.effect == 0 for reason in own.reasons)
    assert own.main() == ()


def test_a_linear_model_is_explained_by_its_weights(make_cohort, schema):
    """Where the shown scale is a square, effects are Shapley values of the square."""
    plain = schema.model_copy(
        update={"target": schema.target.model_copy(update={"transform": "identity"})}
    )
    cohort = make_cohort(4)
    flat = dataclasses.replace(cohort, schema=plain)
    model = shaken("linear", plain, sd=1.0)
    batch, weights = encode(flat, plain), model.network.weight.detach().numpy()[0]
    for i, one in enumerate(explain(model, flat)):
        assert one.method == "exact"
        for reason, columns in zip(one.reasons, model.explainable_inputs.values(), strict=True):
            wanted = sum(weights[c] * float(batch.x[i, c]) for c in columns) * plain.target.scale
            assert reason.effect == pytest.approx(wanted, abs=1e-5)


def test_exact_values_of_two_parts_are_the_textbook_average(make_cohort, schema):
    """Each part's effect: the mean of joining first and joining second, squared doses and all."""
    cohort = make_cohort(30)
    complete = np.isfinite(cohort.values["weight_kg"]) & (cohort.values["vkorc1"] > 0)
    chosen = cohort.select(np.flatnonzero(complete & ~cohort.values["smoker"])[:1])
    model = shaken("linear", schema, sd=0.4)
    (one,) = explain(model, chosen)

    def dose(weight, genotype):
        values = {
            "weight_kg": np.array([weight]),
            "vkorc1": np.array([genotype], dtype=np.int16),
            "smoker": np.array([False]),
        }
        return headline(model, dataclasses.replace(chosen, values=values))[0]

    weight, genotype = chosen.values["weight_kg"][0], chosen.values["vkorc1"][0]
    first, second = dose(weight, 0) - dose(80, 0), dose(weight, genotype) - dose(80, genotype)
    effect = {reason.name: reason.effect for reason in one.reasons}
    assert effect["weight_kg"] == pytest.approx((first + second) / 2, rel=1e-4)
    assert effect["smoker"] == 0


def test_a_missing_block_is_a_reason_of_its_own():
    cohort = omics_cohort(omics_schema("continuous"), 20)
    lacking = np.flatnonzero(np.isnan(cohort.blocks["expression"]).all(axis=1))[:1]
    (one,) = explain(shaken("linear", cohort.schema), cohort.select(lacking))
    effects = {reason.key: reason.effect for reason in one.reasons}
    assert effects["expression missing"] != 0
    assert all(not effect for key, effect in effects.items() if key.startswith("expression: "))
    assert next(r for r in one.reasons if r.key == "expression missing").value == "not known"


@pytest.mark.parametrize("name", ["linear_mixed", "transformer"])
def test_a_course_by_visit_adds_up_too_and_names_the_visit(name):
    cohort = drawn("forecast")
    model = shaken(name, cohort.schema, sd=0.02)
    by_visit = explain(model, cohort, grain="parts", method="integrated_gradients")
    whole = explain(model, cohort, grain="whole", method="integrated_gradients")
    for fine, coarse in zip(by_visit, whole, strict=True):
        assert abs(fine.missed) <= 1e-3
        for reason in coarse.reasons:
            parts = [r.effect for r in fine.reasons if r.name == reason.name]
            assert sum(parts) == pytest.approx(reason.effect, abs=1e-2)
        visits = [r for r in fine.reasons if r.kind == "marker"]
        assert all(r.time == cohort.visits[0, r.visit, 0] for r in visits[:1])
        assert visits[0].key.endswith("@ visit 1")


def test_blocks_may_be_explained_as_a_whole():
    cohort = drawn("continuous")
    (one, *_) = explain(shaken("mlp", cohort.schema), cohort, grain="whole")
    assert [r.key for r in one.reasons] == [
        "age",
        "expression",
        "expression missing",
        "mutation",
        "mutation missing",
    ]


def test_known_responses_are_a_reason_where_the_model_reads_them():
    cohort = drawn("panel")
    model = shaken("drug_gene_gnn", cohort.schema, known_responses=True)
    found = explain(model, cohort, question=Question(drug="drug2"))
    assert found[0].outcome.name == "drug2"
    assert [r.kind for r in found[0].reasons][-1] == "responses"
    assert any(one.reasons[-1].effect for one in found)
    mean = model.predict(encode(cohort, cohort.schema)).mean[:, 2]
    assert [one.prediction for one in found] == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize("kind", ["continuous", "binary", "forecast"])
def test_a_private_head_is_explained_as_it_predicts(kind):
    cohort = drawn(kind)
    model = shaken("lstm" if kind == "forecast" else "mlp", cohort.schema)
    personal = copy.deepcopy(model)
    personal.head = PrivateHead(personal.head, output_count(cohort.schema))
    with torch.no_grad():
        personal.head.shift += 0.3
    found = explain(personal, cohort)
    assert [one.prediction for one in found] == pytest.approx(headline(personal, cohort), rel=1e-4)
    assert [one.prediction for one in found] != pytest.approx(headline(model, cohort), rel=1e-4)


def test_a_cohort_is_summed_up_by_mean_absolute_effect():
    cohort = omics_cohort(omics_schema("continuous"), 12)
    found = explain(shaken("linear", cohort.schema), cohort)
    told = summed_up(found)
    by_key = effects_by_key(found)
    assert told.patients == 12
    sizes = [reason.mean_absolute for reason in told.reasons]
    assert sizes == sorted(sizes, reverse=True)
    for reason in told.reasons:
        assert reason.mean == pytest.approx(by_key[reason.key].mean())
    assert json.loads(json.dumps(told.to_dict()))["patients"] == 12
    assert json.loads(json.dumps(found[0].to_dict()))["reasons"][0]["name"] == "age"


@pytest.mark.parametrize(
    ("kind", "question", "said"),
    [
        ("continuous", Question(drug="drug0"), "has no drug"),
        ("binary", Question(marker="albumin"), "has no marker"),
        ("panel", Question(drug="aspirin"), "no drug 'aspirin'"),
        ("forecast", Question(marker="age"), "no marker 'age'"),
        ("forecast", Question(horizon=2.0), "no horizon '2.0', only: 1, 4"),
    ],
)
def test_a_question_that_does_not_fit_is_refused(kind, question, said):
    cohort = drawn(kind)
    model = shaken("last_value" if kind == "forecast" else "linear", cohort.schema)
    with pytest.raises(MisuseError, match=said):
        explain(model, cohort, question=question)


def test_what_cannot_be_explained_is_refused():
    cohort = drawn("continuous")
    model = shaken("mlp", cohort.schema)
    with pytest.raises(MisuseError, match="is not a method"):
        explain(model, cohort, method="guess")
    with pytest.raises(DataError):
        explain(model, drawn("binary"))
    with pytest.raises(MisuseError, match="no explanation"):
        summed_up([])
    other = explain(shaken("linear", omics_schema("binary")), drawn("binary"))
    with pytest.raises(MisuseError, match="different outcomes"):
        summed_up([*explain(model, cohort), *other])
