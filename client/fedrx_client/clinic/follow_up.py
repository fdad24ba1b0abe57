"""After go-live: what came back compared with what was predicted.

Alarms are sequential: a bet against the model's promise that wins on average nothing while the
promise holds, so that looking every day rings no more false alarms than looking once (Ville's
inequality; Shafer 2021, J R Stat Soc A 184:407-31). That is exact where outcomes come back in the
order of the predictions.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedrx_client.clinic.predict import DECIDES, PatientPrediction, describe
from fedrx_client.data.privacy.deidentify import pseudonym
from fedrx_client.records.follow_up import KeptPrediction
from fedrx_common.documents import DocumentInvalid, read_toml
from fedrx_common.errors import MisuseError
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.files import ModelFile, load_model
from fedrx_protocol.study.schema import BinaryTarget, ContinuousTarget, FeatureSchema, PanelTarget

Floats = NDArray[np.float64]

FALSE_ALARM = 0.05
"""Chance that an alarm ever rings while intervals and probabilities hold."""
_SHIFTS = (0.5, 1.0, 1.5)  # of the log odds that the bet is on
_BINS = 5
_FEWEST = 5  # of a calibration bin


@dataclass(frozen=True)
class MonthFollowed:
    """The predictions of one month whose outcome is known.

    Attributes:
        month: "2026-03", of the prediction, in UTC.
        patients: how many.
        share: inside the interval; of a probability, with the outcome.
        low: lower end of the share's 95 % interval (Wilson).
        high: upper end.
        error: mean outcome minus prediction, in the outcome's unit.
    """

    month: str
    patients: int
    share: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Followed:
    """What came back of one outcome of one model.

    Attributes:
        model: its name.
        digest: its digest.
        name: the outcome, or the drug of a panel.
        unit: of the outcome.
        kind: "interval", judged by its coverage, or "probability", by how often it happened.
        kept: patients with a prediction.
        patients: those of them whose outcome is known.
        level: nominal coverage; of a probability its mean.
        share: inside the interval, or with the outcome; None without patients.
        low: lower end of the share's 95 % interval.
        high: upper end.
        error: mean outcome minus prediction.
        size: mean size of the error; of a probability the Brier score.
        calibration: mean prediction, mean outcome and patients, by fifths of the prediction.
        months: by month of the prediction.
        evidence: largest win of the bet against the model's promise; an alarm from 20 on.
        alarm: a sentence, or empty.
    """

    model: str
    digest: str
    name: str
    unit: str
    kind: str
    kept: int
    patients: int
    level: float | None
    share: float | None = None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    size: float | None = None
    calibration: tuple[tuple[float, float, int], ...] = ()
    months: tuple[MonthFollowed, ...] = ()
    evidence: float = 1.0
    alarm: str = ""


def require_followed(schema: FeatureSchema) -> None:
    """Refuse an outcome that cannot be followed up.

    Raises:
        MisuseError: it is a course or a survival time.
    """
    if not isinstance(schema.target, ContinuousTarget | BinaryTarget | PanelTarget):
        raise MisuseError(
            f"a {schema.target.kind} outcome is not followed up: leave follow_up out, and use "
            "alarms on the course."
        )


def kept_predictions(
    model: ModelFile, found: PatientPrediction, key: bytes, now: int
) -> tuple[KeptPrediction, ...]:
    """Make what is kept of a prediction: a pseudonym, and the numbers.

    Args:
        model: what predicted.
        found: the prediction.
        key: the site's key of pseudonyms, 32 bytes.
        now: unix seconds.
    """
    patient = pseudonym(found.patient, key)
    return tuple(
        KeptPrediction(
            patient,
            model.digest,
            model.study_digest,
            point.of,
            point.value,
            point.low,
            point.high,
            found.level,
            now,
        )
        for point in found.points
        if point.value is not None
    )


def models_served(services: Path) -> tuple[ModelFile, ...]:
    """Load the models that a file of services names, each once.

    Raises:
        MisuseError: the file cannot be read, or names a model that cannot.
    """
    try:
        listed = read_toml(services.read_text(encoding="utf-8")).get("service", [])
        names = [str(one["model"]) for one in listed]
    except FileNotFoundError:
        raise MisuseError(
            f"{services}: there is no such file of services; give --model with the model's file."
        ) from None
    except (OSError, UnicodeDecodeError, DocumentInvalid, KeyError, TypeError, AttributeError):
        raise MisuseError(f"{services}: cannot be read as a file of services.") from None
    return tuple(load_model(services.parent / name) for name in dict.fromkeys(names))


def follow_up(
    model: ModelFile,
    kept: Sequence[KeptPrediction],
    cohort: Cohort,
    key: bytes,
    false_alarm: float = FALSE_ALARM,
) -> tuple[Followed, ...]:
    """Compare kept predictions with outcomes, one `Followed` for each outcome of the model.

    Of several predictions for one patient the newest counts.

    Args:
        model: what predicted.
        kept: all that the site keeps; those of other models are passed over.
        cohort: patients whose outcome is known, read for the model's schema.
        key: the site's key of pseudonyms.
        false_alarm: chance that an alarm ever rings while the model's promise holds, in (0, 1).

    Raises:
        MisuseError: the outcome cannot be followed up, or the chance is impossible.
    """
    schema = model.model.schema
    require_followed(schema)
    if not 0 < false_alarm < 1:
        raise MisuseError(f"a false-alarm rate lies in (0, 1), not {false_alarm!r}.")
    target = schema.target
    names = [d.name for d in target.drugs] if isinstance(target, PanelTarget) else [target.name]
    rows = {pseudonym(patient, key): i for i, patient in enumerate(cohort.patients)}
    actual = cohort.target.reshape(len(cohort), -1)
    found = []
    for column, name in enumerate(names):
        newest = {
            one.patient: one for one in kept if one.model == model.digest and one.name == name
        }
        known = [
            (one, float(actual[rows[patient], column]))
            for patient, one in newest.items()
            if patient in rows and not np.isnan(actual[rows[patient], column])
        ]
        known.sort(key=lambda pair: pair[0].time)
        unit = "probability" if isinstance(target, BinaryTarget) else target.unit
        nothing = Followed(
            model=model.name,
            digest=model.digest,
            name=name,
            unit=unit,
            kind="probability" if isinstance(target, BinaryTarget) else "interval",
            kept=len(newest),
            patients=len(known),
            level=None,
        )
        found.append(_followed(nothing, known, false_alarm) if known else nothing)
    return tuple(found)


def evidence_against(promised: Floats, happened: Floats, shifts: Sequence[float]) -> Floats:
    """Bet that log odds are shifted from what was promised; the running wins, `(n,)`.

    While each promised probability is right (or, with shifts above 0 only, not too small), the
    wins are a supermartingale that starts at 1, and so ever reach 1 / a with chance a at most.

    Args:
        promised: probabilities, `(n,)` in time order.
        happened: 0 or 1, `(n,)`.
        shifts: of the log odds; the stake is shared evenly.
    """
    inside = np.clip(promised, 1e-9, 1 - 1e-9)
    logit = np.log(inside / (1 - inside))
    bets = []
    for shift in shifts:
        other = 1 / (1 + np.exp(-(logit + shift)))
        gain = np.where(happened > 0, other / inside, (1 - other) / (1 - inside))
        bets.append(np.cumprod(gain))
    wins: Floats = np.mean(bets, axis=0)
    return wins


def to_json(found: Sequence[Followed], model: ModelFile) -> list[dict[str, Any]]:
    """Describe what came back as JSON objects, with the model's card."""
    return [{**asdict(one), "model": describe(model), "decides": DECIDES} for one in found]


