"""What a comparison says: means with intervals, and a paired test of each model with the first."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedrx_models.metrics.registry import Measure, measures_of
from fedrx_simulation.comparison.compare import (
    Cell,
    CellResult,
    ComparisonPlan,
    Scheme,
    headline_of,
)

Floats = NDArray[np.float64]
Results = Mapping[Cell, CellResult]
Scores = Mapping[int, float]
UNITS: Mapping[str, str] = {"panel": "drugs"}
"""What the paired test counts; patients for all other outcomes."""

_SINGLE = "ratio "
"""What a forecast's metrics put before the name of a marker and horizon."""

PERSONALISED = ", personalised"
"""What stands behind a model's name where each site has put a private head on it."""

_SAME = 1e-9  # by no more than this of the largest do differences differ that are all alike


@dataclass(frozen=True)
class ComparedModel:
    """One line of the table.

    Attributes:
        model: its name.
        means: metrics by key, averaged over what was left out and over seeds.
        interval: 95 % interval of the headline's mean; `None` for fewer than two values.
        single: of a forecast, by marker and horizon: the mean error relative to the last value,
            and the 95 % interval of that.
        difference: mean of the paired score minus the first model's; below 0 is better. `None`
            for the first model.
        difference_interval: 95 % interval of that.
        p: of the paired t-test of that mean; `None` for fewer than two pairs, or no difference.
        pairs: how many units both models have a score for; each counts once, whatever the repeats.
    """

    model: str
    means: Mapping[str, float]
    interval: tuple[float, float] | None
    single: Mapping[str, tuple[float, tuple[float, float] | None]] = field(default_factory=dict)
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    p: float | None = None
    pairs: int = 0


@dataclass(frozen=True)
class ComparisonTable:
    """One scheme's table.

    Attributes:
        scheme: whether folds or sites were left out.
        headline: the metric that the interval is about.
        measures: all metrics of this outcome.
        unit: what the paired test counts.
        models: in the order in which they were named.
    """

    scheme: Scheme
    headline: Measure
    measures: tuple[Measure, ...]
    unit: str
    models: tuple[ComparedModel, ...]


def tables(plan: ComparisonPlan, found: Mapping[Cell, CellResult]) -> tuple[ComparisonTable, ...]:
    """A table for each scheme."""
    schemes = sorted({cell.scheme for cell in found})
    return tuple(_table(plan, found, scheme) for scheme in schemes)


def _table(
    plan: ComparisonPlan, found: Mapping[Cell, CellResult], scheme: Scheme
) -> ComparisonTable:
    measures = measures_of(plan.target)
    headline = next(one for one in measures if one.key == headline_of(plan))
    by_model: dict[str, Results] = {}
    for model in plan.studies:
        results = {c: r for c, r in found.items() if c.model == model and c.scheme == scheme}
        by_model[model] = results
        personal = {c: r.personal for c, r in results.items() if r.personal is not None}
        if personal:
            by_model[f"{model}{PERSONALISED}"] = personal
    first, *_ = plan.studies
    share = 1 / (plan.folds - 1) if scheme == "folds" else 0.0
    scores = {model: _scores(results.values()) for model, results in by_model.items()}
    return ComparisonTable(
        scheme=scheme,
        headline=headline,
        measures=measures,
        unit=UNITS.get(plan.target.kind, "patients"),
        models=tuple(
            _line(
                model,
                results,
                headline.key,
                share=share,
                own=scores[model],
                first=scores[first],
            )
            for model, results in by_model.items()
        ),
    )


def _line(
    model: str,
    results: Results,
    key: str,
    *,
    share: float,
    own: Scores,
    first: Scores,
) -> ComparedModel:
    keys = {name for result in results.values() for name in result.metrics}
    values = {name: _values(results, name) for name in keys}
    means = {name: float(one.mean()) for name, one in values.items()}
    interval = _within_range(key, mean_interval(values.get(key, np.zeros(0)), share))
    single = _single(values, share)
    if own is first:
        return ComparedModel(model, means, interval, single)
    differences = np.array([score - first[unit] for unit, score in own.items() if unit in first])
    return ComparedModel(
        model=model,
        means=means,
        interval=interval,
        single=single,
        difference=float(differences.mean()) if differences.size else None,
        difference_interval=mean_interval(differences, 0.0),
        p=paired_p(differences),
        pairs=len(differences),
    )


def _single(
    values: Mapping[str, Floats], share: float
) -> dict[str, tuple[float, tuple[float, float] | None]]:
    """Mean and interval of each marker and horizon of a forecast."""
    return {
        name.removeprefix(_SINGLE): (
            float(one.mean()),
            _within_range("ratio", mean_interval(one, share)),
        )
        for name, one in sorted(values.items())
        if name.startswith(_SINGLE)
    }


def _within_range(key: str, ends: tuple[float, float] | None) -> tuple[float, float] | None:
    """An interval cut to what the metric can be; few folds give very wide ones."""
    if ends is None:
        return None
    least, most = {
        "mae": (0.0, math.inf),
        "ratio": (0.0, math.inf),
        "correlation": (-1.0, 1.0),
    }.get(key, (0.0, 1.0))
    return max(least, ends[0]), min(most, ends[1])


def _values(results: Results, name: str) -> Floats:
    """One metric, of every fold of every repeat, or of every site, averaged over repeats.

    A site's repeats share its patients, so they are no further sites; repeated folds overlap, which
    `mean_interval` knows.
    """
    by_part: dict[tuple[str, int], list[float]] = {}
    for cell, result in results.items():
        if name in result.metrics:
            repeat = 0 if cell.scheme == "sites" else cell.seed
            by_part.setdefault((cell.part, repeat), []).append(result.metrics[name])
    return np.array([np.mean(found) for found in by_part.values()])


def _scores(results: Iterable[CellResult]) -> Scores:
    """Paired scores of one model: each patient's, or drug's, averaged over all cells."""
    by_unit: dict[int, list[float]] = {}
    for result in results:
        for unit, score in zip(result.units, result.scores, strict=True):
            if score is not None:
                by_unit.setdefault(unit, []).append(score)
    return {unit: float(np.mean(found)) for unit, found in by_unit.items()}


def mean_interval(values: Floats, share: float) -> tuple[float, float] | None:
    """95 % t-interval of a mean, `None` for fewer than two values.

    Args:
        values: `(n,)`.
        share: test patients for each training patient where the values come from overlapping
            training sets, which makes them vary together. Source of the correction: Nadeau and
            Bengio, Machine Learning 2003;52:239-81, eq. 9.
    """
    count = len(values)
    if count < 2:
        return None
    spread = float(values.std(ddof=1)) * math.sqrt(1 / count + share)
    reach = float(stats.t.ppf(0.975, count - 1)) * spread
    return float(values.mean()) - reach, float(values.mean()) + reach


def paired_p(differences: Floats) -> float | None:
    """Two-sided paired t-test of the mean; `None` for fewer than two pairs, or if none differs.

    It asks what "better" and "worse" say, and is below 0.05 just where the 95 % interval of the
    mean leaves out 0. A test of ranks asks something else, and can point the other way. Source:
    Student, Biometrika 1908;6:1-25.

    Args:
        differences: of a patient's, or drug's, two scores, `(n,)`.
    """
    if len(differences) < 2 or not differences.any():
        return None
    if np.ptp(differences) <= _SAME * np.abs(differences).max():  # SciPy would warn of precision
        return 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)
