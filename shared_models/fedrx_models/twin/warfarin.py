"""From a warfarin dose to the INR: an indirect-response model with published numbers.

S-warfarin is absorbed, distributed over two compartments and eliminated; how fast depends on CYP2C9
and age. Its concentration inhibits the production of clotting factors; how strongly depends on
VKORC1. What is produced passes two chains of compartments, a fast one of six and a slow one of one,
and the INR rises as the product of their ends falls:

    E = 1 - C^gamma / (EC50^gamma + C^gamma),  INR = baseline + 20 * (1 - A6 * A7)^lambda

Source: Hamberg AK, Dahl ML, Barban M, Scordo MG, Wadelius M, Pengo V, Padrini R, Jonsson EN. Clin
Pharmacol Ther 2007;81:529-38, tables 2 and 4 and the appendix; 150 adults in Padua, 22 to 87 years.
The paper itself was not at hand. Each number was compared in two public transcriptions that agree,
nlmixr2lib (Hamberg_2007_warfarin_s) and reil (HambergPKPD), and the whole by the paper's table 5:
the daily doses that it gives for an INR of 2.5 in 54 kinds of patients.

What could not be verified:
- Whether 11.6 h is the mean time through the whole fast chain or through each of its six
  compartments: reil reads it the first way, nlmixr2lib the second (1/MTT in the appendix). Here it
  is the whole chain, as a mean transit time is defined, and near factor VII's. A steady state does
  not depend on it; the first week does.
- Covariances between parameters: the paper has some and prints none, so parameters are independent.
- The residual error of an INR (0.0325 in table 4, a deviation or a variance): the later model's is
  taken, 20 % (Hamberg et al., Clin Pharmacol Ther 2010;87:727-34; three transcriptions).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from fedrx_common.errors import MisuseError

Floats = NDArray[np.float64]

# Table 2: apparent oral clearance of CYP2C9 *1/*1 at 71 years, and what a diplotype takes away.
_CLEARANCE_L_PER_H = 0.314
CLEARANCE_LEFT: Mapping[str, float] = MappingProxyType(
    {
        "*1/*1": 1.0,
        "*1/*2": 1 - 0.315,
        "*1/*3": 1 - 0.453,
        "*2/*2": 1 - 0.722,
        "*2/*3": 1 - 0.690,
        "*3/*3": 1 - 0.852,
    }
)
_AGE_YEARS, _LESS_PER_YEAR = 71.0, 0.0091
_CENTRAL_L, _PERIPHERAL_L, _BETWEEN_L_PER_H = 13.8, 6.59, 0.131
_ABSORPTION_PER_H = 2.0  # fixed by the authors
# Table 4.
EC50_MG_PER_L: Mapping[str, float] = MappingProxyType({"G/G": 4.61, "A/G": 3.02, "A/A": 2.20})
_GAMMA, _LAMBDA = 0.424, 3.61
_FAST_H, _SLOW_H, _IN_CHAIN = 11.6, 120.0, 6
# Appendix: fixed by the authors, who tried 15 to 25.
_HIGHEST_RISE = 20.0
# Tables 2 and 4: between patients, as coefficients of variation.
_SPREAD = MappingProxyType(
    {"clearance": 0.310, "central": 0.262, "peripheral": 0.991}
    | {"ec50": 0.409, "fast": 0.141, "slow": 1.02}
)
INR_RESIDUAL_SD = 0.20
"""Of the logarithm of a measured INR, see above."""

# Table 1: where a genotype is not known, it is as frequent as among the paper's patients.
_CYP2C9_SHARES = (0.587, 0.173, 0.167, 0.033, 0.027, 0.013)
_VKORC1_SHARES = (0.39, 0.41, 0.20)

YEARS = (18.0, 100.0)
"""Ages in which the model is asked; the paper's patients were 22 to 87."""
_S_SHARE = 0.5  # of racemic warfarin
_STEP_H = 0.5


@dataclass(frozen=True, eq=False)
class VirtualPatients:
    """Parameters of n virtual patients, `(n,)` each.

    Attributes:
        clearance: apparent, of S-warfarin, in L/h.
        central: apparent volume of the central compartment, in L.
        peripheral: apparent volume of the peripheral compartment, in L.
        ec50: concentration of S-warfarin that halves the production, in mg/L.
        fast: mean time through the fast chain, in h.
        slow: mean time through the slow chain, in h.
    """

    clearance: Floats
    central: Floats
    peripheral: Floats
    ec50: Floats
    fast: Floats
    slow: Floats


def typical_patient(age_years: float, cyp2c9: str, vkorc1: str) -> VirtualPatients:
    """Give the typical patient of an age and two genotypes.

    Args:
        age_years: in `YEARS`.
        cyp2c9: as in `CLEARANCE_LEFT`.
        vkorc1: -1639 G>A, as in `EC50_MG_PER_L`.

    Raises:
        MisuseError: an age or genotype that the model does not know.
    """
    return _patients(
        np.array([_clearance(age_years, cyp2c9)]), np.array([_ec50(vkorc1)]), {}, np.ones(1)
    )


