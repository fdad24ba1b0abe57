"""Early warning: how likely a marker is to be beyond a clinical threshold, from a forecast's band.

Between its quantiles a forecast is read as two halves of normal distributions that meet at the
median, on the scale that the model is trained on; so a band that is wider above than below keeps
its shape.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.visits import forecast_target, normalise_marker
from fedrx_models.contract import Forecast
from fedrx_protocol.study.schema import FeatureSchema

Floats = NDArray[np.float64]

_THINNEST = 1e-6


@dataclass(frozen=True)
class EarlyWarning:
    """The first horizon at which a crossing is likely.

    Attributes:
        marker: which.
        threshold: in the marker's unit.
        above: whether beyond means above.
        horizon: time ahead, in the study's unit.
        probability: of being beyond the threshold then.
    """

    marker: str
    threshold: float
    above: bool
    horizon: float
    probability: float


def crossing_probability(
    schema: FeatureSchema, forecast: Forecast, marker: str, threshold: float, *, above: bool
) -> Floats:
    """Compute the chance of being beyond a threshold at each horizon, `(B, T, H)`; NaN if unknown.

    Args:
        schema: the study's.
        forecast: a model's, or one with calibrated bands.
        marker: of the target.
        threshold: in its unit, inside its plausible range.
        above: whether beyond means above.

    Raises:
        MisuseError: the marker is not forecast, or the threshold is not plausible.
    """
    names = forecast_target(schema).markers
    if marker not in names:
        raise MisuseError(f"the study forecasts no '{marker}', only: {', '.join(names)}.")
    one = schema.forecast_markers[names.index(marker)]
    if not one.minimum < threshold < one.maximum:
        raise MisuseError(
            f"a threshold of {threshold:g} {one.unit} for '{marker}' lies outside its plausible "
            f"range, {one.minimum:g} to {one.maximum:g}."
        )
    parts = normalise_marker(one, forecast.mean[:, :, :, names.index(marker)])
    middle, lower, upper = (parts[..., i] for i in range(3))
    wall = float(normalise_marker(one, np.array(threshold)))
    away = wall - middle
    reach = np.maximum(np.where(away > 0, upper - middle, middle - lower), _THINNEST)
    distance = away / reach * norm.ppf((1 + forecast.level) / 2)
    found: Floats = norm.sf(distance) if above else norm.cdf(distance)
    return found


def early_warning(
    schema: FeatureSchema,
    probabilities: Floats,
    marker: str,
    threshold: float,
    *,
    above: bool,
    level: float = 0.5,
) -> EarlyWarning | None:
    """Find the first horizon at which a crossing is at least as likely as `level`; `None` if none.

    Args:
        schema: the study's.
        probabilities: of one visit, `(H,)`, as `crossing_probability` gives them.
        marker: which.
        threshold: in its unit.
        above: whether beyond means above.
        level: from which to warn, in (0, 1).
    """
    if not 0 < level < 1:
        raise MisuseError(f"a warning's level must lie in (0, 1), not {level!r}.")
    for horizon, chance in zip(forecast_target(schema).horizons, probabilities, strict=True):
        if chance >= level:  # false for a chance that is not known
            return EarlyWarning(marker, threshold, above, horizon.at, float(chance))
    return None
