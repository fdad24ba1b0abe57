"""Scores and calibrated bands of every outcome that has one, and the chance of a crossing."""

import dataclasses

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema
from omics_cohorts import omics_cohort, omics_schema

from fedrx_common.errors import MisuseError
from fedrx_models.calibration.conformal import Radius, ScoreGrid, ScoreTotals
from fedrx_models.calibration.crossing import crossing_probability, early_warning
from fedrx_models.calibration.scores import (
    absolute,
    arrivals,
    interval,
    months_per_unit,
    scores_by_outcome,
)
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import FIRST_VALUE, TIME
from fedrx_models.contract import Forecast
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection


def model_of(schema, name="linear"):
    return build_model(ModelSection(name=name), schema, seed=0)


def radius(value, level=0.9):
    return Radius(value, level, 100.0)


@pytest.mark.parametrize("kind", ["continuous", "panel"])
def test_an_interval_covers_the_outcomes_whose_score_is_within_the_radius(kind):
    cohort = omics_cohort(omics_schema(kind), 60)
    model = model_of(cohort.schema)
    name = cohort.schema.target.name
    scores = np.concatenate(absolute(scores_by_outcome(model, cohort)[name]))
    found = interval(model, cohort, {name: radius(0.7)})
    inside = (cohort.target >= found.lower - 1e-9) & (cohort.target <= found.upper + 1e-9)
    assert inside.sum() == (scores <= 0.7 + 1e-9).sum()
    assert 0 < inside.sum() < len(scores)
    assert found.level == 0.9


def test_a_squared_dose_keeps_its_plausible_range_however_wide_the_radius(make_cohort, schema):
    cohort, model = make_cohort(20), model_of(schema)
    for value in (0.5, 3.0, np.inf):
        found = interval(model, cohort, {"dose": radius(value)})
        assert (found.lower >= 0).all()
        assert (found.lower <= found.mean).all()
        assert (found.mean <= found.upper).all()
        assert (found.upper <= 400).all()
    assert (found.lower == 0).all()
    assert (found.upper == 400).all()


def test_a_radius_of_1_is_the_models_own_band():
    cohort = flux_cohort(flux_schema(), 8)
    model = model_of(cohort.schema, "last_value")
    names = scores_by_outcome(model, cohort)
    assert list(names)[:2] == ["bilirubin 1", "bilirubin 4"]
    own = model.predict(encode(cohort, cohort.schema))
    found = interval(model, cohort, {name: radius(1.0, 0.8) for name in names})
    assert found.mean == pytest.approx(own.mean, rel=1e-6, nan_ok=True)


def test_calibrated_bands_of_a_forecast_cover_new_patients():
    """Each patient counts once, however many visits there were."""
    schema = flux_schema(features=False)
    model = model_of(schema, "last_value")
    quiet, new = (flux_cohort(schema, 400, seed=seed) for seed in (1, 2))
    grid = ScoreGrid.of_widths(240)
    radii = {
        name: ScoreTotals(grid, grid.total(absolute(scores))).calibrate(0.9)
        for name, scores in scores_by_outcome(model, quiet).items()
    }
    for name, scores in scores_by_outcome(model, new).items():
        within = [float((np.abs(own) <= radii[name].value).mean()) for own in scores if len(own)]
        assert 0.87 <= np.mean(within) <= 0.95, name


def test_outcomes_without_a_band_and_radii_that_do_not_fit_are_refused():
    cohort = omics_cohort(omics_schema("binary"), 4)
    with pytest.raises(MisuseError, match="has no interval"):
        scores_by_outcome(model_of(cohort.schema), cohort)
    cohort = omics_cohort(omics_schema(), 4)
    with pytest.raises(MisuseError, match="no calibrated radius of 'dose'"):
        interval(model_of(cohort.schema), cohort, {"other": radius(1.0)})
    with pytest.raises(MisuseError, match="one level"):
        interval(model_of(cohort.schema), cohort, {"dose": radius(1.0), "other": radius(1.0, 0.8)})


