"""Stay or pivot: changes found and false alarms, on synthetic courses and on two real tables.

    .venv/bin/python benchmarks/stay_or_pivot.py [--only synthetic,eicu,pbcseq] [--model lstm]

Synthetic: weekly visits of patients under therapy. At a known visit the first marker begins to
drift away from its path, 0.2 to 0.4 of its scale a week, until it crosses a clinical threshold 3
scales above its reference. Found; found before a measurement crosses; the same with the early
warning of the forecast's band; and false alarms per patient-month of patients without change.

Real: eICU (hours, four regions) and pbcseq (years) as they are, with no change planted. A third of
the patients trains, a third calibrates, a third is watched, in turn. The rate of false alarms asked
for stands beside the one seen, for both levels: `calibrated` rests on how high the evidence of
calibration patients rose, `betting` on the scores alone. Needs the tables beside the checkout.
"""

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fedrx_models.calibration.conformal import ScoreGrid, ScoreTotals
from fedrx_models.calibration.crossing import crossing_probability
from fedrx_models.calibration.monitor import (
    PEAKS,
    Direction,
    Monitor,
    alarm_level,
    follow,
    level_of_rate,
    peaks,
)
from fedrx_models.calibration.scores import Arrivals, arrivals, months_per_unit
from fedrx_models.cohort.cohort import Cohort, concatenate
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import EPISODE, FIRST_VALUE, TIME
from fedrx_models.contract import Forecast, PatientModel
from fedrx_models.fitting import fit
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection
from fedrx_simulation.cohorts.flux import FluxCohorts, generate_flux

Streams = tuple[tuple[str, float], ...]
Training = Callable[[Cohort], PatientModel]

RATE = 0.05
THRESHOLD, WARN_FROM = 80.0, 0.5
UNITS = 240  # that a patient's scores share
FEWEST_VISITS = 20  # of a course in which a change is planted
MARKERS = ("viral_load", "albumin", "platelets")


@dataclass(frozen=True)
class Watched:
    """A calibrated monitor, and the level for a rate of false alarms."""

    monitor: Monitor
    reached: ScoreTotals
    months: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="synthetic,eicu,pbcseq")
    parser.add_argument("--model", default="linear_mixed")
    parser.add_argument("--patients", type=int, default=600, help="of each synthetic part")
    told = parser.parse_args()
    torch.set_num_threads(1)
    parts = told.only.split(",")
    if "synthetic" in parts:
        synthetic(told.model, told.patients)
    if "eicu" in parts:
        from eicu_data import DATA, cohorts  # noqa: PLC0415 - reads the table's place

        if DATA.is_dir():
            pooled = concatenate(list(cohorts("region").values()))
            streams = (("map", 6.0), ("glu", 6.0), ("crea", 24.0))
            real("eicu", in_rounds(told.model), pooled, streams, (0.02, 0.05, 0.1))
        else:
            print("REAL DATA MISSING: eicu was not measured.")
    if "pbcseq" in parts:
        from forecasts import read  # noqa: PLC0415 - reads the table's place

        pooled = read("cirrhosis", "pbcseq.toml", "pbcseq/pbcseq.csv").cohort
        real("pbcseq", fitted(told.model), pooled, (("bilirubin", 1.0),), (0.002, 0.005, 0.01))


def watched(model: PatientModel, quiet: Cohort, streams: Streams, direction: Direction) -> Watched:
    """Calibrate on patients without change who did not train the model."""
    courses, grid = arrivals(model, quiet, streams), ScoreGrid.of_signed(UNITS)
    totals = []
    for stream in range(len(streams)):
        own: list[list[np.ndarray]] = [[] for _ in range(len(quiet))]
        for course in courses:
            own[course.patient].append(course.scores[:, stream])
        joined = [np.concatenate([np.zeros(0), *some]) for some in own]
        totals.append(ScoreTotals(grid, grid.total([one[~np.isnan(one)] for one in joined])))
    per_unit = months_per_unit(model.schema)
    monitor = Monitor(tuple(totals), direction, per_unit, level_of_rate(RATE))
    reached = ScoreTotals(PEAKS, PEAKS.total(peaks(monitor, courses, len(quiet))))
    return Watched(monitor, reached, months_of(courses, per_unit))


