"""What noise will leave of a study's evaluations, computed before the study from public numbers.

Nothing here sees a patient. The patients are invented from the study's public reference, and a
mediocre model predicts them.
"""

import math

import numpy as np

from fedrx_models.cohort.encoding import restore_panel, restore_target
from fedrx_models.metrics.base import Floats
from fedrx_models.metrics.registry import measures_of, metric_plan
from fedrx_protocol.privacy.figures import Figure
from fedrx_protocol.study.schema import (
    BinaryTarget,
    ContinuousTarget,
    FeatureSchema,
    PanelTarget,
    SurvivalTarget,
)
from fedrx_protocol.study.study import Study

_INVENTED = 2000  # enough that chance hardly moves the reach of the noise
_SEED = 0


def expected_headline(study: Study, patients: float, noise_sd: float, *, final: bool) -> Figure:
    """Compute the headline that an evaluation would release, and the interval of its noise.

    Its value is invented; what counts is its noise, and whether the noise hides it.

    Args:
        study: the study.
        patients: held-out patients of all sites.
        noise_sd: standard deviation of the noise on each released sum; 0 for none.
        final: whether it is the last evaluation.
    """
    plan = metric_plan(study, final=final)
    state = plan.state(*_invented(study.feature_schema)) * patients / _INVENTED
    noise_sd /= study.metric_weight(final=final)
    metrics = plan.from_state(state, noise_sd=noise_sd or None)
    return measures_of(study.target)[0].figure(metrics.flat())


def _invented(schema: FeatureSchema) -> tuple[Floats, Floats]:
    """Draw predictions and outcomes, as `Plan.contributions` takes them."""
    target, rng = schema.target, np.random.default_rng(_SEED)
    if isinstance(target, ContinuousTarget):
        return _halfway(target, rng.normal(size=_INVENTED), rng)
    if isinstance(target, PanelTarget):
        return _halfway(target, rng.normal(size=(_INVENTED, len(target.drugs))), rng)
    if isinstance(target, BinaryTarget):
        offset = math.log(target.rate / (1 - target.rate))
        chance = 1 / (1 + np.exp(-offset - rng.normal(size=_INVENTED)))
        return chance, (rng.random(_INVENTED) < chance).astype(np.float64)
    if isinstance(target, SurvivalTarget):  # hazards differ by a factor of e; all follow-up is full
        odds = target.hazard / (1 - target.hazard) * np.exp(rng.normal(size=(_INVENTED, 1)))
        hazard, bins = odds / (1 + odds), len(target.edges)
        event = rng.geometric(hazard[:, 0])
        last = np.minimum(event, bins)
        actual = np.stack([np.array(target.edges)[last - 1], event <= bins], axis=1)
        return np.repeat(1 - hazard, bins, axis=1).cumprod(axis=1), actual.astype(np.float64)
    # One visit, and changes as large as the study's public ones; a fifth of each is foreseen.
    units = np.array([marker.unit_scale for marker in schema.forecast_markers])
    usual = np.array([horizon.change for horizon in target.horizons])[:, None] * units
    change = usual * rng.normal(size=(_INVENTED, 1, *usual.shape))
    middle, reach = 0.2 * change, np.broadcast_to(usual, change.shape)
    predicted = np.stack([middle, middle - reach, middle + reach], axis=-1)
    return predicted, np.stack([change, np.zeros_like(change)], axis=-1)


def _halfway(
    target: ContinuousTarget | PanelTarget, known: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draw outcomes, and a prediction that explains half of their variance."""
    outcome = (known + rng.normal(size=known.shape)) / math.sqrt(2)
    parts = (known / math.sqrt(2), outcome)
    if isinstance(target, PanelTarget):
        predicted, actual = (restore_panel(target, part) for part in parts)
    else:
        predicted, actual = (restore_target(target, part) for part in parts)
    return predicted, actual
