"""Where noise and samples come from: a cryptographic stream, keyed by the operating system.

A live site takes a fresh 256-bit key for every stream. A simulation derives keys from a seed, so
that a killed run continues with the noise it would have had. A person who knows the seed can
subtract that noise, so a live site must refuse it (`simulated`).
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from randomgen import ChaCha

from fedrx_client.training.errors import TrainingInvalid

_KEY_BYTES = 32


class RoundRandomness(Protocol):
    """A source of independent random streams, one for each (site, round, purpose)."""

    @property
    def simulated(self) -> bool:
        """Whether the streams follow from a seed; a live site refuses those."""

    def generator(self, site: str, round_: int, purpose: str) -> np.random.Generator:
        """Return the stream for one purpose, e.g. 'sampling' or 'noise', at its beginning."""


@dataclass(frozen=True)
class SystemRandomness:
    """Fresh keys from the operating system: no two streams are related, and none repeats."""

    simulated: ClassVar[bool] = False
    entropy: Callable[[int], bytes] = os.urandom

    def generator(self, site: str, round_: int, purpose: str) -> np.random.Generator:  # noqa: ARG002 - every stream is fresh
        """Return a stream that cannot be repeated."""
        return _chacha(self.entropy(_KEY_BYTES))


@dataclass(frozen=True)
class SeededRandomness:
    """Streams keyed by seed, site, round and purpose, never by attempt; for simulation only."""

    simulated: ClassVar[bool] = True
    seed: int

    def generator(self, site: str, round_: int, purpose: str) -> np.random.Generator:
        """Return the one stream of this site, round and purpose."""
        digest = hashlib.sha256(b"fedrx/1 simulated randomness\x00")
        for part in (str(self.seed), site, str(round_), purpose):
            encoded = part.encode()
            # Lengths keep ('ab', 'c') and ('a', 'bc') apart.
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        return _chacha(digest.digest())


def _chacha(key: bytes) -> np.random.Generator:
    if len(key) != _KEY_BYTES:
        raise TrainingInvalid(f"A random stream needs a key of 32 bytes, but got {len(key)}.")
    return np.random.Generator(ChaCha(key=int.from_bytes(key, "big")))
