"""What each omics model promises beyond the contract that all models share."""

import dataclasses

import numpy as np
import pytest
import torch
from omics_cohorts import omics_cohort, omics_schema

from fedrx_common.errors import StudyError
from fedrx_models.cohort.encoding import block_columns, encode, flat_width
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.pharmacogenomic.drug_relations import descriptors, different, relations
from fedrx_models.pharmacogenomic.genomic_transformer import SUMMARY
from fedrx_models.pharmacogenomic.multiomics_vae import _signs
from fedrx_models.pharmacogenomic.tokens import gene_columns, token_layout
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import FeatureSchema, PanelTarget
from fedrx_protocol.study.study import ModelSection

DRUGS = [
    {"name": "erlotinib", "targets": ["EGFR"], "pathway": "EGFR signaling", "structure": "C#CC1CC"},
    {"name": "gefitinib", "targets": ["egfr"], "pathway": "EGFR signaling"},
    {"name": "nutlin (1)", "compound": "nutlin", "targets": ["MDM2"], "structure": "C#CC1CCO"},
    {"name": "nutlin (2)", "compound": "Nutlin", "targets": ["MDM2", "EGFR"]},
    {"name": "mystery", "pathway": "Other"},
    {"name": "riddle", "pathway": "Other"},
]


def panel():
    drugs = [{"mean": 0, "scale": 1, **drug} for drug in DRUGS]
    return PanelTarget.model_validate(
        {"kind": "panel", "name": "r", "unit": "sd", "minimum": -9, "maximum": 9, "drugs": drugs}
    )


def genes(count=8):
    return [f"G{i}" for i in range(count)]


def schema(target=None):
    blocks = [
        {"name": name, "kind": kind, "unit": "sd", "minimum": -9, "maximum": 9, "genes": some}
        for name, kind, some in (
            ("expression", "expression", [*genes(), "EGFR", "MDM2"]),
            ("mutation", "mutation", ["G2", "EGFR", "X1"]),
        )
    ]
    return FeatureSchema.model_validate(
        {
            "features": [{"name": "tissue", "kind": "category", "values": ["a", "b"]}],
            "blocks": blocks,
            "graph": {"edges": [["G0", "EGFR"], ["EGFR", "G0"], ["G1", "G1"], ["MDM2", "G7"]]},
            "target": (target or panel()).model_dump(),
        }
    )


def model_of(name, of=None, **parameters):
    model = build_model(ModelSection(name=name, **parameters), of or schema(), seed=0)
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(0).normal(0, 0.2, vector.shape))
    return model


def batch_of(of=None, patients=7):
    of = of or schema()
    generator = torch.Generator().manual_seed(1)
    genes_ = sum(len(block.genes) for block in of.blocks)
    whole = encode(omics_cohort(omics_schema("panel"), patients), omics_schema("panel"))
    return dataclasses.replace(
        whole,
        x=torch.randn(patients, 2, generator=generator),
        y=torch.randn(patients, len(DRUGS), generator=generator),
        y_observed=torch.ones(patients, len(DRUGS)),
        omics=torch.randn(patients, genes_, generator=generator),
        omics_observed=torch.ones(patients, len(of.blocks)),
    )


def test_what_blocks_say_about_a_gene_stands_in_one_token():
    found = gene_columns(schema())
    assert list(found) == [*genes(), "EGFR", "MDM2", "X1"]
    assert found["G2"] == (4, 12)  # after two columns of the tissue: expression, then mutation
    assert found["EGFR"] == (10, 13)


@pytest.mark.parametrize("most", [1, 3, 5, 100])
def test_every_column_is_in_one_token(most):
    layout = token_layout(schema(), most)
    columns = sorted(column for token in layout.columns for column in token)
    assert columns == list(range(flat_width(schema())))
    assert len(layout.names) <= 1 + most + 1
    assert layout.names[0] == "tissue"
    assert layout.names[-1] == "blocks missing"
    assert "G0" in layout.names[1]


def test_a_study_without_blocks_has_its_features_as_tokens():
    of = schema()
    bare = FeatureSchema(features=of.features, target=of.target)
    assert token_layout(bare, 5).names == ("tissue",)
    assert model_of("genomic_transformer", bare).network.names == (SUMMARY, "tissue")


def test_attention_can_be_read_by_name():
    network = model_of("genomic_transformer", gene_tokens=4).network
    seen = network.attention(batch_of())
    assert seen.shape == (7, 2, len(network.names))
    assert np.allclose(seen.sum(axis=2), 1)
    assert not np.allclose(seen[0], seen[1])


def test_a_token_size_that_the_heads_do_not_divide_is_one_sentence():
    with pytest.raises(StudyError, match="size 10 must be a multiple of heads 4"):
        model_of("genomic_transformer", size=10)


def test_an_even_kernel_is_one_sentence():
    with pytest.raises(StudyError, match=r"model\.kernel.*odd"):
        model_of("genomic_cnn", kernel=4)


