"""The rules that visits and their values must keep before anything is computed from them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedrx_common.errors import DataError
from fedrx_models.cohort.visits import EPISODE, FIRST_VALUE, TIME, visit_width, visits_section
from fedrx_protocol.study.schema import FeatureSchema, ForecastTarget

Floats = NDArray[np.float64]


def check_visits(site: str, schema: FeatureSchema, visits: Floats, patients: int) -> None:
    """Check visits against the study.

    Args:
        site: whose they are.
        schema: the study's markers and treatments.
        visits: as a `Cohort` holds them.
        patients: how many there are.

    Raises:
        DataError: another shape, a gap between visits, a time or value that cannot be.
    """
    shape = (patients, visits_section(schema).most, visit_width(schema))
    if visits.shape != shape:
        raise DataError(f"site '{site}': visits have shape {visits.shape}, but need {shape}.")
    padding = np.isnan(visits[:, :, TIME])
    if padding[:, 0].any():
        raise DataError(f"site '{site}': a patient has no visit.")
    if (padding[:, :-1] & ~padding[:, 1:]).any():
        raise DataError(f"site '{site}': a visit stands after the end of a patient's visits.")
    if np.isfinite(visits[padding]).any() or not np.isfinite(visits[~padding][:, :2]).all():
        raise DataError(f"site '{site}': a visit has values but no time, or no episode.")
    with np.errstate(invalid="ignore"):  # padding is NaN, and no comparison with it holds
        same = visits[:, 1:, EPISODE] == visits[:, :-1, EPISODE]
        back = visits[:, 1:, EPISODE] < visits[:, :-1, EPISODE]
        late = same & (visits[:, 1:, TIME] <= visits[:, :-1, TIME])
    if late.any() or back.any():
        raise DataError(
            f"site '{site}': visits are out of order or doubled: times must rise within an "
            "episode, and episode numbers within a patient."
        )
    limits = [(m.name, m.minimum, m.maximum) for m in schema.markers]
    limits += [(t.name, 0.0, t.maximum) for t in schema.treatments]
    for i, (name, minimum, maximum) in enumerate(limits):
        check_range(site, name, visits[:, :, FIRST_VALUE + i], minimum, maximum)


def check_range(
    site: str, name: str, values: NDArray[np.number], minimum: float, maximum: float
) -> None:
    """Refuse values outside the study's range, with a `DataError`; NaN passes."""
    outside = values[(values < minimum) | (values > maximum)]
    if outside.size:
        raise DataError(
            f"site '{site}': '{name}' holds {outside[0]:g}, "
            f"but the study allows {minimum:g} to {maximum:g}."
        )


def require_forecasts(target: ForecastTarget, outcomes: Floats, where: str) -> None:
    """Refuse outcomes in which a marker or a horizon is missing altogether.

    Args:
        target: the forecast.
        outcomes: as a `Cohort` holds them, of all sites together.
        where: whose they are, in words.

    Raises:
        DataError: naming the marker, or the horizon.
    """
    found = (~np.isnan(outcomes[..., 0])).sum(axis=(0, 1)) > 0
    for m, name in enumerate(target.markers):
        if not found[:, m].any():
            raise DataError(
                f"{where}, nobody has marker '{name}' measured at two visits that a horizon "
                "joins: take it out of target.markers, or bring more visits."
            )
    for h, horizon in enumerate(target.horizons):
        if not found[h].any():
            raise DataError(
                f"{where}, nobody has a visit {horizon.window[0]:g} to {horizon.window[1]:g} "
                f"after another, so that nothing can be said of horizon {horizon.at:g}: take it "
                "out of target.horizons, or bring longer follow-up."
            )


def require_markers(schema: FeatureSchema, visits: Iterable[Floats]) -> None:
    """Refuse a marker that no site measures; a single site may lack it.

    Args:
        schema: the study's.
        visits: each site's, as a `Cohort` holds them.

    Raises:
        DataError: naming the marker.
    """
    names = [marker.name for marker in schema.markers]
    columns = slice(FIRST_VALUE, FIRST_VALUE + len(names))
    found = np.zeros(len(names), dtype=np.bool_)
    for one in visits:
        found |= np.isfinite(one[:, :, columns]).any(axis=(0, 1))
    for m in np.flatnonzero(~found).tolist():
        raise DataError(
            f"no site has marker '{names[m]}' measured at any visit: take it out of the study's "
            "markers, or name its column in the mapping."
        )
