"""What a report can show: plain values, gathered by the caller, each part optional.

The coordinator of a real study fills in what it knows (released metrics, bytes, dropouts); a
simulation, which owns its patients, can add exact metrics and single predictions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fedrx_common.canonical_json import finite_or_none
from fedrx_common.errors import MisuseError
from fedrx_models.metrics.registry import Measure
from fedrx_protocol.privacy.figures import Figure
from fedrx_protocol.study.study import PrivacyMode
from fedrx_server.report.forecast_data import ForecastPictures

DOSE_MEASURES = (
    Measure("mae", "Mean absolute error", "mg/week", higher_is_better=False, digits=2),
    Measure("r2", "R²"),
    Measure("within_20_percent", "Within 20 %", "% of patients", digits=1),
)
"""What a report about warfarin shows."""

RowKey = Literal["pooled", "federated", "personalised", "site_alone", "fixed", "published", "other"]


@dataclass(frozen=True)
class ResultRow:
    """One line of the table of results.

    Args:
        key: which comparison this is; the outcome in words is composed from it.
        label: its name, for a reader.
        detail: a few words more.
        values: metrics by the keys of the report's measures; an absent one is not known.
    """

    key: RowKey
    label: str
    values: Mapping[str, float]
    detail: str = ""

    def figure(self, measure: Measure) -> Figure:
        """One metric with its intervals."""
        return measure.figure(self.values)

    def value(self, measure: Measure) -> float | None:
        """One metric, if it is known and noise does not hide it."""
        return self.figure(measure).shown


@dataclass(frozen=True)
class PrivacyStatement:
    """What was spent, and under which assumption it holds.

    Args:
        mode: as in the study file.
        epsilon: spent in all; infinite in mode none.
        delta: of the promise.
        promised_epsilon: the study's promise.
        assumption: in words, e.g. "if at least 15 of 21 sites are honest and take part".
        training_epsilon: spent on patients in the training part.
        metrics_epsilon: spent on held-out patients; None if metrics are outside the promise.
        collusion: (colluding sites, epsilon against them).
    """

    mode: PrivacyMode
    epsilon: float
    delta: float
    promised_epsilon: float | None = None
    assumption: str = ""
    training_epsilon: float | None = None
    metrics_epsilon: float | None = None
    collusion: Sequence[tuple[int, float]] = ()

    @property
    def bounded(self) -> bool:
        """Whether there is a promise at all; never in mode none, whatever epsilon says."""
        return self.mode != "none" and math.isfinite(self.epsilon)

    def to_json(self) -> dict[str, Any]:
        """As results and reports hold it."""
        return {
            "mode": self.mode,
            "epsilon": finite_or_none(self.epsilon),
            "delta": self.delta,
            "promised_epsilon": self.promised_epsilon,
            "training_epsilon": finite_or_none(self.training_epsilon),
            "metrics_epsilon": finite_or_none(self.metrics_epsilon),
            "assumption": self.assumption,
            "collusion": [[count, finite_or_none(epsilon)] for count, epsilon in self.collusion],
        }


@dataclass(frozen=True)
class LearningCurve:
    """The headline metric by round.

    Args:
        rounds: rounds in which metrics were released, ascending.
        reported: what the coordinator saw, noise included.
        noise: ends of the 95 % interval of that noise, by round; empty for none.
        exact_rounds: rounds of the exact values; a simulation only.
        exact: exact values.
    """

    rounds: Sequence[int]
    reported: Sequence[float]
    noise: Sequence[tuple[float, float]] = ()
    exact_rounds: Sequence[int] = ()
    exact: Sequence[float] = ()

    def __post_init__(self) -> None:
        _same_length("learning curve", rounds=self.rounds, reported=self.reported)
        if self.noise:
            _same_length("learning curve", rounds=self.rounds, noise=self.noise)
        _same_length("learning curve", exact_rounds=self.exact_rounds, exact=self.exact)


@dataclass(frozen=True)
class Predictions:
    """Single held-out patients, in a simulation: actual and predicted dose, in the unit."""

    actual: Sequence[float]
    predicted: Sequence[float]

    def __post_init__(self) -> None:
        _same_length("predictions", actual=self.actual, predicted=self.predicted)


@dataclass(frozen=True)
class GroupErrors:
    """One model's mean absolute error by dose group, in the order of the report's groups.

    Args:
        label: the model's name.
        mae: one value for each group.
        key: as in `ResultRow`; the federated model is drawn so that it stands out.
    """

    label: str
    mae: Sequence[float]
    key: RowKey


@dataclass(frozen=True)
class DoseGroups:
    """Dose groups and the errors of a few models in them.

    Args:
        labels: e.g. "up to 21", in the report's unit.
        patients: held-out patients in each group; empty if unknown.
        models: one or more models.
    """

    labels: Sequence[str]
    models: Sequence[GroupErrors]
    patients: Sequence[int] = ()

    def __post_init__(self) -> None:
        for model in self.models:
            _same_length("dose groups", labels=self.labels, mae=model.mae)
        if self.patients:
            _same_length("dose groups", labels=self.labels, patients=self.patients)


@dataclass(frozen=True)
class BlockCurve:
    """The headline on held-out patients as their omics blocks are dropped; a simulation only.

    Args:
        dropped: shares of blocks, 0..1, ascending.
        value: exact metrics, the mean over draws of which blocks are dropped.
        low: lower ends of 95 % intervals: other draws of blocks, and of patients.
        high: upper ends.
    """

    dropped: Sequence[float]
    value: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    def __post_init__(self) -> None:
        values = {"value": self.value, "low": self.low, "high": self.high}
        _same_length("blocks dropped", dropped=self.dropped, **values)


@dataclass(frozen=True)
class Held:
    """Share of outcomes that intervals held, 0..1; None where it is not known.

    Args:
        name: of an outcome, or of a site in a simulation.
        plain: by the model's own intervals.
        calibrated: by the calibrated ones.
        patients: how many it rests on; None where it is not known.
    """

    name: str
    plain: float | None
    calibrated: float | None
    patients: int | None = None


@dataclass(frozen=True)
class Intervals:
    """How a model's intervals were calibrated.

    Args:
        in_words: what they rest on.
        released: by outcome, as a coordinator sees it.
        exact: by site, all of them together first; a simulation only.
    """

    in_words: str
    released: Sequence[Held]
    exact: Sequence[Held] = ()


@dataclass(frozen=True)
class EpsilonCurve:
    """Privacy spent by round, at the promise's delta."""

    rounds: Sequence[int]
    epsilon: Sequence[float]

    def __post_init__(self) -> None:
        _same_length("epsilon curve", rounds=self.rounds, epsilon=self.epsilon)


