"""The open demo of the eICU database as a flux study, for `eicu.py`: six markers, four regions.

Reference means and scales are round numbers that any intensive care unit could name; they need not
fit these patients, and are not computed from them. Creatinine is taken as it is, not its logarithm:
errors count in mg/dL, and most of them are made where it is high. A reading outside the plausible
range is a broken sensor or a slip of the pen, and counts as not measured.
"""

import csv
import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import FIRST_VALUE
from fedrx_protocol.study.schema import FeatureSchema

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "eicu_demo"
VISITS = 168
TARGETS = ("hr", "sbp", "map", "glu", "crea", "hgb")

# name: unit, minimum, maximum, mean, scale, transform; for a logarithm mean and scale are its own.
_MARKERS: dict[str, tuple[str, float, float, float, float, str]] = {
    "hr": ("/min", 10, 250, 85, 18, "none"),
    "sbp": ("mmHg", 30, 280, 122, 23, "none"),
    "map": ("mmHg", 15, 250, 82, 16, "none"),
    "glu": ("mg/dL", 10, 1000, 150, 60, "none"),
    "crea": ("mg/dL", 0.1, 20, 1.5, 1.5, "none"),
    "hgb": ("g/dL", 2, 25, 10.5, 2.2, "none"),
    "dbp": ("mmHg", 10, 200, 65, 15, "none"),
    "resp": ("/min", 2, 120, 20, 6, "none"),
    "o2sat": ("%", 50, 100, 97, 3, "none"),
    "temp": ("C", 30, 43, 37, 0.7, "none"),
    "k": ("mmol/L", 1.5, 9, 4, 0.6, "none"),
    "na": ("mmol/L", 100, 180, 139, 6, "none"),
    "bun": ("mg/dL", 1, 250, 3.1, 0.7, "log"),
    "plt": ("K/uL", 5, 1500, 5.1, 0.6, "log"),
    "wbc": ("K/uL", 0.1, 500, 2.3, 0.6, "log"),
    "bicar": ("mmol/L", 3, 60, 25, 5, "none"),
    "lact": ("mmol/L", 0.2, 35, 0.7, 0.7, "log"),
}
# at: window, typical change until then in scales.
_HORIZONS = {1: ((1, 1), 0.3), 6: ((5, 7), 0.45), 24: ((21, 27), 0.6)}
# What physiology ties together: pressures, perfusion, kidney, oxygen, glucose and stress.
EDGES = (
    ("sbp", "map"), ("dbp", "map"), ("sbp", "dbp"), ("hr", "map"), ("hr", "resp"), ("hr", "temp"),
    ("hr", "sbp"), ("resp", "o2sat"), ("resp", "bicar"), ("bicar", "lact"), ("map", "lact"),
    ("map", "crea"), ("crea", "bun"), ("crea", "k"), ("k", "glu"), ("na", "glu"), ("glu", "lact"),
    ("bicar", "k"), ("hgb", "hr"), ("hgb", "plt"), ("hgb", "map"), ("wbc", "temp"), ("wbc", "plt"),
)  # fmt: skip


def schema() -> FeatureSchema:
    """Seventeen markers, of which six are forecast 1, 6 and 24 hours ahead."""
    keys = ("unit", "minimum", "maximum", "mean", "scale", "transform")
    return FeatureSchema.model_validate(
        {
            "visits": {"time_unit": "hour", "most": VISITS},
            "markers": [
                {"name": name, **dict(zip(keys, said, strict=True))}
                for name, said in _MARKERS.items()
            ],
            "features": [
                {"name": "age", "kind": "number", "unit": "year", "minimum": 0, "maximum": 120,
                 "mean": 63, "scale": 17},
                {"name": "female", "kind": "flag"},
            ],
            "target": {
                "kind": "forecast",
                "name": "course",
                "markers": list(TARGETS),
                "horizons": [
                    {"at": at, "window": window, "change": change}
                    for at, (window, change) in _HORIZONS.items()
                ],
            },
            "graph": {"edges": [list(edge) for edge in EDGES]},
        }
    )  # fmt: skip


def cohorts(by: str = "region") -> dict[str, Cohort]:
    """Each site's patients: one of four regions (patients of none are left out), or hospitals."""
    stays = _stays(by)
    hours = _hours()
    by_site: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for stay in stays:
        if stay["stay_id"] in hours:
            by_site[stay["site"]][stay["uniquepid"]].append(stay)
    return {
        site: _cohort(site, patients, hours)
        for site, patients in sorted(by_site.items())
        if site not in ("", "missing", "NA")
    }


def _stays(by: str) -> list[dict[str, str]]:
    """Rows of the table of stays, with the site that each belongs to: the first of the patient."""
    with (DATA / "patients.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows.sort(key=lambda row: (row["uniquepid"], int(row["unitvisitnumber"]), int(row["stay_id"])))
    site: dict[str, str] = {}
    column = "region" if by == "region" else "hospitalid"
    for row in rows:
        row["site"] = site.setdefault(row["uniquepid"], row[column])
    return rows


def _hours() -> dict[str, list[list[float]]]:
    """By stay, rows of time and markers, in order of time."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    with gzip.open(DATA / "hourly.csv.gz", "rt", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = [_plausible(name, row[name]) for name in _MARKERS]
            found[row["stay_id"]].append([float(row["hour"]), *values])
    return {stay: sorted(rows) for stay, rows in found.items()}


def _plausible(name: str, text: str) -> float:
    value = float(text) if text else np.nan
    _, minimum, maximum, *_ = _MARKERS[name]
    return value if minimum <= value <= maximum else np.nan


def _cohort(
    site: str, patients: dict[str, list[dict[str, str]]], hours: dict[str, list[list[float]]]
) -> Cohort:
    names = tuple(patients)
    width = FIRST_VALUE + len(_MARKERS)
    visits = np.full((len(names), VISITS, width), np.nan)
    ages, females = np.full(len(names), np.nan), np.zeros(len(names), dtype=bool)
    for i, stays in enumerate(patients.values()):
        rows = _course(stays, hours)[-VISITS:]
        visits[i, : len(rows)] = rows
        ages[i] = float(stays[0]["age"] or "nan")
        females[i] = stays[0]["gender"] == "Female"
    return Cohort(
        site=f"site-{site}",
        schema=schema(),
        patients=names,
        values={"age": ages, "female": females},
        target=np.zeros((len(names), 0)),
        visits=visits,
    )


def _course(
    stays: list[dict[str, str]], hours: dict[str, list[list[float]]]
) -> NDArray[np.float64]:
    """A patient's stays one after the other: hour, number of the stay, markers."""
    parts = []
    for number, stay in enumerate(stays):
        rows = np.array(hours[stay["stay_id"]])
        parts.append(np.insert(rows, 1, float(number), axis=1))
    return np.concatenate(parts)