def months_of(courses: tuple[Arrivals, ...], per_unit: float) -> float:
    """Patient-months that were followed."""
    return sum(course.end - course.start for course in courses) * per_unit


def seen(how: Watched, model: PatientModel, cohort: Cohort, streams: Streams) -> np.ndarray:
    """Highest evidence of each watched patient, `(n,)`, and the months as the last number."""
    courses = arrivals(model, cohort, streams)
    tops = [one[0] for one in peaks(how.monitor, courses, len(cohort)) if len(one)]
    return np.array([*tops, months_of(courses, how.monitor.months_per_unit)])


def real(
    name: str, train: Training, cohort: Cohort, streams: Streams, rates: tuple[float, ...]
) -> None:
    """Asked and seen rates, every third of the patients watched in turn."""
    print(f"\n{name}: {len(cohort)} patients, {', '.join(f'{m} {h:g}' for m, h in streams)}")
    order = np.random.default_rng(0).permutation(len(cohort)) % 3
    parts = [cohort.select(order == i) for i in range(3)]
    alarms: dict[tuple[float, str], int] = {}
    months = 0.0
    for i in range(3):
        training, quiet, test = (parts[(i + j) % 3] for j in range(3))
        model = train(training)
        how = watched(model, quiet, streams, "both")
        *tops, followed = seen(how, model, test, streams)
        months += followed
        for rate in rates:
            levels = {
                "calibrated": alarm_level(how.reached, how.months, rate),
                "betting": level_of_rate(rate),
            }
            for kind, level in levels.items():
                alarms[rate, kind] = alarms.get((rate, kind), 0) + int(
                    (np.array(tops) >= level).sum()
                )
    print(f"{months:.0f} patient-months{'asked':>10}{'calibrated':>22}{'betting':>22}")
    for rate in rates:
        told = "".join(
            f"{alarms[rate, kind] / months:12.4f} ({alarms[rate, kind]:4})  "
            for kind in ("calibrated", "betting")
        )
        print(f"{rate:25g}{told}", flush=True)


def fitted(name: str) -> Training:
    """One fit without privacy."""
    return lambda cohort: fit(
        build_model(ModelSection(name=name), cohort.schema, seed=0), cohort, 0
    )


def in_rounds(name: str) -> Training:
    """Rounds without privacy, as `eicu.py` trains: a fit of such long courses takes too long."""
    from eicu import RECIPES, train  # noqa: PLC0415 - reads the table's place

    def trained(cohort: Cohort) -> PatientModel:
        model = build_model(ModelSection(name=name), cohort.schema, seed=0)
        train(model, [encode(cohort, cohort.schema)], RECIPES[name], None, 0)
        return model

    return trained


def synthetic(name: str, patients: int) -> None:
    """Changes of three speeds."""
    train, quiet, test = (drawn(patients, seed) for seed in (1, 2, 3))
    model, streams = fitted(name)(train), ((MARKERS[0], 7.0), (MARKERS[0], 28.0))
    how = watched(model, quiet, streams, "up")
    level = alarm_level(how.reached, how.months, RATE)
    *tops, months = seen(how, model, test, streams)
    crossed = int((np.array(tops) >= level).sum())
    print(f"synthetic, {name}: asked for {RATE} false alarms a patient-month")
    print(
        f"without change: {crossed} of {len(tops)} in {months:.0f} months = {crossed / months:.4f}"
    )
    print(f"{'drift':>8}{'courses':>9}{'found':>9}{'before':>9}{'either':>9}{'lead, days':>12}")
    for slope in (0.2, 0.3, 0.4):
        cohort, begun = changed(test, slope)
        marked = dataclasses.replace(how.monitor, level=level)
        print(f"{slope:8}{tell(marked, model, cohort, begun, streams)}", flush=True)


