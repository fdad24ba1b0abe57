"""Every model trains in every privacy mode, through the whole protocol, in both engines."""

import math

import numpy as np
import pytest
from omics_cohorts import TARGETS, omics_cohort, omics_schema

import fedrx
from fedrx_common.errors import DataError
from fedrx_models.metrics.registry import measures_of
from fedrx_models.registry import models_of
from fedrx_protocol.study.study import Study

MODELS = models_of("pharmacogenomic")

MODES = ["distributed", "local", "none"]
SMALL = {
    "mlp": {"hidden": [6]},
    "genomic_cnn": {"channels": 4, "hidden": 6},
    "genomic_transformer": {"size": 8, "heads": 2, "feed_forward": 8, "hidden": 16},
    "drug_gene_gnn": {"size": 4, "hidden": 6},
    "multiomics_vae": {"latent": 3, "hidden": 8, "head_hidden": 6},
}
SITES, PATIENTS = 4, 30


def study_of(model, mode, kind, rounds=3):
    schema = omics_schema(kind)
    return Study.from_document(
        {
            **schema.model_dump(mode="json"),
            "name": "omics",
            "cohort": {"patients": SITES * PATIENTS, "largest_site": 2 * PATIENTS},
            "model": {"name": model, **SMALL.get(model, {})},
            "training": {"rounds": rounds, "local": {"batch_size": 15}},
            "privacy": {"mode": mode, "epsilon": 8.0},
            "metrics": {"evaluations": 1},
        },
        source="s",
    )


def cohorts_of(study, patients=PATIENTS):
    schema = study.feature_schema
    return [omics_cohort(schema, patients, seed=i, site=f"s{i}") for i in range(SITES)]


def run(study, folder, **options):
    return fedrx.simulate(
        study, cohorts_of(study), seed=3, output=folder, baselines=False, **options
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", MODELS)
def test_a_model_trains_in_a_mode(model, mode, tmp_path):
    kinds = list(TARGETS)
    kind = kinds[(MODELS.index(model) + MODES.index(mode)) % len(kinds)]
    study = study_of(model, mode, kind)
    result = run(study, tmp_path / "run")
    assert len(result.rounds) == study.final_round
    assert np.isfinite(result.weights).all()
    assert (result.privacy.epsilon <= 8.0) if mode != "none" else math.isinf(result.privacy.epsilon)
    assert {m.key for m in measures_of(study.target)} & set(result.metrics["federated"].flat())
    assert (tmp_path / "run" / "report.html").is_file()
    again = fedrx.load_model(tmp_path / "run" / "model.safetensors")
    assert again.study_digest == study.digest


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.usefixtures("one_ray")
def test_both_engines_give_the_same_model(model, mode, tmp_path):
    study = study_of(model, mode, "panel", rounds=2)
    here = run(study, tmp_path / "here")
    there = run(study, tmp_path / "there", engine="flower")
    assert np.array_equal(here.weights, there.weights)
    assert here.reported == there.reported


@pytest.mark.parametrize("kind", TARGETS)
def test_every_kind_of_outcome_has_a_report_with_its_measures(kind, tmp_path):
    study = study_of("linear", "none", kind, rounds=10)
    result = fedrx.simulate(study, cohorts_of(study, 60), seed=3, output=tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    for measure in measures_of(study.target):
        assert measure.name in page
        assert result.report.row("pooled").value(measure) is not None
    assert result.report.row("fixed").label == "Public reference"
    headline = measures_of(study.target)[0]
    pooled, fixed = (result.report.row(key).value(headline) for key in ("pooled", "fixed"))
    assert (pooled > fixed) if headline.higher_is_better else (pooled < fixed)
    assert result.report.curve.exact[-1] == pytest.approx(
        result.report.row("federated").value(headline)
    )
    if kind != "continuous":
        # Binned sums are near the exact metric, and without noise there is nothing else between.
        assert result.reported[headline.key] == pytest.approx(
            result.metrics["federated"].flat()[headline.key], abs=0.05
        )


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("binary", np.zeros_like, "all have the same outcome"),
        ("survival", lambda target: target * [1, 0], "nobody had the event"),
        ("continuous", lambda target: target * 0 + 35, "all have the same outcome"),
        ("panel", lambda target: target * 0 + range(4), "all have the same outcome"),
    ],
)
def test_an_outcome_that_allows_no_judgement_is_refused_before_anything_runs(
    kind, change, words, tmp_path
):
    study = study_of("linear", "none", kind)
    schema, cohorts = study.feature_schema, cohorts_of(study)
    one_sided = [
        fedrx.Cohort(c.site, schema, c.patients, c.values, change(c.target), c.blocks)
        for c in cohorts
    ]
    with pytest.raises(DataError, match=words):
        fedrx.simulate(study, one_sided, seed=3, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
