"""What all synthetic federations share: knobs within limits, and sites of differing sizes."""

import math
from collections.abc import Callable, Sequence

from numpy.random import PCG64, Generator, SeedSequence

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort

LARGEST_SITE = 1_000_000
"""Patients of one synthetic site: a typing mistake must not exhaust a machine's memory."""

MOST_SITES = 100_000
"""Of one synthetic federation, for the same reason."""

DrawSite = Callable[[Generator, str, int], Cohort]


class ImpossibleCohorts(MisuseError):
    """The knobs of a synthetic federation contradict themselves; nothing was generated."""


# Least and most allowed of what can be turned in every synthetic federation.
_LIMITS: dict[str, tuple[float, float]] = {
    "sites": (1, MOST_SITES),
    "heterogeneity": (0, 1),
    "missingness": (0, 0.9),
    "measurement_shift": (0, 10),
    "noise_sd": (0, 10),
    "seed": (0, math.inf),
}


def check_knobs(knobs: object, patients: tuple[int, int], **own: tuple[float, float]) -> None:
    """Check what a person can turn.

    Args:
        knobs: with what all federations have, and with the names of `own`.
        patients: smallest and largest site.
        own: least and most allowed of further knobs, or of one whose limits differ, by name.

    Raises:
        ImpossibleCohorts: naming the knob, the value and what is allowed.
    """
    for name, (least, most) in {**_LIMITS, **own}.items():
        value = getattr(knobs, name)
        if not least <= value <= most:
            allowed = (
                f"be at least {least:g}"
                if math.isinf(most)
                else f"lie between {least:g} and {most:g}"
            )
            raise ImpossibleCohorts(f"{name} is {value:g}: it must {allowed}.")
    low, high = patients
    if high > LARGEST_SITE:
        raise ImpossibleCohorts(
            f"patients is {low}..{high}: a synthetic site has at most {LARGEST_SITE:,}."
        )
    if not 1 <= low <= high:
        raise ImpossibleCohorts(
            f"patients is {low}..{high}: give a range that starts at 1 or more and rises."
        )


def draw_sites(
    draw: DrawSite,
    *,
    sites: int,
    patients: tuple[int, int],
    seed: int,
    sizes: Sequence[int] | None = None,
) -> dict[str, Cohort]:
    """Draw all sites by name, in order; a site's patients do not depend on the other sites.

    Args:
        draw: draws one site, from its own randomness, name and size.
        sites: number of sites.
        patients: smallest and largest site; sizes are drawn log-uniformly between them.
        seed: same seed, same patients.
        sizes: patients of each site, instead of drawing them.
    """
    for_sizes, *for_sites = (Generator(PCG64(s)) for s in SeedSequence(seed).spawn(sites + 1))
    low, high = (math.log(size) for size in patients)
    drawn = sizes or [round(math.exp(x)) for x in for_sizes.uniform(low, high, sites)]
    width = len(str(sites))
    names = [f"site-{i + 1:0{width}d}" for i in range(sites)]
    return {
        name: draw(rng, name, size) for name, size, rng in zip(names, drawn, for_sites, strict=True)
    }
