"""`fedrx model export`: an ONNX file, or one sentence."""

import numpy as np
import onnxruntime
import pytest


@pytest.fixture
def iwpc(place, fedrx):
    made = fedrx("model", "published", "pharmacogenetic", "--output", "iwpc.safetensors")
    assert made.code == 0, made.err
    return place


def test_it_writes_a_file_that_runs(fedrx, iwpc):
    ran = fedrx("model", "export", "iwpc.safetensors", "--onnx", "iwpc.onnx")
    assert ran.code == 0, ran.err
    session = onnxruntime.InferenceSession(iwpc / "iwpc.onnx")
    (x,) = session.get_inputs()
    value, low, high = session.run(None, {"x": np.zeros((2, x.shape[1]), np.float32)})
    assert value.shape == (2,)
    assert (low < value).all()
    assert (value < high).all()
    again = fedrx("model", "export", "iwpc.safetensors", "--onnx", "iwpc.onnx")
    assert again.code == 2
    assert "already there" in again.err


def test_a_withdrawn_model_writes_nothing(fedrx, iwpc):
    assert fedrx("model", "card", "iwpc.safetensors", "--withdraw", "wrong").code == 0
    ran = fedrx("model", "export", "iwpc.safetensors", "--onnx", "iwpc.onnx")
    assert ran.code == 2
    assert "wrong" in ran.err
    assert not (iwpc / "iwpc.onnx").exists()
