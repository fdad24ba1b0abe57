"""Masked vectors on disk: the same mapping, flat in memory, and nothing left behind."""

import tracemalloc

import numpy as np
import pytest

from fedrx_server.rounds.spill import SpilledVectors

LONG = 2**19  # words: 2 MiB, which goes to a file


def vector(seed: int, length: int = LONG) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, length, dtype=np.uint32)


@pytest.mark.parametrize("length", [3, LONG])
def test_it_is_a_mapping(tmp_path, length):
    kept = SpilledVectors(tmp_path)
    kept["a"], kept["b"] = vector(1, length), vector(2, length)
    kept["a"] = vector(3, length)
    assert sorted(kept) == ["a", "b"]
    assert np.array_equal(kept["a"], vector(3, length))
    assert np.array_equal(kept.pop("b"), vector(2, length))
    with pytest.raises(KeyError):
        kept["b"]
    with pytest.raises(KeyError):
        del kept["b"]
    kept.clear()
    assert len(kept) == 0


def test_files_have_no_name_and_so_leave_nothing_behind(tmp_path):
    kept = SpilledVectors(tmp_path)
    kept["a"] = vector(1)
    assert not any(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_sites(tmp_path):
    kept = SpilledVectors(tmp_path)
    tracemalloc.start()
    try:
        for site in range(8):
            kept[f"site-{site}"] = vector(site)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * 4 * LONG


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    kept = SpilledVectors(tmp_path / "missing")
    with pytest.raises(OSError, match="missing"):
        kept["a"] = vector(1)
    assert len(kept) == 0
