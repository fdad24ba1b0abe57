"""Keystream masks: the specified generator, in place, equal whatever the block size."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fedrx_protocol.secagg.masking import BLOCK_WORDS, add_keystreams

SEEDS = [bytes([number]) * 32 for number in range(4)]


def reference(seed, length):
    """AES-256-CTR from counter zero over all bytes at once, as little-endian uint32."""
    stream = Cipher(AES(seed), CTR(bytes(16))).encryptor().update(bytes(4 * length))
    return np.frombuffer(stream, dtype="<u4").astype(np.uint32)


@pytest.mark.parametrize("length", [1, 7, BLOCK_WORDS - 1, BLOCK_WORDS, 2 * BLOCK_WORDS + 3])
def test_masks_are_the_keystream_whatever_the_length(length):
    vector = np.arange(length, dtype=np.uint32)
    add_keystreams(vector, plus=SEEDS[:2], minus=SEEDS[2:3])
    expected = np.arange(length, dtype=np.uint32)
    expected += reference(SEEDS[0], length) + reference(SEEDS[1], length)
    expected -= reference(SEEDS[2], length)
    assert np.array_equal(vector, expected)


def test_adding_and_subtracting_cancel():
    vector = np.full(100_000, 2**32 - 1, dtype=np.uint32)
    add_keystreams(vector, plus=SEEDS)
    assert not np.all(vector == 2**32 - 1)
    add_keystreams(vector, minus=SEEDS)
    assert np.all(vector == 2**32 - 1)


def test_no_seeds_change_nothing():
    vector = np.arange(5, dtype=np.uint32)
    add_keystreams(vector)
    assert np.array_equal(vector, np.arange(5))


def test_the_first_words_are_frozen():
    vector = np.zeros(4, dtype=np.uint32)
    add_keystreams(vector, plus=[bytes(range(32))])
    # AES-256 of an all-zero block under 00 01 .. 1f, four little-endian words.
    assert vector.tobytes().hex() == "f29000b62a499fd0a9f39a6add2e7780"