def tell(
    monitor: Monitor,
    model: PatientModel,
    cohort: Cohort,
    begun: np.ndarray,
    streams: Streams,
) -> str:
    """Shares of courses in which the change was found, and before the threshold was crossed."""
    predicted = model.predict(encode(cohort, cohort.schema))
    if not isinstance(predicted, Forecast):
        raise TypeError("a course has a forecast.")
    chances = crossing_probability(cohort.schema, predicted, MARKERS[0], THRESHOLD, above=True).max(
        axis=2
    )
    found, before, either, leads = [], [], [], []
    for course in arrivals(model, cohort, streams):
        i = course.patient
        valid = ~np.isnan(cohort.visits[i, :, TIME])
        times, values = cohort.visits[i, valid, TIME], cohort.visits[i, valid, FIRST_VALUE]
        crossing = times[(values >= THRESHOLD) & (times >= begun[i])]
        if not len(crossing):
            continue
        evidence = follow(monitor, course)
        alarm = course.times[(evidence >= monitor.level) & (course.times >= begun[i])]
        warned = times[(chances[i, valid] >= WARN_FROM) & (times >= begun[i])]
        first = alarm[0] if len(alarm) else np.inf
        found.append(len(alarm) > 0)
        before.append(first < crossing[0])
        either.append(min(first, *warned[:1], np.inf) < crossing[0])
        leads.append(crossing[0] - first)
    shares = "".join(f"{100 * np.mean(one):7.1f} %" for one in (found, before, either))
    return f"{len(found):9}{shares}{np.median(leads):12.0f}"


def changed(cohort: Cohort, slope: float) -> tuple[Cohort, np.ndarray]:
    """The first episodes of long courses, whose first marker drifts from a known visit on."""
    rng, visits = np.random.default_rng(5), cohort.visits.copy()
    begun = np.full(len(cohort), np.nan)
    for i in range(len(cohort)):
        valid = np.flatnonzero(~np.isnan(visits[i, :, TIME]))
        first = valid[visits[i, valid, EPISODE] == visits[i, valid[0], EPISODE]]
        visits[i, np.setdiff1d(valid, first)] = np.nan
        if len(first) < FEWEST_VISITS:
            continue
        begun[i] = visits[i, first[rng.integers(6, 10)], TIME]
        drift = np.maximum(visits[i, first, TIME] - begun[i], 0.0) / 7 * slope * 10
        visits[i, first, FIRST_VALUE] = np.minimum(visits[i, first, FIRST_VALUE] + drift, 200.0)
    kept = np.flatnonzero(~np.isnan(begun))
    ids = tuple(cohort.patients[i] for i in kept)
    nothing = np.zeros((len(kept), 0))
    return Cohort(cohort.site, cohort.schema, ids, {}, nothing, visits=visits[kept]), begun[kept]


def drawn(patients: int, seed: int) -> Cohort:
    """Patients of one site."""
    knobs = FluxCohorts(
        schema(), 1, (patients, patients), heterogeneity=0.0, measurement_shift=0.0, seed=seed
    )
    (cohort,) = generate_flux(knobs).values()
    return cohort


def schema() -> FeatureSchema:
    """Three markers in weekly visits, one of them under therapy."""
    usual = {"unit": "mg/L", "minimum": -100.0, "maximum": 200.0, "mean": 50.0, "scale": 10.0}
    drug = {"name": "drug", "kind": "amount", "unit": "mg", "maximum": 50.0, "scale": 10.0}
    horizons = [
        {"at": 7.0, "window": [4.0, 10.0], "change": 0.5},
        {"at": 28.0, "window": [24.0, 32.0], "change": 0.8},
    ]
    return FeatureSchema.model_validate(
        {
            "features": [],
            "visits": {"time_unit": "day", "most": 40},
            "markers": [{"name": name, **usual} for name in MARKERS],
            "treatments": [drug],
            "target": {
                "kind": "forecast",
                "name": "course",
                "markers": list(MARKERS),
                "horizons": horizons,
            },
        }
    )


if __name__ == "__main__":
    main()