def draw_patients(
    count: int, seed: int, age_years: float, cyp2c9: str | None, vkorc1: str | None
) -> VirtualPatients:
    """Draw virtual patients of an age and genotypes by the published spread between patients.

    Args:
        count: how many.
        seed: the same gives the same patients.
        age_years: in `YEARS`.
        cyp2c9: as in `CLEARANCE_LEFT`; None draws it as frequent as in the paper.
        vkorc1: as in `EC50_MG_PER_L`; None likewise.

    Raises:
        MisuseError: an age or genotype that the model does not know.
    """
    rng = np.random.default_rng(seed)
    drawn = {name: rng.standard_normal(count) for name in _SPREAD}
    cyp = rng.choice(list(CLEARANCE_LEFT), count, p=_CYP2C9_SHARES)
    vkor = rng.choice(list(EC50_MG_PER_L), count, p=_VKORC1_SHARES)
    clearance = np.array([_clearance(age_years, cyp2c9 or str(one)) for one in cyp])
    ec50 = np.array([_ec50(vkorc1 or str(one)) for one in vkor])
    factors = {
        name: np.exp(math.sqrt(math.log1p(_SPREAD[name] ** 2)) * z) for name, z in drawn.items()
    }
    return _patients(clearance, ec50, factors, np.ones(count))


def _patients(
    clearance: Floats, ec50: Floats, factors: Mapping[str, Floats], ones: Floats
) -> VirtualPatients:
    def times(value: float | Floats, name: str) -> Floats:
        found: Floats = value * factors.get(name, ones)
        return found

    return VirtualPatients(
        clearance=times(clearance, "clearance"),
        central=times(_CENTRAL_L, "central"),
        peripheral=times(_PERIPHERAL_L, "peripheral"),
        ec50=times(ec50, "ec50"),
        fast=times(_FAST_H, "fast"),
        slow=times(_SLOW_H, "slow"),
    )


def _clearance(age_years: float, cyp2c9: str) -> float:
    if not YEARS[0] <= age_years <= YEARS[1]:
        raise MisuseError(
            f"the warfarin model is for {YEARS[0]:g} to {YEARS[1]:g} years, not {age_years:g}."
        )
    if cyp2c9 not in CLEARANCE_LEFT:
        raise MisuseError(
            f"the warfarin model knows no CYP2C9 '{cyp2c9}', only: {', '.join(CLEARANCE_LEFT)}."
        )
    aged = 1 - _LESS_PER_YEAR * (age_years - _AGE_YEARS)
    return _CLEARANCE_L_PER_H * aged * CLEARANCE_LEFT[cyp2c9]


def _ec50(vkorc1: str) -> float:
    if vkorc1 not in EC50_MG_PER_L:
        raise MisuseError(
            f"the warfarin model knows no VKORC1 '{vkorc1}', only: {', '.join(EC50_MG_PER_L)}."
        )
    return EC50_MG_PER_L[vkorc1]


def inr_course(patients: VirtualPatients, doses_mg: Floats, baseline: float = 1.0) -> Floats:
    """Compute the INR at the end of each hour, `(n, hours)`, of patients without warfarin before.

    Args:
        patients: n of them.
        doses_mg: racemic warfarin swallowed at the beginning of each hour, `(hours,)`, or
            `(n, hours)` where patients differ.
        baseline: INR without warfarin.

    The drug's equations are linear, so a step of them is exact. Inhibition is taken as constant
    over half an hour, at the mean of its ends; half that step changes no INR below 10 by 0.01.
    """
    if not (np.isfinite(doses_mg).all() and (doses_mg >= 0).all() and baseline > 0):
        raise MisuseError("doses must be finite and at least 0, and the baseline INR above 0.")
    count, per_hour = len(patients.clearance), round(1 / _STEP_H)
    move = _drug_step(patients)
    fast, slow = _chain_step(patients.fast / _IN_CHAIN), np.exp(-_STEP_H / patients.slow)
    drug = np.zeros((count, 3))  # gut, central, peripheral; mg of S-warfarin
    chain, last = np.ones((count, _IN_CHAIN)), np.ones(count)
    doses = np.broadcast_to(doses_mg, (count, doses_mg.shape[-1]))
    found = np.empty(doses.shape)
    before = np.ones(count)
    for hour in range(doses.shape[1]):
        drug[:, 0] += _S_SHARE * doses[:, hour]
        for _ in range(per_hour):
            drug = np.einsum("nij,nj->ni", move, drug)
            after = _produced(drug[:, 1] / patients.central, patients.ec50)
            mean = (before + after) / 2
            away = (chain - mean[:, None])[:, :, None]
            chain = mean[:, None] + (fast @ away)[:, :, 0]
            last = mean + (last - mean) * slow
            before = after
        found[:, hour] = baseline + _HIGHEST_RISE * (1 - chain[:, -1] * last) ** _LAMBDA
    return found


def _produced(concentration: Floats, ec50: Floats) -> Floats:
    """Share of the clotting factors' production that is left, in 0..1."""
    strength = (np.maximum(concentration, 0.0) / ec50) ** _GAMMA
    found: Floats = 1 / (1 + strength)
    return found


def _drug_step(patients: VirtualPatients) -> Floats:
    """Matrix that moves gut, central and peripheral amounts by one step, `(n, 3, 3)`."""
    leaves, goes = patients.clearance / patients.central, _BETWEEN_L_PER_H / patients.central
    returns = _BETWEEN_L_PER_H / patients.peripheral
    rates = np.zeros((len(leaves), 3, 3))
    rates[:, 0, 0], rates[:, 1, 0] = -_ABSORPTION_PER_H, _ABSORPTION_PER_H
    rates[:, 1, 1], rates[:, 1, 2] = -(leaves + goes), returns
    rates[:, 2, 1], rates[:, 2, 2] = goes, -returns
    moved: Floats = expm(rates * _STEP_H)
    return moved


def _chain_step(each_h: Floats) -> Floats:
    """Matrix that moves a chain's distance from its inflow by one step, `(n, 6, 6)`."""
    x = _STEP_H / each_h
    found = np.zeros((len(x), _IN_CHAIN, _IN_CHAIN))
    for i in range(_IN_CHAIN):
        for j in range(i + 1):
            found[:, i, j] = np.exp(-x) * x ** (i - j) / math.factorial(i - j)
    return found
