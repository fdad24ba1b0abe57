"""Studies that calibrate their intervals: same training, same account, intervals that hold."""

import json
from pathlib import Path

import numpy as np
import pytest

import fedrx
from fedrx_client.clinic.predict import predict
from fedrx_models.calibration.release import CONFIDENCE
from fedrx_protocol.privacy.accountant import Composition, epsilon_of
from fedrx_server.report.page import page

SOURCE = fedrx.SyntheticSites(sites=4, patients=(120, 150))
STUDY = fedrx.override(fedrx.default_study()[0], rounds=2).with_(
    metrics={"evaluations": 1}, training={"local": {"epochs": 1}}
)


def run(study, folder):
    return fedrx.simulate(study, source=SOURCE, seed=3, baselines=False, output=folder)


@pytest.mark.parametrize("mode", ["none", "local", "distributed"])
def test_calibration_changes_neither_training_nor_account(mode, tmp_path):
    plain = STUDY.with_(privacy={"mode": mode, "epsilon": 8.0})
    without = run(plain, tmp_path / "without")
    found = run(plain.with_(metrics={"calibration": True}), tmp_path / "with")
    assert np.array_equal(found.weights, without.weights)
    assert found.metrics["federated"] == without.metrics["federated"]
    assert without.calibration is None
    assert without.report.intervals is None
    assert "calibration" not in without.rounds[-1].to_json()
    for site, releases in found.ledger.items():
        assert [e.purpose for e in releases] == [e.purpose for e in without.ledger[site]]
        of_metrics = [e for e in releases if e.purpose == "metrics"]
        if mode != "none":
            assert epsilon_of(Composition.of(of_metrics), plain.privacy.delta) <= 8.0
    assert all(record.calibration is None for record in found.rounds[:-1])

    calibration = found.calibration
    assert calibration.model_dump(mode="json") == found.rounds[-1].calibration
    assert calibration.confidence == (1.0 if mode == "none" else CONFIDENCE)
    (one,) = calibration.outcomes
    overall = found.coverage[""]
    assert overall.patients == sum(found.coverage[site].patients for site in found.ledger)
    if mode == "none":
        assert calibration.patients == overall.patients
        assert one.covered == pytest.approx(overall.calibrated)
        assert one.plain == pytest.approx(overall.plain)
        assert overall.calibrated >= 0.9
    _told_everywhere(found, tmp_path / "with")


def _told_everywhere(found, folder: Path):
    """Result, report, model file and prediction say the same."""
    written = json.loads((folder / "result.json").read_text())["calibration"]
    assert written["outcomes"][0]["radius"] == found.calibration.outcomes[0].radius
    assert set(written["exact_by_site"]) == set(found.ledger)
    model = fedrx.load_model(folder / "model.safetensors")
    assert model.card.calibration == found.calibration
    words = model.card.intervals
    assert words == found.report.intervals.in_words
    text = page(found.report)
    assert "How often the intervals hold" in text
    assert "Site, exact" in text
    (cohort, *_) = fedrx.load_cohorts(SOURCE, found.study.feature_schema, seed=3).values()
    first = predict(model, cohort)[0]
    assert first.to_json(model)["model"]["intervals"] == words
    assert first.level == 0.9


@pytest.mark.slow
@pytest.mark.real_data
def test_intervals_hold_on_the_real_consortium(real_data_root, tmp_path):
    """IWPC, 21 sites, epsilon 1. One width for all promises nothing of each site alone."""
    data = real_data_root / "iwpc" / "iwpc_subject_data.csv"
    mapping = Path(__file__).parents[2] / "examples" / "warfarin" / "iwpc.toml"
    study = fedrx.override(fedrx.default_study()[0], rounds=10, epsilon=1.0).with_(
        metrics={"calibration": True, "evaluations": 1}, cohort={"held_out": 0.4}
    )
    source = fedrx.PatientFile(data, mapping, "Project Site")
    found = fedrx.simulate(study, source=source, seed=0, baselines=False, output=tmp_path / "run")
    assert found.privacy.epsilon <= 1.0
    assert 0.9 <= found.coverage[""].calibrated <= 0.97
    large = [one for site, one in found.coverage.items() if site and one.patients >= 100]
    assert large
    assert min(one.calibrated for one in large) >= 0.75
