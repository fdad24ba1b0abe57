"""`fedrx monitor` as a site runs it, on the synthetic courses of `stay_or_pivot`.

    .venv/bin/python benchmarks/clinic_monitor.py [--model linear_mixed] [--patients 400]

All markers and horizons are watched in both directions, and the rate of false alarms is shared by
them. False alarms are counted in patients without change; found, and found before a measurement
crosses the threshold, in patients whose first marker drifts from a known visit on. With a
calibration on other patients, and with the model's own band at its word.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from stay_or_pivot import RATE, THRESHOLD, changed, drawn, trained

from fedrx_client.clinic.monitor import MonitorCalibration, calibrate, watch
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import EPISODE, FIRST_VALUE, TIME
from fedrx_models.files import ModelFile, load_model, save_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="linear_mixed")
    parser.add_argument("--patients", type=int, default=400, help="of each part")
    told = parser.parse_args()
    torch.set_num_threads(1)
    train, quiet, test = (drawn(told.patients, seed) for seed in (1, 2, 3))
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(Path(folder) / "m.safetensors", trained(told.model, train), "benchmark")
        model = load_model(path)
    for name, kept in (("calibrated", calibrate(model, quiet)), ("own band", None)):
        alarms, months = _false(model, test, kept)
        print(
            f"{name}: {alarms} false alarms in {months:.0f} patient-months = "
            f"{alarms / months:.3f}, asked for {RATE}"
        )
        for slope in (0.2, 0.3, 0.4):
            count, found, before = _found(model, *changed(test, slope), kept)
            print(
                f"  drift {slope}: {count} courses, {100 * found:.1f} % found, "
                f"{100 * before:.1f} % before the threshold",
                flush=True,
            )


def _false(model: ModelFile, cohort: Cohort, kept: MonitorCalibration | None) -> tuple[int, float]:
    alarms, months = 0, 0.0
    for i in range(len(cohort)):
        found = watch(model, cohort.select([i]), (), kept, RATE)
        alarms += any(one.alarmed is not None for one in found.markers)
        rows = cohort.visits[i][~np.isnan(cohort.visits[i, :, TIME])]
        times = rows[rows[:, EPISODE] == rows[-1, EPISODE], TIME]
        months += (times[-1] - times[0]) / 30.4375
    return alarms, months


def _found(
    model: ModelFile, cohort: Cohort, begun: np.ndarray, kept: MonitorCalibration | None
) -> tuple[int, float, float]:
    found, before = [], []
    for i in range(len(cohort)):
        rows = cohort.visits[i][~np.isnan(cohort.visits[i, :, TIME])]
        beyond = (rows[:, FIRST_VALUE] >= THRESHOLD) & (rows[:, TIME] >= begun[i])
        if not beyond.any():
            continue
        alarmed = watch(model, cohort.select([i]), (), kept, RATE).markers[0].alarmed
        first = alarmed if alarmed is not None and alarmed >= begun[i] else np.inf
        found.append(first < np.inf)
        before.append(first < rows[beyond, TIME][0])
    return len(found), float(np.mean(found)), float(np.mean(before))


if __name__ == "__main__":
    main()
