"""Reading large tables: `load_cohort` beside `pandas.read_csv` of the same file, time and memory.

Each case runs in a process of its own, so that its peak memory is its own; the file is written
before, and read once to be in the cache of the disk. Run: `python benchmarks/tables.py`.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_protocol.study.schema import FeatureSchema

CASES = {
    "100,000 patients, 40 columns": (100_000, 40),
    "2,000 patients, 5,000 columns": (2_000, 5_000),
}
TARGET = {"name": "dose", "unit": "mg/week", "minimum": 0, "maximum": 400, "mean": 35, "scale": 15}


def write(path: Path, rows: int, columns: int) -> None:
    """Write a table of numbers, a tenth of them missing, one column of codes and one of flags."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"id": [f"p{i:06}" for i in range(rows)]})
    values = np.round(rng.lognormal(2, 1, (rows, columns - 4)), 3)
    values[rng.random(values.shape) < 0.1] = np.nan
    numbers = pd.DataFrame(values, columns=[f"x{i}" for i in range(columns - 4)])
    frame["cyp"] = rng.choice(["*1/*1", "*1/*2", "*2/*3"], rows)
    frame["smoker"] = rng.integers(0, 2, rows)
    frame["dose"] = np.round(rng.uniform(5, 90, rows), 1)
    pd.concat([frame, numbers], axis=1).to_csv(path, index=False)


def study(columns: int) -> tuple[FeatureSchema, TableMapping]:
    """A study of all columns: as features, or as a block where there are very many."""
    number = {
        "kind": "number",
        "unit": "mg/L",
        "minimum": 0,
        "maximum": 1e6,
        "mean": 10,
        "scale": 10,
    }
    names = [f"x{i}" for i in range(columns - 4)]
    features = [
        {"name": "cyp2c9", "kind": "category", "values": ["*1/*1", "*1/*2", "*2/*3"]},
        {"name": "smoker", "kind": "flag"},
    ]
    mapping = (
        '[table]\npatient = "id"\n[target]\ncolumn = "dose"\nunit = "mg/week"\n'
        '[features.cyp2c9]\nkind = "category"\ncolumn = "cyp"\n'
        '[features.smoker]\nkind = "flag"\nany_of = ["smoker"]\n'
    )
    document: dict[str, object] = {"features": features, "target": TARGET}
    if columns <= 100:
        features += [{**number, "name": name} for name in names]
        mapping += "".join(
            f'[features.{name}]\nkind = "number"\ncolumn = "{name}"\nunit = "mg/L"\n'
            for name in names
        )
    else:
        document["blocks"] = [
            {
                "name": "expression",
                "kind": "expression",
                "unit": "log2 TPM",
                "minimum": 0,
                "maximum": 1e6,
                "genes": names,
            }
        ]
        mapping += '[blocks.expression]\nfile = "table.csv"\npatient = "id"\nunit = "log2 TPM"\n'
    return FeatureSchema.model_validate(document), TableMapping.parse(mapping)


def run(what: str, path: Path, columns: int) -> dict[str, float]:
    """Read once, and return seconds and the process's peak memory in MiB."""
    schema, mapping = study(columns)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, busy = time.perf_counter(), time.process_time()
    if what == "pandas":
        pd.read_csv(path)
    else:
        load_cohort(path, mapping, schema, site="here")
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "busy": busy, "peak": peak, "before": before}


def main() -> None:
    """Print one line a case."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (rows, columns) in CASES.items():
            path = Path(folder) / "table.csv"
            write(path, rows, columns)
            found = {}
            for what in ("pandas", "fedrx"):
                command = [sys.executable, __file__, what, str(path), str(columns)]
                found[what] = json.loads(
                    subprocess.run(command, capture_output=True, check=True).stdout
                )
            ratio = found["fedrx"]["busy"] / found["pandas"]["busy"]
            print(
                f"{name}, {path.stat().st_size / 2**20:.0f} MiB: load_cohort "
                f"{found['fedrx']['seconds']:.1f} s ({found['fedrx']['busy']:.1f} s of processor), "
                f"{found['fedrx']['peak']:.0f} MiB in all "
                f"({found['fedrx']['before']:.0f} before); pandas.read_csv "
                f"{found['pandas']['seconds']:.1f} s ({found['pandas']['busy']:.1f}), "
                f"{found['pandas']['peak']:.0f} MiB; "
                f"ratio {ratio:.1f}"
            )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
