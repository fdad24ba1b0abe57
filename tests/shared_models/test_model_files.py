"""A model file carries all that is needed to dose with it, and nothing else is accepted."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import ModelFileInvalid, get_vector
from fedrx_models.files import load_model, save_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection

DIGEST = "ab" * 32


@pytest.fixture(params=["linear", "mlp"])
def model(request, schema):
    return build_model(ModelSection(name=request.param), schema, seed=3)


@pytest.fixture
def saved(model, tmp_path):
    return save_model(tmp_path / "model.safetensors", model, DIGEST)


def _parts(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - no mapping


def _rewritten(path, tensors=None, **metadata):
    old_tensors, old = _parts(path)
    kept = {k: v for k, v in {**old, **metadata}.items() if v is not None}
    save_file(tensors or old_tensors, path, kept)
    return path


def test_a_saved_model_doses_as_before(model, saved, make_cohort, schema):
    loaded = load_model(saved, DIGEST)
    batch = encode(make_cohort(6), schema)
    assert loaded.study_digest == DIGEST
    assert loaded.model.name == model.name
    assert loaded.model.schema == schema
    assert loaded.model.config == model.config
    assert np.array_equal(get_vector(loaded.model), get_vector(model))
    assert np.array_equal(loaded.model.predict(batch).upper, model.predict(batch).upper)


def test_the_file_is_complete_or_not_there(saved):
    assert [path.name for path in saved.parent.iterdir()] == ["model.safetensors"]


def test_the_description_is_readable_json(saved, schema):
    _, metadata = _parts(saved)
    assert metadata["study"] == DIGEST
    assert json.loads(metadata["schema"])["target"]["unit"] == schema.target.unit


def test_a_model_of_another_study_is_refused(saved):
    with pytest.raises(ModelFileInvalid, match="belongs to study abababababab, not 000000000000"):
        load_model(saved, "0" * 64)
    assert load_model(saved).study_digest == DIGEST


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"format": "fedrx-model/9"}, "not a FedRx model file"),
        ({"study": None}, "not a FedRx model file"),
        ({"model": "forest"}, "description cannot be used"),
        ({"config": "{"}, "description cannot be used"),
        ({"config": "[]"}, "description cannot be used"),
        ({"config": '{"huber_delta": -1}'}, "description cannot be used"),
        ({"schema": "{}"}, "description cannot be used"),
    ],
)
def test_a_file_with_another_description_is_refused(saved, metadata, sentence):
    with pytest.raises(ModelFileInvalid, match=sentence):
        load_model(_rewritten(saved, **metadata))


def test_weights_of_another_shape_are_refused(saved):
    tensors, _ = _parts(saved)
    name = next(iter(tensors))
    with pytest.raises(ModelFileInvalid, match="do not fit"):
        load_model(_rewritten(saved, {**tensors, name: torch.zeros(2, 2)}))


def test_weights_that_are_no_numbers_are_refused(saved):
    tensors, _ = _parts(saved)
    name = next(iter(tensors))
    with pytest.raises(ModelFileInvalid, match="not a finite number"):
        load_model(_rewritten(saved, {**tensors, name: torch.full_like(tensors[name], torch.nan)}))


def test_a_damaged_or_missing_file_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-5])
    with pytest.raises(ModelFileInvalid, match="cannot be read as safetensors"):
        load_model(saved)
    with pytest.raises(ModelFileInvalid, match="no such model file"):
        load_model(saved.parent / "other.safetensors")


def test_a_folder_that_is_not_there_is_named(model, tmp_path):
    with pytest.raises(ModelFileInvalid, match="cannot be written"):
        save_model(tmp_path / "nowhere" / "model.safetensors", model, DIGEST)
