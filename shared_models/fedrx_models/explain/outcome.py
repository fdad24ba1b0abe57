"""Which number of a prediction is explained: on the scale a person is shown, with a gradient."""

from dataclasses import dataclass

import torch

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.visits import VisitColumns, visits_section
from fedrx_models.contract import PatientModel
from fedrx_protocol.study.schema import (
    BinaryTarget,
    ContinuousTarget,
    FeatureSchema,
    ForecastTarget,
    PanelTarget,
    SurvivalTarget,
)


@dataclass(frozen=True)
class Question:
    """Which number of a patient's prediction to explain; what does not apply must stay `None`.

    Attributes:
        drug: of a panel; `None` asks about its first.
        marker: of a forecast; `None` asks about its first.
        horizon: time ahead of a forecast, in the study's unit; `None` asks about the longest.
    """

    drug: str | None = None
    marker: str | None = None
    horizon: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The number that is explained.

    Attributes:
        name: the study's target, drug or marker.
        kind: of the target.
        unit: of the number; "" for a probability.
        place: position of the drug, or of the marker among the target's.
        step: position of the horizon.
        horizon: time ahead with its unit, as "24 hours"; "" where there is none.
    """

    name: str
    kind: str
    unit: str
    place: int = 0
    step: int = 0
    horizon: str = ""


def outcome_of(schema: FeatureSchema, question: Question) -> Outcome:
    """Find what a question asks about.

    Raises:
        MisuseError: the study has no such drug, marker or horizon, or none of the kind.
    """
    target = schema.target
    given = {"drug": question.drug, "marker": question.marker, "horizon": question.horizon}
    fitting = {"panel": {"drug"}, "forecast": {"marker", "horizon"}}.get(target.kind, set())
    for key, value in given.items():
        if value is not None and key not in fitting:
            raise MisuseError(f"a {target.kind} outcome has no {key}: leave '{value}' out.")
    if isinstance(target, PanelTarget):
        names = tuple(drug.name for drug in target.drugs)
        place = _position(question.drug, names, "drug")
        return Outcome(names[place], target.kind, target.unit, place)
    if isinstance(target, ForecastTarget):
        place = _position(question.marker, target.markers, "marker")
        times = tuple(horizon.at for horizon in target.horizons)
        wanted = times[-1] if question.horizon is None else question.horizon
        step = _position(wanted, times, "horizon")
        time_unit = visits_section(schema).time_unit
        ahead = f"{times[step]:g} {time_unit}{'' if times[step] == 1 else 's'}"
        marker = schema.forecast_markers[place]
        return Outcome(marker.name, target.kind, marker.unit, place, step, ahead)
    unit = "" if isinstance(target, BinaryTarget) else target.unit
    return Outcome(target.name, target.kind, unit)


def _position(wanted: object, known: tuple[object, ...], kind: str) -> int:
    if wanted is None:
        return 0
    if wanted not in known:
        listed = ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in known)
        raise MisuseError(f"the study forecasts or predicts no {kind} '{wanted}', only: {listed}.")
    return known.index(wanted)


def shown(model: PatientModel, batch: PatientBatch, outcome: Outcome) -> torch.Tensor:
    """Compute the number that `model.predict` reports, `(B,)`, in its unit and with a gradient.

    A dose; a probability; the restricted mean survival time; a drug's response; a marker's median
    forecast from each patient's last row of `batch.visits`.
    """
    target = model.schema.target
    central = model.head.central(model.outputs(batch))
    if isinstance(target, ForecastTarget):
        return _forecast(model.schema, central[:, -1], batch, outcome)
    if isinstance(target, BinaryTarget):
        return central[:, 0]
    if isinstance(target, SurvivalTarget):
        return _mean_survival(central, target)
    if isinstance(target, PanelTarget):
        drug = target.drugs[outcome.place]
        value = central[:, outcome.place] * drug.scale + drug.mean
        return value.clamp(target.minimum, target.maximum)
    return _restored(central[:, 0], target)


def _restored(central: torch.Tensor, target: ContinuousTarget) -> torch.Tensor:
    value = central * target.scale + target.mean
    if target.transform == "sqrt":
        value = value.clamp(min=0.0).square()
    elif target.transform == "log":
        value = value.exp()
    return value.clamp(target.minimum, target.maximum)


def _mean_survival(hazards: torch.Tensor, target: SurvivalTarget) -> torch.Tensor:
    """Area under the curve up to the last edge, as `metrics.survival.mean_survival_time`."""
    curve = torch.cat([torch.ones_like(hazards[:, :1]), (1.0 - hazards).cumprod(dim=1)], dim=1)
    lengths = torch.tensor((0.0, *target.edges), dtype=hazards.dtype).diff()
    return ((curve[:, 1:] + curve[:, :-1]) / 2 * lengths).sum(dim=1)


def _forecast(
    schema: FeatureSchema, changes: torch.Tensor, batch: PatientBatch, outcome: Outcome
) -> torch.Tensor:
    """Last value plus change, in the marker's unit, as `visits.restore_forecast`."""
    columns, marker = VisitColumns.of(schema), schema.forecast_markers[outcome.place]
    last = batch.visits[:, -1, columns.last][:, columns.forecast[outcome.place]]
    target = schema.target
    step = target.horizons[outcome.step].change if isinstance(target, ForecastTarget) else 1.0
    value = (last + changes[:, outcome.step, outcome.place] * step) * marker.scale + marker.mean
    if marker.transform == "log":
        value = value.exp()
    return value.clamp(marker.minimum, marker.maximum)
