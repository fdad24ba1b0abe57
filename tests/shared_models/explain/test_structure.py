"""What attention reads, and what an edge carries."""

import numpy as np
import pytest
import torch
from flux_cohorts import flux_cohort, flux_schema
from omics_cohorts import omics_cohort, omics_schema

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.explain.outcome import Question
from fedrx_models.explain.structure import attention_of, edges_of
from fedrx_models.registry import build_model
from fedrx_protocol.study.study import ModelSection


def shaken(name, schema, **parameters):
    model = build_model(ModelSection.model_validate({"name": name, **parameters}), schema, seed=1)
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(0).normal(0, 0.05, vector.shape))
    return model


def test_a_transformer_of_courses_reads_no_later_visit_and_no_padding():
    cohort = flux_cohort(flux_schema(), 6)
    model = shaken("transformer", cohort.schema, size=8, heads=2, feed_forward=8, layers=2)
    batch = encode(cohort, cohort.schema)
    found = attention_of(model, batch)
    assert found.shares.shape == (6, 2, 12)
    assert found.shares.sum(axis=2) == pytest.approx(1.0, abs=1e-5)
    for shares, length in zip(found.shares, batch.lengths().long().tolist(), strict=True):
        assert not shares[:, length:].any()
    assert found.names[0] == "visit 1"


def test_a_transformer_of_genes_reads_tokens():
    cohort = omics_cohort(omics_schema(), 5)
    model = shaken("genomic_transformer", cohort.schema, size=8, heads=2)
    found = attention_of(model, encode(cohort, cohort.schema))
    assert found.shares.sum(axis=2) == pytest.approx(1.0, abs=1e-5)
    assert "TP53" in found.names


def test_attention_gave_the_same_forecasts_before_it_could_be_read():
    """Weights times values, by hand, are what the layer returns."""
    cohort = flux_cohort(flux_schema(), 4)
    model = shaken("transformer", cohort.schema, size=8, heads=2, feed_forward=8)
    layer = model.network.layers[0].attention
    states, bias = torch.randn(4, 5, 8), torch.zeros(4, 2, 5, 5)
    _, _, value = layer._parts(states)
    by_hand = layer.outside((layer.weights(states, bias) @ value).transpose(1, 2).flatten(2))
    assert torch.allclose(layer(states, bias), by_hand, atol=1e-6)


def test_an_edge_that_carries_nothing_has_no_effect_and_the_others_have():
    cohort = flux_cohort(flux_schema(), 6)
    model = shaken("pathway_gnn", cohort.schema, size=4)
    batch = encode(cohort, cohort.schema)
    (edge,) = edges_of(model, batch, Question(marker="platelets"))
    assert edge.edge == ("albumin", "platelets")
    assert edge.effects.shape == (6,)
    assert edge.mean_absolute > 0
    before = get_vector(model).copy()
    (other,) = edges_of(model, batch, Question(marker="bilirubin"))
    assert other.mean_absolute == 0
    assert np.array_equal(get_vector(model), before)


def test_genes_edges_are_ranked_and_can_be_chosen():
    cohort = omics_cohort(omics_schema(), 5)
    model = shaken("drug_gene_gnn", cohort.schema, size=4, hidden=6)
    batch = encode(cohort, cohort.schema)
    found = edges_of(model, batch)
    sizes = [one.mean_absolute for one in found]
    assert len(found) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 0
    (one,) = edges_of(model, batch, among=("TP53",))
    assert one.edge == ("MDM2", "TP53")


@pytest.mark.parametrize("ask", [attention_of, edges_of])
def test_a_model_without_the_structure_is_refused(ask):
    cohort = omics_cohort(omics_schema(), 2)
    with pytest.raises(MisuseError, match="has no"):
        ask(shaken("linear", cohort.schema), encode(cohort, cohort.schema))
