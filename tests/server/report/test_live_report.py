"""The report of a live run: whose it is, what it is beside, and what it never says."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from report_pages import PRIVACY, outline
from small_consortium import small_study

from fedrx_models.metrics.registry import measures_of
from fedrx_protocol.study.study import Study
from fedrx_protocol.trust.roster import Roster, SiteEntry, sign_roster
from fedrx_server.report.from_run import model_details, reported_curve, run_report, run_result
from fedrx_server.runs.checkpoints import RoundRecord
from fedrx_server.runs.registry import RunView

ROSTER = Roster(
    tuple(SiteEntry(f"site{i}", f"Hospital {i}", bytes([i]) * 32, 0, 1) for i in range(3)), 7
)


@pytest.fixture
def warfarin(repository):
    return Study.load(repository / "examples" / "warfarin" / "study.toml")


def view(study, path, metrics):
    record = RoundRecord(study.final_round, 0, 3, 3, 0, metrics, 10, 20, 0.5)
    signed = sign_roster(ROSTER, Ed25519PrivateKey.generate())
    return RunView(path, study, signed, "run-1.0", (record,))


def metrics(mae, reach):
    ends = {"mae_low": max(0.0, mae - reach), "mae_high": mae + reach}
    return {"n": 1000.0, "mae": mae, **ends, "mae_ci_low": mae - reach, "mae_ci_high": mae + reach}


def test_fixed_dose_and_published_equation_stand_beside_it_where_the_study_has_them(
    warfarin, tmp_path
):
    words = outline(run_report(view(warfarin, tmp_path, metrics(8.5, 1.0)), PRIVACY)).words
    for part in (
        "Published equation (IWPC 2009) as published, on 1,009 patients of that study 8.80 0.330",
        "Fixed dose (35 mg/week) as published, on 1,009 patients of that study 13.20 -0.040",
        "Federated this run, noise included 8.50 95 %: 7.50 to 9.50; by its noise ±1.00",
        "The consortium site0 Hospital 0 site1 Hospital 1 site2 Hospital 2",
        "FedRx is research software and not a medical device",
    ):
        assert part in words, part
    other = run_report(view(small_study(), tmp_path, metrics(8.5, 1.0)), PRIVACY)
    assert other.rows == []
    assert "Fixed dose" not in outline(other).words


def test_noise_hides_the_same_in_page_curve_and_result(warfarin, tmp_path):
    """MAE 0.00 (0.00 to 17.15) is no figure anywhere."""
    seen = view(warfarin, tmp_path, {**metrics(0.0, 17.15)})
    report = run_report(seen, PRIVACY)
    words = outline(report).words
    assert "mean absolute error that is hidden by noise" in words
    assert "17.15" not in words
    assert list(report.curve.rounds) == []
    reported = run_result(seen, PRIVACY)["reported"]
    assert reported["mae"] is None
    assert reported["mae_high"] == 17.15
    told = run_result(view(warfarin, tmp_path, metrics(8.5, 1.0)), PRIVACY)["reported"]
    assert told["mae"] == 8.5


def test_a_curve_has_the_rounds_that_can_be_read(warfarin):
    """A round's metrics are of the model that it began with."""
    seen = {2: metrics(9.0, 2.0), 3: None, 4: metrics(3.0, 20.0), 6: metrics(8.5, 1.0)}
    rounds = [RoundRecord(n, 0, 3, 3, 0, found, 10, 20, 0.5) for n, found in seen.items()]
    curve = reported_curve(rounds, warfarin.target)
    assert (curve.rounds, curve.reported) == ([1, 5], [9.0, 8.5])
    assert curve.noise == [(7.0, 11.0), (7.5, 9.5)]


def test_the_limit_is_what_a_mean_error_could_tell(warfarin, tmp_path):
    """Half the error of 35 mg/week or so for everybody, as the public reference has it."""
    (headline, *_) = measures_of(warfarin.target)
    assert headline.tells == pytest.approx(6.0, abs=0.1)
    for reach, shown in ((2.9, True), (3.1, False)):
        report = run_report(view(warfarin, tmp_path, metrics(8.5, reach)), PRIVACY)
        assert ("misses the actual" in outline(report).words) is shown
    assert replace(headline, tells=7.0).figure(metrics(8.5, 3.1)).shown == 8.5


def test_it_says_on_which_scale_errors_are_where_a_marker_is_a_logarithm(repository):
    study = Study.load(repository / "examples" / "cirrhosis" / "study.toml")
    logarithms = [marker.name for marker in study.markers if marker.transform == "log"]
    assert logarithms
    said = dict(model_details(study))["Errors"]
    assert said.startswith("in each marker's own unit")
    assert all(name in said for name in logarithms)