def test_a_measurement_is_held_against_the_newest_forecast_for_its_time():
    schema = flux_schema(features=False)
    cohort, model = flux_cohort(schema, 12), model_of(flux_schema(features=False), "last_value")
    found = arrivals(model, cohort, (("albumin", 1.0), ("albumin", 4.0)))
    seen = sum(len(one.times) for one in found)
    assert seen > 0
    predicted = model.predict(encode(cohort, schema)).mean
    for one in found:
        visits = cohort.visits[one.patient]
        assert (np.diff(one.times) > 0).all()
        assert one.start <= one.end
        for time, scores in zip(one.times, one.scores, strict=True):
            if np.isnan(scores[0]) or visits[:, 1].max() > 0:
                continue  # a second episode begins its times again
            here = int(np.flatnonzero(visits[:, TIME] == time)[0])
            ago = time - visits[:here, TIME]
            known = ~np.isnan(predicted[one.patient, :here, 0, 1, 0])
            origin = np.flatnonzero((ago >= 0.5) & (ago <= 1.5) & known)[-1]
            median, lower, upper = predicted[one.patient, origin, 0, 1]
            apart = visits[here, FIRST_VALUE + 1] - median
            reach = upper - median if apart >= 0 else median - lower
            assert scores[0] == pytest.approx(apart / reach, rel=1e-4)
    with pytest.raises(MisuseError, match="forecasts no 'albumin 2'"):
        arrivals(model, cohort, (("albumin", 2.0),))


def test_months_per_unit():
    assert months_per_unit(flux_schema()) * 730.5 == pytest.approx(1.0)


def band(schema, median, lower, upper):
    """One patient, one visit, all horizons and markers alike."""
    shape = (1, 1, len(schema.target.horizons), len(schema.target.markers), 3)
    return Forecast(np.broadcast_to(np.array([median, lower, upper]), shape).copy(), 0.8)


def test_the_chance_of_a_crossing_follows_the_band():
    schema = flux_schema()
    at = band(schema, 50.0, 40.0, 60.0)

    def chance(wall, above):
        return crossing_probability(schema, at, "albumin", wall, above=above)[0, 0, 0]

    assert chance(60.0, True) == pytest.approx(0.1)
    assert chance(60.0, False) == pytest.approx(0.9)
    assert chance(40.0, False) == pytest.approx(0.1)
    assert chance(50.0, True) == pytest.approx(0.5)
    assert chance(90.0, True) < 1e-5
    lopsided = band(schema, 50.0, 45.0, 70.0)
    found = crossing_probability(schema, lopsided, "albumin", 70.0, above=True)[0, 0]
    assert found == pytest.approx(0.1)


def test_a_logarithm_is_read_on_its_own_scale():
    schema = flux_schema()
    at = band(schema, 10.0, 5.0, 20.0)
    found = crossing_probability(schema, at, "bilirubin", 20.0, above=True)
    assert found[0, 0] == pytest.approx(0.1, rel=1e-6)


def test_the_first_likely_horizon_warns():
    schema = flux_schema()
    args = (schema, np.array([0.2, 0.6]), "albumin", 60.0)
    found = early_warning(*args, above=True)
    assert (found.horizon, found.probability) == (4.0, 0.6)
    assert early_warning(*args, above=True, level=0.7) is None
    unknown = dataclasses.replace(found)
    assert unknown == found
    assert early_warning(schema, np.array([np.nan, np.nan]), "albumin", 60.0, above=True) is None


@pytest.mark.parametrize(("marker", "wall"), [("age", 50.0), ("albumin", 0.5), ("albumin", 200.0)])
def test_an_impossible_threshold_is_refused(marker, wall):
    with pytest.raises(MisuseError):
        crossing_probability(
            flux_schema(), band(flux_schema(), 1.0, 1.0, 1.0), marker, wall, above=True
        )
