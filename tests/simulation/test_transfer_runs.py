"""Studies that start from another one's weights, through the whole protocol."""

import numpy as np
import pytest
import torch
from omics_cohorts import omics_cohort, omics_schema

import fedrx
from fedrx_common.errors import MisuseError
from fedrx_models.contract import ModelFileInvalid, get_vector
from fedrx_models.transfer import trained_positions
from fedrx_protocol.study.study import Study

SITES = 4
CONVOLUTIONS = "network.convolutions"


def study_of(mode="none", rounds=3, transfer=None, kind="panel"):
    document = {
        **omics_schema(kind).model_dump(mode="json"),
        "name": "omics",
        "cohort": {"patients": SITES * 30, "largest_site": 60},
        "model": {"name": "genomic_cnn", "channels": 4, "hidden": 6},
        "training": {"rounds": rounds, "local": {"batch_size": 15}},
        "privacy": {"mode": mode, "epsilon": 8.0},
        "metrics": {"evaluations": 0},
    }
    if transfer is not None:
        document["transfer"] = transfer
    return Study.from_document(document, source="s")


def cohorts_of(study, patients=30):
    schema = study.feature_schema
    return [omics_cohort(schema, patients, seed=i, site=f"s{i}") for i in range(SITES)]


def run(study, folder, **options):
    options = {"baselines": False, "seed": 3, **options}
    return fedrx.simulate(study, cohorts_of(study), output=folder, **options)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier") / "run"
    return run(study_of(rounds=6), folder)


def later(earlier, mode, **transfer):
    return study_of(mode, transfer={"study": earlier.study.digest, **transfer})


@pytest.mark.parametrize("mode", ["distributed", "local", "none"])
def test_frozen_weights_stay_to_the_last_bit_and_the_others_move(earlier, mode, tmp_path):
    study = later(earlier, mode, freeze=[CONVOLUTIONS])
    start = earlier.folder / "model.safetensors"
    found = run(study, tmp_path / "run", start_from=start)
    trained = trained_positions(_frozen(found.model))
    before, after = earlier.weights, found.weights
    assert np.array_equal(before[~trained], after[~trained])
    assert (before[trained] != after[trained]).mean() > 0.5
    sent = found.bytes_up / run(study_of(mode), tmp_path / "whole").bytes_up
    assert sent < 1


def _frozen(model):
    model.get_submodule(CONVOLUTIONS).requires_grad_(requires_grad=False)
    return model


def test_it_begins_where_the_earlier_study_ended(earlier, tmp_path):
    study = study_of("none", rounds=1, transfer={"study": earlier.study.digest})
    start = earlier.folder / "model.safetensors"
    warm = run(study, tmp_path / "warm", start_from=start, baselines=True)
    cold = run(study_of("none", rounds=1), tmp_path / "cold")
    page = (tmp_path / "warm" / "report.html").read_text()
    assert f"study {earlier.study.digest[:16]}" in page
    assert warm.metrics["federated"].mae < cold.metrics["federated"].mae
    assert {"federated", "personalised", "site_alone", "pooled"} <= set(warm.metrics)
    assert np.array_equal(
        get_vector(fedrx.load_model(tmp_path / "warm" / "start.safetensors").model),
        earlier.weights,
    )


def test_a_run_that_was_cut_off_before_its_first_round_still_starts_there(earlier, tmp_path):
    study = later(earlier, "none")
    start = earlier.folder / "model.safetensors"
    whole = run(study, tmp_path / "whole", start_from=start)

    class CutOff(Exception):
        """The process ends here."""

    def cut(step):
        raise CutOff

    with pytest.raises(CutOff):
        run(study, tmp_path / "cut", start_from=start, observer=cut)
    again = fedrx.resume(tmp_path / "cut", cohorts_of(study))
    assert torch.allclose(torch.tensor(again.weights), torch.tensor(whole.weights), atol=1e-6)


@pytest.mark.parametrize(
    ("transfer", "given", "words"),
    [
        ({"study": "ab" * 32}, True, "not abababababab"),
        (None, True, "starts from no other study"),
        ({"study": "ab" * 32}, False, "give that study's model"),
    ],
)
def test_nothing_is_made_where_the_weights_do_not_belong(earlier, transfer, given, words, tmp_path):
    start = earlier.folder / "model.safetensors" if given else None
    with pytest.raises((MisuseError, ModelFileInvalid), match=words):
        run(study_of(transfer=transfer), tmp_path / "run", start_from=start)
    assert not (tmp_path / "run").exists()
