"""Shamir's secret sharing over the prime field of 2^257 - 93.

A secret is 256 bits and any field element above that is refused on the way out, so that a wrong
reconstruction is mostly seen at once; the commitment decides in the end. Lagrange coefficients are
computed once per set of points, then each secret costs one dot product. Wrong shares are found by
Gao's decoder (Gao 2003, "A new algorithm for decoding Reed-Solomon codes"), which corrects up to
(shares - threshold) / 2 of them, and beyond that by a bounded search that the commitment guides.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from math import comb

from fedrx_protocol.secagg.errors import ShareInvalid

PRIME = 2**257 - 93  # the largest prime below 2^257; tests/protocol checks that it is one
SECRET_BYTES = 32
SHARE_BYTES = 33
_DRAW_BYTES = 48  # reduced mod PRIME: within 2^-127 of uniform
_SEARCH_TRIES = 1_000  # subsets tried where Gao's decoder cannot decide: under a second

Entropy = Callable[[int], bytes]
Polynomial = list[int]  # coefficients, lowest power first, no zero at the end


def split(
    secret: bytes, threshold: int, points: Mapping[str, int], entropy: Entropy
) -> dict[str, bytes]:
    """Split a 32-byte secret into a share for each holder; any `threshold` of them rebuild it.

    Args:
        secret: 32 bytes.
        threshold: number of shares that rebuild it, at least 1.
        points: holder to its distinct, non-zero evaluation point.
        entropy: gives that many random bytes.
    """
    draws = entropy(_DRAW_BYTES * (threshold - 1))
    coefficients = [int.from_bytes(secret, "big")] + [
        int.from_bytes(draws[start : start + _DRAW_BYTES], "big") % PRIME
        for start in range(0, len(draws), _DRAW_BYTES)
    ]
    return {
        holder: _evaluate(coefficients, point).to_bytes(SHARE_BYTES, "big")
        for holder, point in points.items()
    }


def recover(
    shares: Sequence[tuple[int, bytes]], threshold: int, genuine: Callable[[bytes], bool]
) -> tuple[bytes, frozenset[int]]:
    """Rebuild a secret from shares of which some may be wrong.

    Args:
        shares: (point, share) pairs with distinct points; the first `threshold` are tried first.
        threshold: number of shares that rebuild the secret.
        genuine: decides whether a candidate is the committed secret.

    Returns:
        The secret, and the points whose shares were found wrong. Shares beyond the first
        `threshold` are not checked if those already give the secret.

    Raises:
        ShareInvalid: no candidate is genuine, or there are too few shares.
    """
    values = [(point, int.from_bytes(share, "big") % PRIME) for point, share in shares]
    if len(values) < threshold:
        raise ShareInvalid(f"{len(values)} shares are fewer than the {threshold} that are needed.")
    first = values[:threshold]
    factors = _lagrange_at_zero(tuple(point for point, _ in first))
    at_zero = sum(factor * value for factor, (_, value) in zip(factors, first, strict=True))
    secret = _secret(at_zero % PRIME)
    if secret is not None and genuine(secret):
        return secret, frozenset()
    for polynomial in _candidates(values, threshold):
        secret = _secret(_evaluate(polynomial, 0))
        if secret is not None and genuine(secret):
            wrong = (point for point, value in values if _evaluate(polynomial, point) != value)
            return secret, frozenset(wrong)
    raise ShareInvalid(f"No {threshold} of {len(values)} shares give the committed seed.")


def correctable(shares: int, threshold: int) -> int:
    """Count the wrong ones among so many shares that `recover` finds for certain."""
    removed, tries = 0, 0
    while removed < shares - threshold:
        tries += comb(shares, removed + 1)
        if tries > _SEARCH_TRIES:
            break
        removed += 1
    return max(removed, (shares - threshold) // 2)


def _candidates(values: Sequence[tuple[int, int]], threshold: int) -> Iterator[Polynomial]:
    decoded = _gao(values, threshold)
    if decoded is not None:
        yield decoded
    # Sets of `threshold` shares that leave out one share, then two, and so on.
    subsets = (
        tuple(pair for pair in values if pair not in removed)[:threshold]
        for left_out in range(1, len(values) - threshold + 1)
        for removed in combinations(values, left_out)
    )
    yield from (_interpolate(subset) for subset in islice(subsets, _SEARCH_TRIES))


def _secret(element: int) -> bytes | None:
    return element.to_bytes(SECRET_BYTES, "big") if element >> (8 * SECRET_BYTES) == 0 else None


@functools.lru_cache(maxsize=1024)
def _lagrange_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Give the factor of each point's value in the polynomial's value at zero."""
    return tuple(
        _product(other for other in points if other != point)
        * pow(_product(other - point for other in points if other != point), -1, PRIME)
        % PRIME
        for point in points
    )


def _product(factors: Iterable[int]) -> int:
    result = 1
    for factor in factors:
        result = result * factor % PRIME
    return result


def _evaluate(polynomial: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % PRIME
    return value


def _gao(values: Sequence[tuple[int, int]], threshold: int) -> Polynomial | None:
    """Find the polynomial of degree below `threshold` through most values, or None.

    Unique if at most (len(values) - threshold) / 2 values are wrong.
    """
    vanishing: Polynomial = [1]
    for point, _ in values:
        vanishing = _multiply(vanishing, [-point, 1])
    remainder, previous = _interpolate(values), vanishing
    factor: Polynomial = [1]
    factor_before: Polynomial = []
    while 2 * (len(remainder) - 1) >= len(values) + threshold:
        quotient, rest = _divide(previous, remainder)
        previous, remainder = remainder, rest
        factor, factor_before = _subtract(factor_before, _multiply(quotient, factor)), factor
    quotient, rest = _divide(remainder, factor)
    return quotient if not rest and len(quotient) <= threshold else None


def _interpolate(values: Sequence[tuple[int, int]]) -> Polynomial:
    """Find the polynomial of degree below len(values) through all points (Newton's form)."""
    result: Polynomial = []
    basis: Polynomial = [1]
    for point, value in values:
        missing = (value - _evaluate(result, point)) % PRIME
        step = missing * pow(_evaluate(basis, point), -1, PRIME) % PRIME
        result = _subtract(result, [-step * coefficient for coefficient in basis])
        basis = _multiply(basis, [-point, 1])
    return result


def _multiply(left: Polynomial, right: Polynomial) -> Polynomial:
    result = [0] * (len(left) + len(right) - 1) if left and right else []
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            result[i + j] += a * b
    return _trimmed(result)


def _subtract(left: Polynomial, right: Polynomial) -> Polynomial:
    size = max(len(left), len(right))
    padded = zip(left + [0] * (size - len(left)), right + [0] * (size - len(right)), strict=True)
    return _trimmed([a - b for a, b in padded])


def _divide(numerator: Polynomial, denominator: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Quotient and remainder; the denominator is not zero."""
    rest = list(numerator)
    inverse = pow(denominator[-1], -1, PRIME)
    quotient = [0] * max(len(numerator) - len(denominator) + 1, 0)
    for shift in reversed(range(len(quotient))):
        factor = rest[shift + len(denominator) - 1] * inverse % PRIME
        quotient[shift] = factor
        for i, coefficient in enumerate(denominator):
            rest[shift + i] = (rest[shift + i] - factor * coefficient) % PRIME
    return _trimmed(quotient), _trimmed(rest)


def _trimmed(polynomial: Polynomial) -> Polynomial:
    reduced = [coefficient % PRIME for coefficient in polynomial]
    while reduced and reduced[-1] == 0:
        reduced.pop()
    return reduced
