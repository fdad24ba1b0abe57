"""Intervals that hold, on the IWPC's 21 sites: leave one site out, one table.

    .venv/bin/python benchmarks/conformal.py [--epsilon 1] [--level 0.9] [--model linear]

Each site is left out in turn. Half of the other sites' patients train the model without privacy,
the other half add their scores to a histogram; that is summed over the sites and released with
discrete Gaussian noise of the given epsilon (delta 1e-5) on the integer grid. Then the site that
was left out is covered by

- plain: the model's own interval, which assumes that residuals are alike everywhere;
- gaussian: the mean plus and minus 1.645 standard deviations of the other sites' residuals;
- consortium: the released radius, the same for every site;
- site: a radius from that site's own patients, which never leaves it and so needs no noise. Each
  fifth of them is covered by the radius of the other four. A site with fewer than 50 patients takes
  the consortium's.

One radius for all sites covers all patients together, not each site: doses scatter more at some.
So a site that has the patients calibrates its own. Needs the real table beside the checkout.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import norm

from fedrx.api import PatientFile, default_study, load_cohorts, override
from fedrx_client.training.noise import discrete_gaussian
from fedrx_models.calibration.conformal import ScoreGrid, ScoreTotals
from fedrx_models.calibration.scores import absolute, bands_of, interval, scores_by_outcome
from fedrx_models.cohort.cohort import Cohort, concatenate
from fedrx_models.cohort.encoding import normalise_target
from fedrx_models.contract import PatientModel, Prediction
from fedrx_models.fitting import fit
from fedrx_models.registry import build_model
from fedrx_protocol.privacy.calibration import metrics_noise_multipliers
from fedrx_protocol.privacy.discretization import grid_sensitivity, grid_slack
from fedrx_protocol.study.schema import ContinuousTarget

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "iwpc" / "iwpc_subject_data.csv"
DELTA = 1e-5
SCALE = 2.0**10  # grid units of a count, so that rounding costs nothing
FOLDS, FEWEST = 5, 50
LARGE = 100  # patients from which a site's coverage is held against 85 to 95 %


@dataclass(frozen=True)
class Row:
    """Share of one site's patients inside each kind of interval, and its mean width in mg/week."""

    site: str
    patients: int
    covered: dict[str, float]
    width: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--model", default="linear")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    if not DATA.is_file():
        sys.exit(f"REAL DATA MISSING: {DATA} is not here, so nothing was measured.")
    torch.set_num_threads(1)
    study = override(default_study()[0], model=told.model)
    source = PatientFile(DATA, ROOT / "examples" / "warfarin" / "iwpc.toml", "Project Site")
    cohorts = load_cohorts(source, study.feature_schema, seed=0)
    grid, rng = ScoreGrid.of_widths(), np.random.default_rng(told.seed)
    noise_sd = noise_of(told.epsilon, grid)
    print(f"{len(cohorts)} sites; epsilon {told.epsilon:g}, noise {noise_sd:.2f} in each bin")
    rows = []
    for name, left_out in cohorts.items():
        parts = [c.split(0.5, b"conformal") for other, c in cohorts.items() if other != name]
        train = concatenate([part for part, _ in parts])
        aside = concatenate([part for _, part in parts])
        model = fit(build_model(study.model, study.feature_schema, seed=0), train, told.seed)
        drawn = discrete_gaussian(noise_sd * SCALE, grid.bins, rng) / SCALE
        noise = ScoreTotals(grid, drawn, noise_sd)
        rows.append(judged(model, aside, left_out, noise, told.level))
        show(rows[-1])
    summary(rows)


def noise_of(epsilon: float, grid: ScoreGrid) -> float:
    """Standard deviation of the noise on each bin's count, for one release at epsilon and delta."""
    moved = grid_sensitivity(scale=SCALE, clipping_norm=grid.sensitivity, dimension=grid.bins)
    slack = grid_slack(grid.bins, SCALE, 1)  # more noise than one unit of count has less slack
    _, multiplier = metrics_noise_multipliers(epsilon, DELTA, 0, 0.5, grid_slack=slack)
    return multiplier * moved / SCALE


def judged(
    model: PatientModel,
    aside: Cohort,
    left_out: Cohort,
    noise: ScoreTotals,
    level: float,
) -> Row:
    """Cover one site that neither trained the model nor calibrated the consortium's radius.

    `noise` is what a release adds to an empty histogram.
    """
    target, grid = model.schema.target, noise.grid
    if not isinstance(target, ContinuousTarget):
        raise TypeError(f"a {target.kind} outcome has no dose.")
    scores = absolute(scores_by_outcome(model, aside)[target.name])
    released = ScoreTotals(grid, grid.total(scores) + noise.counts, noise.noise_sd)
    radius = released.calibrate(level)
    own = absolute(scores_by_outcome(model, left_out)[target.name])
    covered, width = {}, {}
    residuals = normalise_target(target, aside.target) - bands_of(model, aside).middle
    reach = norm.ppf((1 + level) / 2) * residuals.std()
    bands = bands_of(model, left_out)
    factors = {
        "plain": np.ones(len(left_out)),
        "gaussian": reach / bands.above,
        "consortium": np.full(len(left_out), radius.value),
        "site": own_radii(own, grid, level, radius.value),
    }
    for name, factor in factors.items():
        covered[name] = float((np.concatenate(own) <= factor + 1e-12).mean())
        width[name] = float(np.mean(factor * bands.above))
    predicted = interval(model, left_out, {target.name: radius})
    if not isinstance(predicted, Prediction):
        raise TypeError("a dose has one interval.")
    inside = (left_out.target >= predicted.lower) & (left_out.target <= predicted.upper)
    if abs(float(inside.mean()) - covered["consortium"]) > 0.01:
        raise SystemExit("the interval in mg/week does not cover what its scores say.")
    return Row(left_out.site, len(left_out), covered, width)


def own_radii(
    own: tuple[np.ndarray, ...], grid: ScoreGrid, level: float, otherwise: float
) -> np.ndarray:
    """Each patient's radius from the other folds of the same site."""
    if len(own) < FEWEST:
        return np.full(len(own), otherwise)
    fold = np.arange(len(own)) % FOLDS
    found = np.empty(len(own))
    for i in range(FOLDS):
        others = tuple(score for score, f in zip(own, fold, strict=True) if f != i)
        found[fold == i] = ScoreTotals(grid, grid.total(others)).calibrate(level).value
    return found


def show(row: Row) -> None:
    told = "".join(f"{name:>12} {100 * share:5.1f} %" for name, share in row.covered.items())
    print(f"site {row.site:>3} {row.patients:5}{told}", flush=True)


def summary(rows: list[Row]) -> None:
    """All patients together, and the range over the larger sites."""
    count = np.array([row.patients for row in rows])
    large = [row for row in rows if row.patients >= LARGE]
    print(f"\n{'interval':>12}{'overall':>10}{'sites >= ' + str(LARGE):>20}{'half-width':>12}")
    for name in rows[0].covered:
        shares = np.array([row.covered[name] for row in rows])
        ends = [row.covered[name] for row in large]
        width = float(count @ np.array([row.width[name] for row in rows]) / count.sum())
        spread = f"{100 * min(ends):.1f} .. {100 * max(ends):.1f} %"
        print(f"{name:>12}{100 * count @ shares / count.sum():8.2f} %{spread:>20}{width:12.3f}")


if __name__ == "__main__":
    main()
