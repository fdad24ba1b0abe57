"""Bilirubin and albumin one year ahead in primary biliary cholangitis, every flux model, one table.

    .venv/bin/python benchmarks/pbcseq.py [--models tcn,lstm] [--epsilons none,8] [--repeats 3]

The patients are those of examples/cirrhosis, 256 of 312 with two visits a year apart. What is
measured, and how, stands in `forecasts.py`. Needs the real table beside the checkout.
"""

from forecasts import Part, Patients, read, run


def prepare() -> tuple[Patients, list[Part]]:
    """All patients; both markers together, and each."""
    patients = read("cirrhosis", "pbcseq.toml", "pbcseq/pbcseq.csv")
    parts = [Part("both"), *(Part(name, pair=f"{name} 1") for name in ("bilirubin", "albumin"))]
    return patients, parts


if __name__ == "__main__":
    run(__doc__, prepare)
