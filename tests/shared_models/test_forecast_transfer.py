"""A forecast that starts from another study: what is taken over, frozen, refused."""

import numpy as np
import pytest
import torch
from flux_cohorts import flux_cohort, flux_document

from fedrx_client.training.clipping import leave_one_out_sensitivity
from fedrx_common.errors import StudyError
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import ModelFileInvalid, get_vector
from fedrx_models.files import save_model
from fedrx_models.planning import make_plan
from fedrx_models.registry import build_model, models_of
from fedrx_models.transfer import freezable_parts, start_model, study_model, trained_positions
from fedrx_protocol.study.study import Study

EARLIER = "ab" * 32
MODELS = models_of("flux")
ONE_LAYER = {"last_value", "linear_mixed"}


def study_of(model="tcn", freeze=(), **changes):
    return Study.from_document(
        {
            **flux_document(),
            "name": "later",
            "cohort": {"patients": 100, "largest_site": 60},
            "model": {"name": model},
            "metrics": {"error_bound": 4.0},
            "transfer": {"study": EARLIER, "freeze": list(freeze)},
            **changes,
        },
        source="s",
    )


def earlier_file(folder, model="tcn"):
    study = study_of(model)
    found = build_model(study.model, study.feature_schema, seed=7)
    shaken = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=shaken))
    return save_model(folder / "model.safetensors", found, EARLIER), found


@pytest.mark.parametrize("model", MODELS)
def test_every_model_starts_from_the_earlier_weights(model, tmp_path):
    path, earlier = earlier_file(tmp_path, model)
    assert np.array_equal(get_vector(start_model(study_of(model), 3, path)), get_vector(earlier))


@pytest.mark.parametrize("model", MODELS)
def test_frozen_parts_are_left_out_of_what_is_summed_and_the_promise_holds(model):
    if model in ONE_LAYER:
        with pytest.raises(StudyError, match="leaves nothing to train"):
            study_model(study_of(model, freeze=["network"]), 0)
        return
    parts = freezable_parts(study_model(study_of(model), 0))
    first = next(part for part in parts if part.count(".") == 1)
    study = study_of(model, freeze=[first])
    found = study_model(study, 0)
    frozen = sum(p.numel() for p in found.get_submodule(first).parameters())
    assert (~trained_positions(found)).sum() == frozen > 0
    assert make_plan(study, 4).dimension == len(get_vector(found)) - frozen
    schema = study.feature_schema
    moved = leave_one_out_sensitivity(found, encode(flux_cohort(schema, 10), schema), 0.5)
    assert 0 < moved <= 0.5 * (1 + 1e-6)


def target(**changes):
    return {**flux_document()["target"], **changes}


def horizons(*at):
    return [{"at": t, "window": [t - 0.5, t + 0.5], "change": 0.5} for t in at]


def markers(**changes):
    first, *others = flux_document()["markers"]
    return [{**first, **changes}, *others]


def test_a_study_may_forecast_fewer_markers_and_its_last_layer_starts_anew(tmp_path):
    path, earlier = earlier_file(tmp_path)
    study = study_of(target=target(markers=["albumin"]))
    found, fresh = start_model(study, 3, path), study_model(study, 3)
    assert torch.equal(found.network.inside.weight, earlier.network.inside.weight)
    assert torch.equal(found.network.outside.out.weight, fresh.network.outside.out.weight)
    assert not torch.equal(found.network.inside.weight, fresh.network.inside.weight)


@pytest.mark.parametrize(
    "changes",
    [
        {"visits": {"time_unit": "hour", "most": 40}},
        {"markers": markers(description="in words")},
        {"target": target(horizons=[{**flux_document()["target"]["horizons"][0], "change": 0.7},
                                    flux_document()["target"]["horizons"][1]])},
    ],
)  # fmt: skip
def test_what_changes_no_meaning_is_taken_over(changes, tmp_path):
    path, earlier = earlier_file(tmp_path)
    assert np.array_equal(get_vector(start_model(study_of(**changes), 3, path)),
                          get_vector(earlier))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"markers": markers(mean=2.1)}, "on other markers"),
        ({"markers": markers(unit="g/L")}, "on other markers"),
        ({"markers": [*markers(), {**markers()[1], "name": "sodium"}]}, "on other markers"),
        ({"treatments": []}, "on other treatments"),
        ({"features": []}, "on other features"),
        ({"graph": {"edges": [["albumin", "bilirubin"]]}}, "on other edges of the graph"),
        ({"visits": {"time_unit": "day", "most": 12}}, "another unit of time"),
        ({"target": target(horizons=horizons(1.0, 6.0))}, "on other horizons"),
        ({"target": target(horizons=horizons(1.0, 4.0, 6.0))}, "on other horizons"),
        (
            {"target": target(markers=["albumin", "bilirubin", "platelets"])},
            "forecasts as many markers as the study, but others or in another order",
        ),
    ],
)
def test_weights_of_another_meaning_are_one_sentence(changes, words, tmp_path):
    path, _ = earlier_file(tmp_path)
    with pytest.raises(ModelFileInvalid, match=words) as error:
        start_model(study_of(**changes), 0, path)
    assert "\n" not in str(error.value)
