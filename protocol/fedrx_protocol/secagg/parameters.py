"""How many sites must agree before a sum is opened, and who masks with whom.

The numbers follow from the roster's size unless the study file says otherwise. What they promise:
with at most `max_colluding` sites on the coordinator's side, a context opens one sum only.
"""

import functools
import hashlib
from dataclasses import dataclass
from math import comb

from fedrx_common.canonical_json import packed
from fedrx_protocol.secagg.errors import ParametersImpossible

MIN_THRESHOLD = 3
COMPLETE_GRAPH_SITES = 64  # up to here everybody masks with everybody
SECURITY_BITS = 40  # a bad neighbourhood anywhere: at most 2^-40
CORRECTNESS_BITS = 20  # a seed that cannot be rebuilt, one tenth missing: at most 2^-20
MISSING_SHARE = 10  # one tenth of the sites may be missing from the neighbourhoods


@dataclass(frozen=True)
class SecAggParameters:
    """Agreed numbers of one session; build them with `for_roster`.

    Attributes:
        n: sites on the roster.
        threshold: least number of sites a sum is opened over.
        max_colluding: sites that may side with the coordinator without harm.
        min_honest: honest survivors whose noise the privacy account counts on.
        degree: neighbours each site shares masks with; n - 1 in the complete graph.
        share_threshold: shares that rebuild one site's seed; `threshold` in the complete graph.
    """

    n: int
    threshold: int
    max_colluding: int
    min_honest: int
    degree: int
    share_threshold: int

    def __post_init__(self) -> None:
        _check_threshold(self.n, self.threshold, self.max_colluding)
        if not 1 <= self.min_honest <= self.threshold:
            raise ParametersImpossible(
                f"min_honest_sites is {self.min_honest}, but must lie between 1 and the threshold "
                f"({self.threshold}): only so many sites are sure to answer."
            )
        if (self.degree, self.share_threshold) != _graph_numbers(
            self.n, self.threshold, self.max_colluding
        ):
            raise ParametersImpossible(
                f"Degree {self.degree} with {self.share_threshold} shares is not the graph for "
                f"{self.n} sites; use SecAggParameters.for_roster."
            )

    @property
    def complete(self) -> bool:
        """Whether every site masks with every other."""
        return self.degree == self.n - 1

    @classmethod
    def for_roster(
        cls,
        n: int,
        threshold: int | None = None,
        max_colluding: int | None = None,
        min_honest: int | None = None,
    ) -> "SecAggParameters":
        """Parameters for `n` sites; what is None follows from `n`.

        Raises:
            ParametersImpossible: the numbers cannot keep the promise; the text says what to change.
        """
        threshold = max(MIN_THRESHOLD, 2 * n // 3 + 1) if threshold is None else threshold
        max_colluding = n // 4 if max_colluding is None else max_colluding
        _check_threshold(n, threshold, max_colluding)
        degree, shares = _graph_numbers(n, threshold, max_colluding)
        return cls(
            n=n,
            threshold=threshold,
            max_colluding=max_colluding,
            min_honest=threshold if min_honest is None else min_honest,
            degree=degree,
            share_threshold=shares,
        )


def session_id(run_id: str, study_digest: str, roster_digest: bytes) -> bytes:
    """32 bytes that name one run of one study by one roster.

    Args:
        run_id: the run's name, new for every run.
        study_digest: `Study.digest`.
        roster_digest: `Roster.digest`.
    """
    return hashlib.sha256(packed("fedrx/1 session", run_id, study_digest, roster_digest)).digest()


@functools.lru_cache(maxsize=64)
def neighbourhood(n: int, max_colluding: int) -> tuple[int, int] | None:
    """Smallest even degree and its share threshold, or None if only the complete graph will do.

    After Bell, Bonawitz, Gascon, Lepoint, Raykova 2020 (CCS, section 3): the neighbours of a site
    are a uniform sample without replacement, so that bad ones among k follow a hypergeometric law.
    With c colluding of n sites the degree k and the threshold t must meet

    1. P[any neighbourhood holds over c_k colluders] <= 2^-40, and t > (k + 1 + c_k) / 2: a seed
       and the pairwise masks around it never open together (the paper's active case);
    2. P[any neighbourhood misses over k + 1 - t sites | n/10 missing] <= 2^-20: seeds are rebuilt;
    3. P[k/2 sites in a row on the ring colluding or missing] <= 2^-40: the honest rest stays
       connected, so only the whole sum can open.

    The probabilities are exact (integers), so all sites find the same graph.
    """
    missing = n // MISSING_SHARE
    for degree in range(2, n - 1, 2):
        colluders = _largest_likely(n, max_colluding, degree, SECURITY_BITS)
        threshold = (degree + 1 + colluders) // 2 + 1
        if (
            threshold <= degree
            and _largest_likely(n, missing, degree, CORRECTNESS_BITS) <= degree + 1 - threshold
            and _largest_likely(n, max_colluding + missing, degree // 2, SECURITY_BITS)
            < degree // 2
        ):
            return degree, threshold
    return None


def _graph_numbers(n: int, threshold: int, max_colluding: int) -> tuple[int, int]:
    """Degree and share threshold that belong to these numbers."""
    sparse = neighbourhood(n, max_colluding) if n > COMPLETE_GRAPH_SITES else None
    return sparse or (n - 1, threshold)


def _largest_likely(n: int, bad: int, drawn: int, bits: int) -> int:
    """Smallest a with n * P[more than a bad ones among `drawn` of n - 1] <= 2^-bits."""
    total, above = comb(n - 1, drawn), 0
    for count in range(min(bad, drawn), -1, -1):
        above += comb(bad, count) * comb(n - 1 - bad, drawn - count)
        if n * above << bits > total:
            return count
    return 0


def _check_threshold(n: int, threshold: int, max_colluding: int) -> None:
    if n < MIN_THRESHOLD:
        raise ParametersImpossible(
            f"{n} {'site is' if n == 1 else 'sites are'} too few: secure aggregation needs at "
            f"least {MIN_THRESHOLD}."
        )
    if threshold > n:
        raise ParametersImpossible(
            f"{n} sites are fewer than the threshold of {threshold}: enrol more sites, or agree "
            "on a lower threshold in the study file."
        )
    if threshold < MIN_THRESHOLD:
        raise ParametersImpossible(f"The threshold is {threshold}, but at least 3 are needed.")
    if max_colluding < 0 or 2 * threshold <= n + max_colluding:
        least = (n + max(max_colluding, 0)) // 2 + 1
        raise ParametersImpossible(
            f"A threshold of {threshold} of {n} sites with up to {max_colluding} colluding would "
            f"let two sums be opened: raise the threshold to {least}, or lower max_colluding_sites "
            f"(at least 0)."
        )
