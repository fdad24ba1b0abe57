"""Another dose moves the treated marker, from the next visit on, and nothing else."""

import numpy as np
import pytest
from flux_cohorts import flux_schema, inr_schema

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import TIME
from fedrx_models.fitting import fit
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection
from fedrx_simulation.cohorts.flux import FluxCohorts, generate_flux
from fedrx_simulation.cohorts.flux_counterfactual import other_dose

SCHEMA = flux_schema(most=30)


def knobs(patients, seed=0, schema=SCHEMA):
    return FluxCohorts(schema, 1, (patients, patients), measurement_shift=0.0, seed=seed)


def test_only_the_treated_marker_differs_and_only_after_the_visit():
    found = other_dose(knobs(60), (3.0,))
    np.testing.assert_array_equal(found.after_now[:, :, 1:], found.after_then[:, :, 1:])
    treated = found.after_then[:, :, 0] - found.after_now[:, :, 0]
    assert np.nanmean(treated) < 0  # the drug lowers the marker
    now, then = found.now.visits.copy(), found.then.visits.copy()
    last = (~np.isnan(now[:, :, TIME])).sum(axis=1) - 1
    assert (then[np.arange(60), last, 5] == 30.0).all()
    now[np.arange(60), last, 5] = then[np.arange(60), last, 5] = 0.0
    np.testing.assert_array_equal(now, then)


def test_a_regimen_that_changes_nothing_gives_the_same_patients():
    usual, same = (
        generate_flux(knobs(20), regimen)["site-1"] for regimen in (None, lambda _, given: given)
    )
    assert usual.fingerprint == same.fingerprint
    with pytest.raises(MisuseError, match="one site"):
        other_dose(FluxCohorts(SCHEMA, 2, (5, 5)), (1.0,))


@pytest.mark.slow
@pytest.mark.parametrize("schema", [SCHEMA, inr_schema()], ids=["falls", "inr"])
def test_the_band_of_a_what_if_covers_the_counterfactual(schema):
    train = generate_flux(knobs(300, seed=1, schema=schema))["site-1"]
    model = fit(build_model(ModelSection(name="linear_mixed"), schema, seed=0), train, 0)
    found = other_dose(knobs(300, seed=2, schema=schema), (0.0, 0.5, 1.0, 2.0))
    last = (~np.isnan(found.then.visits[:, :, TIME])).sum(axis=1) - 1
    forecast = model.predict(encode(found.then, schema)).mean[np.arange(300), last, :, 0]
    known = ~np.isnan(found.after_then[:, :, 0]) & ~np.isnan(forecast[..., 0])
    actual = found.after_then[:, :, 0][known]
    low, high = (forecast[..., side][known] for side in (1, 2))
    assert ((actual >= low) & (actual <= high)).mean() == pytest.approx(0.8, abs=0.05)
