"""Masks: keystreams of AES-256-CTR, added in place into one vector.

The keystream of a 32-byte seed, read as little-endian uint32, is its mask. A seed masks one
vector, so the counter starts at zero. Work goes block by block through all seeds, so that a block
of the vector stays in the cache and no second vector is needed, whatever the number of seeds.
"""

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

BLOCK_WORDS = 2**14  # 64 KiB: vector block, keystream block and zeros fit a second-level cache
_WORD = np.dtype("<u4")
_COUNTER_ZERO = CTR(bytes(16))
_ZEROS = memoryview(bytes(BLOCK_WORDS * _WORD.itemsize))
_SLACK = 15  # `update_into` asks for one cipher block, less a byte, beyond what it writes


def add_keystreams(
    vector: NDArray[np.uint32], *, plus: Iterable[bytes] = (), minus: Iterable[bytes] = ()
) -> None:
    """Add the masks of the seeds in `plus` to `vector`, and subtract those in `minus`, mod 2^32.

    Args:
        vector: uint32 of shape `(length,)`; changed in place.
        plus: 32-byte seeds.
        minus: 32-byte seeds.
    """
    added = [_keystream(seed) for seed in plus]
    removed = [_keystream(seed) for seed in minus]
    buffer = bytearray(BLOCK_WORDS * _WORD.itemsize + _SLACK)
    mask = np.frombuffer(buffer, dtype=_WORD, count=BLOCK_WORDS)
    for start in range(0, vector.size, BLOCK_WORDS):
        block = vector[start : start + BLOCK_WORDS]
        zeros, part = _ZEROS[: block.size * _WORD.itemsize], mask[: block.size]
        for stream in added:
            stream.update_into(zeros, buffer)
            np.add(block, part, out=block)
        for stream in removed:
            stream.update_into(zeros, buffer)
            np.subtract(block, part, out=block)


def _keystream(seed: bytes) -> CipherContext:
    return Cipher(AES(seed), _COUNTER_ZERO).encryptor()