def _followed(
    asked: Followed, known: Sequence[tuple[KeptPrediction, float]], false_alarm: float
) -> Followed:
    """Judge what came back of one outcome, in the order of the predictions."""
    predicted = np.array([one.value for one, _ in known])
    actual = np.array([value for _, value in known])
    if asked.kind == "interval":
        level = float(np.mean([one.level or 0.0 for one, _ in known]))
        held = np.array(
            [
                one.low is not None and one.high is not None and one.low <= value <= one.high
                for one, value in known
            ],
            dtype=np.float64,
        )
        promised = np.array([1 - (one.level or 0.0) for one, _ in known])
        wins = evidence_against(promised, 1 - held, _SHIFTS)
        size = float(np.abs(actual - predicted).mean())
    else:
        level, held = float(predicted.mean()), actual
        wins = evidence_against(predicted, held, (*_SHIFTS, *(-one for one in _SHIFTS)))
        size = float(((actual - predicted) ** 2).mean())
    share = float(held.mean())
    low, high = _wilson(int(held.sum()), len(held))
    evidence = float(wins.max())
    alarm = ""
    if evidence >= 1 / false_alarm:
        what = "inside the interval" if asked.kind == "interval" else "with the outcome"
        alarm = (
            f"{asked.name}: {100 * share:.0f} % of {len(held)} patients were {what}, where "
            f"{100 * level:.0f} % were promised; that is more than chance alone gives. Judge model "
            f"{asked.model} again before relying on it."
        )
    return replace(
        asked,
        level=level,
        share=share,
        low=low,
        high=high,
        error=float((actual - predicted).mean()),
        size=size,
        calibration=_calibration(predicted, actual),
        months=_months([one.time for one, _ in known], held, actual - predicted),
        evidence=evidence,
        alarm=alarm,
    )


def _months(times: Sequence[int], held: Floats, errors: Floats) -> tuple[MonthFollowed, ...]:
    names = np.array([datetime.fromtimestamp(time, UTC).strftime("%Y-%m") for time in times])
    found = []
    for month in sorted(set(names.tolist())):
        own = names == month
        low, high = _wilson(int(held[own].sum()), int(own.sum()))
        share, error = float(held[own].mean()), float(errors[own].mean())
        found.append(MonthFollowed(month, int(own.sum()), share, low, high, error))
    return tuple(found)


def _calibration(predicted: Floats, actual: Floats) -> tuple[tuple[float, float, int], ...]:
    """Mean prediction and outcome by fifths of the prediction; fewer where patients are few."""
    bins = max(1, min(_BINS, len(predicted) // _FEWEST))
    parts = np.array_split(np.argsort(predicted, kind="stable"), bins)
    return tuple(
        (float(predicted[part].mean()), float(actual[part].mean()), len(part)) for part in parts
    )


def _wilson(count: int, total: int) -> tuple[float, float]:
    found = stats.binomtest(count, total).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
