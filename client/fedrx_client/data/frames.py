"""A cohort as pandas DataFrames, for a notebook at the hospital; nothing here is sent anywhere."""

import numpy as np
import pandas as pd

from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.visits import EPISODE, FIRST_VALUE, TIME
from fedrx_protocol.study.schema import (
    CategoryFeature,
    FlagFeature,
    ForecastTarget,
    PanelTarget,
    SurvivalTarget,
)


def cohort_frame(cohort: Cohort) -> pd.DataFrame:
    """Return one row a patient, indexed by patient id, in the study's units.

    Numbers are float64 with NaN where missing; categories are pandas categories of the study's
    values; flags are `boolean`, which knows missing. A gene of a block is the column `block.gene`.
    The target's columns come last; a forecast has none, as it follows from the visits.
    """
    schema, columns = cohort.schema, dict[str, object]()
    for feature in schema.features:
        values = cohort.values[feature.name]  # noqa: PD011 - not a frame
        if isinstance(feature, CategoryFeature):
            codes = values.astype(np.int16)
            columns[feature.name] = pd.Categorical.from_codes(codes, pd.Index(feature.values))
        elif isinstance(feature, FlagFeature):
            missing = values < 0 if values.dtype.kind == "i" else np.zeros(len(values), np.bool_)
            columns[feature.name] = pd.arrays.BooleanArray(values.astype(np.bool_), missing)
        else:
            columns[feature.name] = values
    for block in schema.blocks:
        genes = cohort.blocks[block.name]
        columns |= {f"{block.name}.{gene}": genes[:, i] for i, gene in enumerate(block.genes)}
    target = schema.target
    if isinstance(target, PanelTarget):
        columns |= {drug.name: cohort.target[:, i] for i, drug in enumerate(target.drugs)}
    elif isinstance(target, SurvivalTarget):
        columns |= {target.name: cohort.target[:, 0], "event": cohort.target[:, 1].astype(np.bool_)}
    elif not isinstance(target, ForecastTarget):
        columns[target.name] = cohort.target
    return pd.DataFrame(columns, index=pd.Index(cohort.patients, name="patient"))


def visits_frame(cohort: Cohort) -> pd.DataFrame:
    """Return one row a visit, indexed by patient id and the visit's number, from 0.

    Columns are `time` and `episode`, then the study's markers (NaN where missing) and treatments.
    """
    schema, visits = cohort.schema, cohort.visits
    names = [*(m.name for m in schema.markers), *(t.name for t in schema.treatments)]
    if not visits.size:
        index = pd.MultiIndex.from_arrays([[], []], names=["patient", "visit"])
        return pd.DataFrame(columns=["time", "episode", *names], index=index)
    rows, numbers = np.nonzero(~np.isnan(visits[:, :, TIME]))
    there = visits[rows, numbers]
    index = pd.MultiIndex.from_arrays(
        [[cohort.patients[row] for row in rows], numbers], names=["patient", "visit"]
    )
    columns = {"time": there[:, TIME], "episode": there[:, EPISODE].astype(np.int64)}
    columns |= {name: there[:, FIRST_VALUE + i] for i, name in enumerate(names)}
    return pd.DataFrame(columns, index=index)
