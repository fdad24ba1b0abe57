"""Integer noise on a fixed-point grid, and what it costs that it is not a continuous Gaussian.

The sum that leaves is an integer vector. Each site rounds its own sum and adds discrete Gaussian
noise. The account, however, is that of the continuous Gaussian mechanism. Two facts bridge them.

**Sensitivity.** A site rounds its *sum*. Rounding moves a coordinate by at most 1/2, with the
patient and without, so one patient moves the rounded vector by at most scale*C + sqrt(d) in L2.

**Slack.** Let P be the discrete Gaussian on the integers, P(k) ~ exp(-k^2 / 2s^2), and R a
continuous N(0, s^2) rounded to the nearest integer. The query q is an integer vector, so
q + R = round(q + N(0, s^2)): post-processing of the Gaussian mechanism, to which its account
applies exactly. For s >= 10 the normaliser of P is s*sqrt(2 pi) up to a factor 1 + 2e^(-2 pi^2 s^2)
(Poisson summation), so with t uniform on (-1/2, 1/2)

    R(k) / P(k) = E[exp(-t^2 / 2s^2) cosh(k t / s^2)].

From below, by Jensen and cosh >= 1: log R/P >= -E[t^2] / 2s^2 = -1/(24 s^2), at every k. From
above, as E[cosh(k t / s^2)] = sinh(a)/a with a = k / 2s^2, and log(sinh(a)/a) <= a^2/6:
log R/P <= k^2 / (24 s^4). Over d coordinates

    P <= e^(d / 24 s^2) R  everywhere,   R <= e^eta P  wherever |k|^2 <= 24 s^4 eta.

A Gaussian's norm exceeds s*(sqrt(d) + sqrt(2L)) with probability at most e^-L (Gaussian
concentration), and rounding adds at most sqrt(d)/2 to it, so both hold, but for an event of
probability e^-L, with eta = ((1 + 1/2s) sqrt(d) + sqrt(2L))^2 / (24 s^2).

The bounds hold point by point, hence through Poisson sampling (a mixture) and through adaptive
composition: if the continuous mechanisms together are (e, D)-DP and the releases' etas sum to H,
then T integer releases are (e + 2H, e^H (D + e^e T e^-L))-DP. With L = 1100 the last term is below
1e-30 for every e <= 1000 and T <= 100,000. The accountant subtracts it from delta all the same.

**Sums over sites.** The sum of h discrete Gaussians of standard deviation s0 is not quite one of
s0*sqrt(h); the log-ratio is at most 10 * sum_k exp(-2 pi^2 s0^2 k/(k+1)) per coordinate (Kairouz,
Liu, Steinke 2021, arXiv:2102.06387, Theorem 9). For s0 >= 10 this is below 1e-420; smaller noise
is refused. More than h sites only add independent noise: post-processing.
"""

import math

from fedrx_protocol.privacy.errors import AccountingInvalid, NoiseTooSmall

LEAST_SITE_SD = 10.0
"""Grid units; below it a sum of discrete Gaussians is not safely one itself."""

TAIL_EXPONENT = 1100.0
"""L above: the bounds may fail with probability e^-L a release."""

TAIL_DELTA = 1e-30
"""What those failures can add to delta in a study's lifetime; see the module's text."""

SAMPLER_ERROR = 2.0**-40
"""Log-ratio per coordinate and site between P and what floating point samples of it."""


def grid_sensitivity(*, scale: float, clipping_norm: float, dimension: int) -> float:
    """L2 distance, in grid units, by which one patient can move a site's rounded sum.

    Args:
        scale: grid units per unit of the summed quantity.
        clipping_norm: L2 bound C of a patient's contribution before scaling.
        dimension: coordinates d of the sum.
    """
    if not (scale > 0 and clipping_norm > 0 and dimension > 0):
        raise AccountingInvalid(
            f"Scale, clipping norm and dimension must be above 0, but are {scale!r}, "
            f"{clipping_norm!r} and {dimension!r}."
        )
    return scale * clipping_norm + math.sqrt(dimension)


def site_noise_sd(*, noise_multiplier: float, sensitivity: float, min_honest: int) -> float:
    """Standard deviation of one site's noise, in grid units: sigma * S / sqrt(h)."""
    if not (noise_multiplier >= 0 and sensitivity > 0 and min_honest >= 1):
        raise AccountingInvalid(
            f"Noise multiplier {noise_multiplier!r}, sensitivity {sensitivity!r} and honest sites "
            f"{min_honest!r} do not describe a noise share."
        )
    return noise_multiplier * sensitivity / math.sqrt(min_honest)


def grid_slack(dimension: int, site_sd: float, sites: int) -> float:
    """The eta of one release: see the module's text for the bound and its proof.

    Args:
        dimension: coordinates d of the released sum.
        site_sd: standard deviation of one site's noise, in grid units.
        sites: honest sites h whose noise the account counts on.

    Raises:
        NoiseTooSmall: `site_sd` is below 10 grid units.
        AccountingInvalid: no coordinates, or no sites.
    """
    if dimension < 1 or sites < 1:
        raise AccountingInvalid(f"No grid slack for {dimension} coordinates and {sites} sites.")
    if not site_sd >= LEAST_SITE_SD:
        raise NoiseTooSmall(
            f"A site's noise has a standard deviation of {site_sd:.3g} grid units, but at least "
            f"{LEAST_SITE_SD:g} are needed: raise the fixed-point scale or the noise."
        )
    sd = site_sd * math.sqrt(sites)
    norm_in_sds = (1 + 0.5 / sd) * math.sqrt(dimension) + math.sqrt(2 * TAIL_EXPONENT)
    return norm_in_sds**2 / (24 * sd**2) + dimension * sites * SAMPLER_ERROR
