"""IWPC, 21 sites: federated against pooled in every privacy mode, five seeds, one table.

    .venv/bin/python benchmarks/iwpc.py [--seeds 5] [--model linear]

Needs the real patient table beside the checkout (../shared/data/iwpc); says so where it is
missing. Seed s fixes the 80/20 split within sites, the start weights, noise and sampling.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

from fedrx.api import PatientFile, default_study, load_cohorts, override
from fedrx_simulation.evaluation.result import SimulationResult
from fedrx_simulation.simulate import SimulationOptions, start

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "iwpc" / "iwpc_subject_data.csv"
SETTINGS = [
    ("none", 1.0),
    ("distributed", 3.0),
    ("distributed", 1.0),
    ("local", 3.0),
    ("local", 1.0),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", default="linear")
    arguments = parser.parse_args()
    if not DATA.is_file():
        sys.exit(f"REAL DATA MISSING: {DATA} is not here, so nothing was measured.")
    study, _ = default_study()
    study = override(study, model=arguments.model)
    source = PatientFile(DATA, ROOT / "examples" / "warfarin" / "iwpc.toml", "Project Site")
    cohorts = load_cohorts(source, study.feature_schema, seed=0)
    seeds = range(1, arguments.seeds + 1)
    pooled = {}
    print(f"{'mode':>12} {'eps':>4} {'MAE':>6} {'/ pooled':>18} {'within 20 %':>14} {'s':>6}")
    for mode, epsilon in SETTINGS:
        changed = override(study, privacy=mode, epsilon=epsilon)
        results = []
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                options = SimulationOptions(seed=seed, baselines=seed not in pooled)
                results.append(start(changed, cohorts, Path(folder) / "run", options))
            if seed not in pooled:
                pooled[seed] = results[-1].metrics["pooled"]
        show(mode, epsilon, results, [pooled[seed].mae for seed in seeds])
    everybody = list(pooled.values())
    error, within = mean(m.mae for m in everybody), mean(m.within_20_percent for m in everybody)
    print(f"{'pooled':>12} {'–':>4} {error:6.3f} {'1':>18} {within:14.2f}")


def show(mode: str, epsilon: float, results: list[SimulationResult], pooled: list[float]) -> None:
    """Print one line: means over the seeds, and the ratio with its range."""
    found = [result.metrics["federated"] for result in results]
    ratios = [one.mae / base for one, base in zip(found, pooled, strict=True)]
    spread = f"{mean(ratios):.4f} ± {stdev(ratios) if len(ratios) > 1 else 0:.4f}"
    print(
        f"{mode:>12} {'–' if mode == 'none' else f'{epsilon:g}':>4} "
        f"{mean(one.mae for one in found):6.3f} {spread:>18} "
        f"{mean(one.within_20_percent for one in found):14.2f} "
        f"{mean(result.seconds for result in results):6.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
