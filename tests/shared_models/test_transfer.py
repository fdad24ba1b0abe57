"""Starting from another study: what is taken over, what stays frozen, and what is refused."""

import numpy as np
import pytest
import torch
from omics_cohorts import TARGETS, omics_cohort, omics_schema

from fedrx_client.training.clipping import leave_one_out_sensitivity
from fedrx_common.errors import MisuseError, StudyError
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import ModelFileInvalid, get_vector
from fedrx_models.files import save_model
from fedrx_models.planning import make_plan
from fedrx_models.registry import build_model, models_of
from fedrx_models.transfer import freezable_parts, start_model, study_model, trained_positions
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection, Study

MODELS = models_of("pharmacogenomic")

EARLIER = "ab" * 32


def study_of(model="mlp", kind="continuous", freeze=(), digest=EARLIER, schema=None, **config):
    document = {
        **(schema or omics_schema(kind)).model_dump(mode="json"),
        "name": "later",
        "cohort": {"patients": 100, "largest_site": 60},
        "model": {"name": model, **config},
    }
    if digest:
        document["transfer"] = {"study": digest, "freeze": list(freeze)}
    return Study.from_document(document, source="s")


def earlier_file(path, model="mlp", kind="continuous", seed=7, **config):
    found = build_model(ModelSection(name=model, **config), omics_schema(kind), seed=seed)
    shaken = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=shaken))
    return save_model(path / "model.safetensors", found, EARLIER), found


def test_a_study_without_the_section_has_the_digest_that_it_had():
    without, of_it = study_of(digest=None), study_of()
    assert "transfer" not in without.model_dump(mode="json")
    assert without.digest != of_it.digest


@pytest.mark.parametrize("model", MODELS)
def test_every_model_starts_from_the_earlier_weights(model, tmp_path):
    path, earlier = earlier_file(tmp_path, model)
    assert np.array_equal(get_vector(start_model(study_of(model), 3, path)), get_vector(earlier))


@pytest.mark.parametrize("model", MODELS)
def test_frozen_parts_are_left_out_of_what_is_summed(model):
    if model == "linear":  # one layer; freezing it leaves nothing
        with pytest.raises(StudyError, match="leaves nothing to train"):
            study_model(study_of(model, freeze=["network"]), 0)
        return
    first = next(p for p in freezable_parts(study_model(study_of(model), 0)) if p.count(".") == 1)
    study = study_of(model, freeze=[first])
    found = study_model(study, 0)
    frozen = sum(p.numel() for p in found.get_submodule(first).parameters())
    assert (~trained_positions(found)).sum() == frozen > 0
    assert make_plan(study, 4).dimension == len(get_vector(found)) - frozen


def test_a_partly_frozen_model_keeps_the_clipping_promise():
    model = study_model(study_of("genomic_cnn", freeze=["network.convolutions"]), 0)
    batch = encode(omics_cohort(omics_schema(), 10), omics_schema())
    moved = [leave_one_out_sensitivity(model, batch, 0.5, method=m) for m in ("auto", "vmap")]
    assert 0 < moved[0] <= 0.5
    assert moved[0] == pytest.approx(moved[1], rel=1e-3)


def test_another_outcome_starts_its_own_last_layer_anew(tmp_path):
    path, earlier = earlier_file(tmp_path, "genomic_cnn", "panel")
    study = study_of("genomic_cnn", "binary")
    found, fresh = start_model(study, 3, path), study_model(study, 3)
    assert torch.equal(found.network.hidden.weight, earlier.network.hidden.weight)
    assert torch.equal(found.network.out.weight, fresh.network.out.weight)
    assert found.network.out.weight.shape == (1, 64)


@pytest.mark.parametrize("kind", TARGETS)
def test_the_outcomes_layer_cannot_be_frozen_for_another_outcome(kind, tmp_path):
    path, _ = earlier_file(tmp_path, "genomic_cnn", "panel")
    study = study_of("genomic_cnn", kind, freeze=["network.out"])
    if kind == "panel":
        assert start_model(study, 0, path)
        return
    with pytest.raises(ModelFileInvalid, match=r"has no 'network\.out\.weight' for this outcome"):
        start_model(study, 0, path)


def retold(kind, **changes):
    """The schema with an outcome of as many outputs, told otherwise."""
    document = omics_schema(kind).model_dump(mode="json")
    document["target"] |= changes
    return FeatureSchema.model_validate(document)


