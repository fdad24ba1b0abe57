"""What a comparison says: means with intervals, and a paired test of each model with the first."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

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
"""Follows a model's name where each site has put a private head on it."""

_SAME = 1e-9  # differences are all alike if they differ by at most this share of the largest


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
    """Make a table for each scheme."""
    measures = measures_of(plan.target)
    headline = next(one for one in measures if one.key == headline_of(plan))
    first, *_ = plan.studies
    made = []
    for scheme in sorted({cell.scheme for cell in found}):
        by_model: dict[str, Results] = {}
        for model in plan.studies:
            results = {c: r for c, r in found.items() if c.model == model and c.scheme == scheme}
            by_model[model] = results
            personal = {c: r.personal for c, r in results.items() if r.personal is not None}
            if personal:
                by_model[f"{model}{PERSONALISED}"] = personal
        share = 1 / (plan.folds - 1) if scheme == "folds" else 0.0
        reference = _scores(by_model[first].values())
        lines = tuple(
            _line(model, results, headline.key, share, None if model == first else reference)
            for model, results in by_model.items()
        )
        unit = UNITS.get(plan.target.kind, "patients")
        made.append(ComparisonTable(scheme, headline, measures, unit, lines))
    return tuple(made)


def _line(
    model: str, results: Results, key: str, share: float, reference: Scores | None
) -> ComparedModel:
    """Describe one model.

    Args:
        model: its name.
        results: its cells.
        key: the headline's.
        share: as for `mean_interval`.
        reference: the first model's scores; `None` for that model itself.
    """
    # A site's repeats share its patients, so they are not further sites and are averaged; repeated
    # folds overlap, which `mean_interval` knows.
    parts: dict[str, dict[tuple[str, int], list[float]]] = {}
    for cell, result in results.items():
        repeat = 0 if cell.scheme == "sites" else cell.seed
        for name, value in result.metrics.items():
            parts.setdefault(name, {}).setdefault((cell.part, repeat), []).append(value)
    values = {
        name: np.array([np.mean(part) for part in by_part.values()])
        for name, by_part in parts.items()
    }
    line = ComparedModel(
        model=model,
        means={name: float(one.mean()) for name, one in values.items()},
        interval=_within_range(key, mean_interval(values.get(key, np.zeros(0)), share)),
        single={
            name.removeprefix(_SINGLE): (
                float(one.mean()),
                _within_range("ratio", mean_interval(one, share)),
            )
            for name, one in sorted(values.items())
            if name.startswith(_SINGLE)
        },
    )
    if reference is None:
        return line
    own = _scores(results.values())
    differences = np.array([own[unit] - reference[unit] for unit in own if unit in reference])
    return replace(
        line,
        difference=float(differences.mean()) if differences.size else None,
        difference_interval=mean_interval(differences, 0.0),
        p=paired_p(differences),
        pairs=len(differences),
    )


def _within_range(key: str, ends: tuple[float, float] | None) -> tuple[float, float] | None:
    """Cut an interval to what the metric can be; few folds give very wide ones."""
    if ends is None:
        return None
    least, most = {
        "mae": (0.0, math.inf),
        "ratio": (0.0, math.inf),
        "correlation": (-1.0, 1.0),
    }.get(key, (0.0, 1.0))
    return max(least, ends[0]), min(most, ends[1])


def _scores(results: Iterable[CellResult]) -> Scores:
    """Average the paired scores of one model over all cells, by patient or by drug."""
    by_unit: dict[int, list[float]] = {}
    for result in results:
        for unit, score in zip(result.units, result.scores, strict=True):
            if score is not None:
                by_unit.setdefault(unit, []).append(score)
    return {unit: float(np.mean(found)) for unit, found in by_unit.items()}


def mean_interval(values: Floats, share: float) -> tuple[float, float] | None:
    """Compute the 95 % t-interval of a mean; `None` for fewer than two values.

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
    """Compute p of a two-sided paired t-test; `None` for fewer than two pairs, or no difference.

    It tests what "better" and "worse" say, and is below 0.05 exactly where the 95 % interval of the
    mean leaves out 0. A test of ranks tests something else, and can point the other way. Source:
    Student, Biometrika 1908;6:1-25.

    Args:
        differences: of a patient's, or drug's, two scores, `(n,)`.
    """
    if len(differences) < 2 or not differences.any():
        return None
    if np.ptp(differences) <= _SAME * np.abs(differences).max():  # SciPy would warn of precision
        return 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)