def test_a_missing_block_says_nothing_about_the_latent_place():
    model, batch = model_of("multiomics_vae"), batch_of()
    missing = batch.omics_observed.clone()
    missing[:, 1] = 0
    places = []
    for value in (0.0, 3.0):
        omics = batch.omics.clone()
        omics[:, block_columns(schema())["mutation"]] = value
        places.append(model.latent(dataclasses.replace(batch, omics=omics, omics_observed=missing)))
    assert np.array_equal(*places)
    assert not np.allclose(places[0], model.latent(batch))


def test_a_patient_without_blocks_lies_at_the_prior():
    model, batch = model_of("multiomics_vae", latent=5), batch_of()
    nothing = dataclasses.replace(batch, omics_observed=torch.zeros_like(batch.omics_observed))
    assert model.latent(nothing).shape == (7, 5)
    assert not model.latent(nothing).any()


def test_nobody_is_placed_by_weights_that_nothing_was_learned_for():
    model, batch = build_model(ModelSection(name="multiomics_vae"), schema(), seed=0), batch_of()
    assert not model.latent(batch).any()
    model(batch).sum().backward()
    assert all(encoder.straight.weight.grad.any() for encoder in model.encoders)


def test_the_latent_noise_is_balanced_and_the_patients_own():
    values = torch.randn(4000, 11, generator=torch.Generator().manual_seed(0))
    signs = _signs(values, 6)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert signs.mean(0).abs().max() < 0.06
    assert (signs.T @ signs / 4000 - torch.eye(6)).abs().max() < 0.06
    order = torch.randperm(4000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(_signs(values[order], 6), signs[order])


@pytest.mark.parametrize(
    ("name", "words"), [("multiomics_vae", "blocks"), ("drug_gene_gnn", "graph")]
)
def test_a_study_without_what_a_model_needs_is_one_sentence(name, words):
    of = schema()
    bare = FeatureSchema(features=of.features, target=of.target)
    with pytest.raises(StudyError, match=rf"'{name}' needs .*{words}"):
        model_of(name, bare)


def test_known_responses_need_a_panel():
    with pytest.raises(StudyError, match="needs a target of kind 'panel'"):
        model_of("drug_gene_gnn", schema(omics_schema("binary").target), known_responses=True)


def test_messages_follow_the_edges():
    model, batch = model_of("drug_gene_gnn", layers=1), batch_of()
    place = {gene: i for i, gene in enumerate(model.graph.genes)}
    omics = batch.omics.clone()
    omics[:, 0] += 1.0  # the expression of G0
    with torch.no_grad():
        before, after = (
            model.graph(dataclasses.replace(batch, omics=o)) for o in (batch.omics, omics)
        )
    moved = (before != after).any(dim=2).any(dim=0)
    assert {gene for gene, i in place.items() if moved[i]} == {"G0", "EGFR"}


def test_a_drugs_own_response_is_never_read_under_any_of_its_names():
    model, batch = model_of("drug_gene_gnn", known_responses=True), batch_of()
    before = model.predict(batch).mean
    for drug, same in ((0, {0}), (2, {2, 3}), (3, {2, 3})):
        y = batch.y.clone()
        y[:, drug] += 5
        changed = (model.predict(dataclasses.replace(batch, y=y)).mean != before).any(axis=0)
        assert not changed[list(same)].any()
        assert changed[[i for i in range(len(DRUGS)) if i not in same]].all()


def test_a_patient_with_no_known_response_is_predicted_from_genes():
    model, batch = model_of("drug_gene_gnn", known_responses=True), batch_of()
    nothing = dataclasses.replace(
        batch, y=torch.zeros_like(batch.y), y_observed=torch.zeros_like(batch.y)
    )
    predicted = model.predict(nothing).mean
    assert np.isfinite(predicted).all()
    assert np.ptp(predicted, axis=0).min() > 0


def test_a_drug_never_seen_is_predicted_like_its_relative():
    """Everybody's response to EGFR drugs follows one gene; gefitinib was given to nobody."""
    batch = batch_of(patients=400)
    y = torch.zeros_like(batch.y)
    y[:, :4] = batch.omics[:, [8, 8, 0, 0]]
    hidden = torch.ones_like(y)
    hidden[:, 1] = 0
    train = dataclasses.replace(batch, y=y * hidden, y_observed=hidden)
    model = build_model(ModelSection(name="drug_gene_gnn"), schema(), seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model(train).mean().backward()
        optimizer.step()
    predicted = model.predict(train).mean[:, 1]
    assert np.corrcoef(predicted, y[:, 1])[0, 1] > 0.8


def test_drugs_are_alike_by_target_pathway_and_structure():
    links, target = relations(panel()), panel()
    assert links["target"][0, 1] == 1  # whatever the case
    assert links["target"][2, 3] == 0.5
    assert links["pathway"][0, 1] == 1
    assert links["pathway"][4, 5] == 0  # 'Other' is no pathway
    assert links["structure"][0, 2] > 0.5
    assert links["structure"][1, 4] == 0
    for matrix in links.values():
        assert np.array_equal(matrix, matrix.T)
        assert ((matrix >= 0) & (matrix <= 1)).all()
    assert different(target)[2, 3] == 0
    assert different(target)[0, 1] == 1
    assert np.allclose(np.linalg.norm(descriptors(target)[:4], axis=1), 1)
    assert not descriptors(target)[4].any()