DRUGS = TARGETS["panel"]["drugs"]
OF_THE_OUTCOME = {
    "mlp": {"network.perceptron.2", "network.linear"},
    "genomic_cnn": {"network.out", "network.linear"},
    "genomic_transformer": {"network.out", "network.linear"},
    "drug_gene_gnn": {"own", "linear", "panel.described", "panel.hit"},
    "multiomics_vae": {"out", "linear"},
}


@pytest.mark.parametrize("model", OF_THE_OUTCOME)
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("binary", {"name": "cured"}),
        ("continuous", {"name": "ldl", "unit": "mg/dL"}),
        ("survival", {"edges": [1.0, 2.0, 3.0, 4.0]}),
        ("panel", {"drugs": DRUGS[::-1]}),
    ],
)
def test_an_outcome_of_as_many_outputs_starts_its_last_layer_anew(model, kind, changes, tmp_path):
    path, earlier = earlier_file(tmp_path, model, kind)
    study = study_of(model, schema=retold(kind, **changes))
    fresh = dict(study_model(study, 3).named_parameters())
    before = dict(earlier.named_parameters())
    for name, weight in start_model(study, 3, path).named_parameters():
        own = name.startswith("head.") or name.rpartition(".")[0] in OF_THE_OUTCOME[model]
        assert torch.equal(weight, (fresh if own else before)[name]), name


def test_a_panels_known_responses_start_anew_for_other_drugs(tmp_path):
    path, earlier = earlier_file(tmp_path, "drug_gene_gnn", "panel", known_responses=True)
    study = study_of("drug_gene_gnn", schema=retold("panel", drugs=DRUGS[::-1]),
                     known_responses=True)  # fmt: skip
    found, fresh = start_model(study, 3, path), study_model(study, 3)
    assert torch.equal(found.known.mix.weight, fresh.known.mix.weight)
    assert torch.equal(found.summary.weight, earlier.summary.weight)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("binary", {"threshold": 0.3, "description": "in words"}),
        ("continuous", {"minimum": -60.0, "maximum": 60.0}),
    ],
)
def test_what_only_judges_the_outcome_changes_no_weight(kind, changes, tmp_path):
    path, earlier = earlier_file(tmp_path, kind=kind)
    found = start_model(study_of(schema=retold(kind, **changes)), 3, path)
    assert np.array_equal(get_vector(found), get_vector(earlier))


def test_a_model_of_one_layer_has_nothing_to_start_from_for_another_outcome(tmp_path):
    path, _ = earlier_file(tmp_path, "linear", "binary")
    with pytest.raises(ModelFileInvalid, match="there is nothing to start from"):
        start_model(study_of("linear", schema=retold("binary", name="cured")), 3, path)


def other_genes():
    document = omics_schema().model_dump(mode="json")
    document["blocks"][0]["genes"][0] = "BRCA1"
    document["graph"] = None
    return type(omics_schema()).model_validate(document)


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (study_of(digest="cd" * 32), "belongs to study abababababab, not cdcdcdcdcdcd"),
        (study_of("linear"), "holds a model 'mlp', but the study trains 'linear'"),
        (study_of(hidden=[5]), r"model\.hidden = \(32,\), but the study has \(5,\)"),
        (study_of(schema=other_genes()), "was trained on other blocks than the study's"),
        (study_of(schema=omics_schema(features=False)), "trained on other features"),
    ],
)
def test_weights_of_something_else_are_one_sentence(study, words, tmp_path):
    path, _ = earlier_file(tmp_path)
    with pytest.raises(ModelFileInvalid, match=words) as error:
        start_model(study, 0, path)
    assert "\n" not in str(error.value)


def test_a_file_belongs_to_a_study_that_asks_for_one(tmp_path):
    path, _ = earlier_file(tmp_path)
    with pytest.raises(
        MisuseError, match=r"give that study's model\.safetensors with --start-from"
    ):
        start_model(study_of(), 0, None)
    with pytest.raises(MisuseError, match="starts from no other study; name its digest"):
        start_model(study_of(digest=None), 0, path)


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        (["network.percepton"], "is no part of model 'mlp'; its parts are: network, network"),
        (["head"], "names 'head', which is no part"),
        (["network"], "leaves nothing to train"),
    ],
)
def test_parts_that_cannot_be_frozen_are_one_sentence(freeze, words):
    with pytest.raises(StudyError, match=words):
        make_plan(study_of(freeze=freeze), 4)


def test_the_digest_must_be_one():
    with pytest.raises(StudyError, match=r"'transfer\.study' is 'last year'"):
        study_of(digest="last year")
