"""`fedrx site personalise`: a private head that is fitted, judged and kept at the site."""

import stat

import pytest

from fedrx.study_templates import new_study
from fedrx_common.errors import MisuseError
from fedrx_models.files import load_model, save_model
from fedrx_models.personal import with_private_head
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import Study
from fedrx_simulation.cohorts.draw import draw_cohorts
from fedrx_simulation.cohorts.tables import write_tables


@pytest.fixture
def trained(place, approved):
    study = Study.load(place / "study.toml")
    model = build_model(study.model, study.feature_schema, seed=3)
    return save_model(place / "model.safetensors", model, study.digest)


def test_a_site_fits_a_head_of_its_own_and_keeps_it(fedrx, place, trained):
    ran = fedrx("site", "personalise", "a", "model.safetensors", "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["training"] + found["held_out"] == 40
    # Which one is best hangs on the few patients that the site's own secret holds out.
    maes = {name: found["metrics"][name]["mae"] for name in found["metrics"]}
    assert set(maes) == {"federated", "personalised", "site_alone"}
    assert all(0 < mae < 100 for mae in maes.values())
    head = place / found["head"]
    assert stat.S_IMODE(head.stat().st_mode) == 0o600
    shared = load_model(trained).model
    again = with_private_head(shared, head.read_bytes(), "head")
    assert any(abs(float(v)) > 0 for v in again.head.shift.detach())
    said = fedrx("site", "personalise", "a", "model.safetensors").out
    assert "with this site's private head: MAE" in said
    assert "must not leave this site" in said


def test_the_model_of_a_study_that_was_never_approved_is_refused(refused, place, approved):
    study = Study.load(place / "study.toml")
    model = build_model(study.model, study.feature_schema, seed=3)
    save_model(place / "model.safetensors", model, "ab" * 32)
    assert "approve" in refused("site", "personalise", "a", "model.safetensors")


def test_a_damaged_head_is_one_sentence(trained):
    shared = load_model(trained).model
    with pytest.raises(MisuseError, match="cannot be read as safetensors"):
        with_private_head(shared, b"no head", "head")


@pytest.fixture
def forecast(joined, place):
    """Site `a` has approved a forecast, with a table of visits; gives its finished model."""
    text = new_study("linear_mixed", "forecast").replace("most = 96", "most = 20")
    (place / "course.toml").write_text(text)
    study = Study.load(place / "course.toml")
    schema = study.feature_schema
    cohorts = draw_cohorts(
        schema, sites=1, patients=(40, 40), heterogeneity=0.2, missingness=0.2,
        measurement_shift=0.1, seed=1,
    )  # fmt: skip
    (visits,) = write_tables(cohorts, place / "tables")
    files = ("course.toml", "--data", visits, "--mapping", place / "tables" / "mapping.toml")
    joined("site", "approve", "a", *files, "--max-epsilon", "9", "--by", "DPO", "--yes")
    model = build_model(study.model, schema, seed=3)
    return save_model(place / "course.safetensors", model, study.digest)


def test_a_forecast_gets_a_head_for_each_marker_and_horizon(fedrx, place, forecast):
    ran = fedrx("site", "personalise", "a", "course.safetensors", "--json")
    assert ran.code == 0, ran.err
    metrics = ran.json["metrics"]
    assert metrics["federated"]["ratio"] == pytest.approx(1.0)  # it starts at the last value
    assert all(0 < one["ratio"] < 5 for one in metrics.values())
    again = with_private_head(
        load_model(forecast).model, (place / ran.json["head"]).read_bytes(), "head"
    )
    assert again.head.shift.shape == (6 * 3 * 3,)  # markers, horizons, median and half-widths
    assert bool(again.head.shift.detach().abs().sum() > 0)
    said = fedrx("site", "personalise", "a", "course.safetensors").out
    assert "with this site's private head: relative error" in said
