"""CD4 at the next visit by treatment arm, every flux model, one table.

    .venv/bin/python benchmarks/aids.py [--models tcn,lstm] [--epsilons none,8] [--repeats 3]

The patients are those of examples/hiv, 406 of 467 who were seen more than once. What is measured,
and how, stands in `forecasts.py`. Needs the real table beside the checkout.
"""

from forecasts import Part, Patients, read, run

from fedrx_models.cohort.visits import FIRST_VALUE


def prepare() -> tuple[Patients, list[Part]]:
    """All patients; both arms together, and each."""
    patients = read("hiv", "aids.toml", "aids/aids_ddI_ddC.csv")
    schema = patients.cohort.schema
    didanosine = patients.cohort.visits[:, 0, FIRST_VALUE + len(schema.markers)] == 1
    return patients, [Part("both arms"), Part("ddI", didanosine), Part("ddC", ~didanosine)]


if __name__ == "__main__":
    run(__doc__, prepare)