@dataclass(frozen=True)
class RunCost:
    """What the run took.

    Args:
        rounds: finished rounds.
        sites: sites on the roster.
        seconds: wall time.
        bytes_up: from all sites to the coordinator.
        bytes_down: from the coordinator to all sites.
        dropped_by_round: sites that fell out, first round first; empty if unknown.
        repeated_attempts: rounds that had to be tried again.
    """

    rounds: int
    sites: int
    seconds: float
    bytes_up: int
    bytes_down: int
    dropped_by_round: Sequence[int] = ()
    repeated_attempts: int = 0


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows; a part that is None or empty is left out.

    Args:
        title: heading; any text.
        study: the study's name.
        study_digest: its digest, hex.
        run: the run's id.
        finished: date and time in words, e.g. "2026-11-21 10:00 UTC".
        simulation: whether patients were simulated or owned by one machine.
        outcome: one paragraph in words; composed from the rows if empty.
        description: the study's own description.
        target: what is predicted, e.g. "warfarin dose".
        unit: its unit, e.g. "mg/week".
        measures: columns of the table of results; the first is the headline.
        rows: table of results.
        reported: the federated metrics as a coordinator sees them, noise included.
        privacy: what was spent.
        consortium: sites of the roster, (id, name); empty for a simulation.
        curve: learning curve.
        predictions: single held-out patients.
        groups: errors by dose group.
        forecast: courses, bands and errors by horizon; a simulated forecast only.
        blocks: the headline as blocks are dropped; a simulated study with blocks only.
        intervals: how they were calibrated; a study with `metrics.calibration` only.
        epsilon_curve: privacy by round.
        cost: time and bytes.
        details: further lines for the last section, (name, value).
    """

    title: str
    study: str
    study_digest: str
    run: str
    finished: str
    simulation: bool = False
    outcome: str = ""
    description: str = ""
    target: str = "dose"
    unit: str = "mg/week"
    measures: Sequence[Measure] = DOSE_MEASURES
    rows: Sequence[ResultRow] = ()
    reported: ResultRow | None = None
    privacy: PrivacyStatement | None = None
    consortium: Sequence[tuple[str, str]] = ()
    curve: LearningCurve | None = None
    predictions: Predictions | None = None
    groups: DoseGroups | None = None
    forecast: ForecastPictures | None = None
    blocks: BlockCurve | None = None
    intervals: Intervals | None = None
    epsilon_curve: EpsilonCurve | None = None
    cost: RunCost | None = None
    details: Sequence[tuple[str, str]] = field(default=())

    @property
    def headline(self) -> Measure:
        """The metric that models are compared by."""
        return self.measures[0]

    def row(self, key: RowKey) -> ResultRow | None:
        """The first row of that kind."""
        return next((row for row in self.rows if row.key == key), None)


def _same_length(part: str, **sequences: Sequence[object]) -> None:
    lengths = {name: len(values) for name, values in sequences.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise MisuseError(f"{part}: all lists must be equally long, but {told} values.")
