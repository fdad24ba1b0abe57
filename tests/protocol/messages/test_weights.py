"""Weights as one flat vector: nothing reordered, nothing silently reshaped."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedrx_protocol.messages.weights import (
    WeightsInvalid,
    WeightSpec,
    model_bytes,
    model_digest,
    model_vector,
)

SPEC = WeightSpec(names=("w", "b", "scale"), shapes=((2, 3), (3,), ()))
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def arrays():
    return {"scale": 9.0, "b": np.arange(3), "w": np.arange(6).reshape(2, 3)}


def test_the_order_is_the_spec_s_not_the_dictionary_s():
    flat = SPEC.flatten(arrays())
    assert flat.dtype == np.float32
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 9]
    assert SPEC.size == 10


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, 10, elements=FINITE))
def test_unflatten_and_flatten_undo_each_other(vector):
    parts = SPEC.unflatten(vector)
    assert {name: part.shape for name, part in parts.items()} == dict(
        zip(SPEC.names, SPEC.shapes, strict=True)
    )
    assert np.array_equal(SPEC.flatten(parts), vector)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, st.integers(0, 20), elements=FINITE))
def test_bytes_are_little_endian_float32(vector):
    data = model_bytes(vector)
    assert data == vector.astype("<f4").tobytes()
    assert np.array_equal(model_vector(data), vector)
    assert model_digest(data) == hashlib.sha256(data).digest()


def test_bytes_do_not_depend_on_the_machine():
    vector = np.array([1.0, -2.5], dtype=">f4")
    assert model_bytes(vector).hex() == "0000803f000020c0"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"b": np.zeros(4)}, "'b' has shape"),
        ({"b": np.zeros((3, 1))}, "'b' has shape"),
        ({"b": np.array([0, np.nan, 0])}, "not finite"),
        ({"b": np.array([0, np.inf, 0])}, "not finite"),
        ({"extra": np.zeros(1)}, "extra"),
    ],
)
def test_arrays_that_do_not_fit(change, says):
    with pytest.raises(WeightsInvalid, match=says):
        SPEC.flatten(arrays() | change)


def test_a_missing_array():
    with pytest.raises(WeightsInvalid, match="scale"):
        SPEC.flatten({name: array for name, array in arrays().items() if name != "scale"})


def test_vectors_and_bytes_that_do_not_fit():
    with pytest.raises(WeightsInvalid, match="10 weights"):
        SPEC.unflatten(np.zeros(9, dtype=np.float32))
    with pytest.raises(WeightsInvalid, match="whole number"):
        model_vector(b"12345")
    with pytest.raises(WeightsInvalid, match="not finite"):
        model_vector(np.array([np.nan], dtype="<f4").tobytes())


@pytest.mark.parametrize(
    "spec",
    [
        {"names": ("a",), "shapes": ()},
        {"names": ("a", "a"), "shapes": ((1,), (1,))},
        {"names": ("a",), "shapes": ((0,),)},
    ],
)
def test_impossible_specs(spec):
    with pytest.raises(WeightsInvalid):
        WeightSpec(**spec)


def test_a_model_without_weights():
    empty = WeightSpec((), ())
    assert empty.flatten({}).shape == (0,)
    assert empty.unflatten(np.empty(0, dtype=np.float32)) == {}
