"""What each flux model promises beyond the contract that all flux models share."""

import dataclasses

import numpy as np
import pytest
import torch
from flux_cohorts import flux_cohort, flux_document, flux_schema

from fedrx_client.training.clipping import supports_bookkeeping
from fedrx_common.errors import MisuseError, StudyError
from fedrx_models.cohort.encoding import encode
from fedrx_models.cohort.visits import VisitColumns
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.flux.lstm import SteppedLstm
from fedrx_models.flux.pathway_gnn import directed_edges
from fedrx_models.flux.ripple import ripple
from fedrx_models.registry import build_model, models_of
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection

TRAINED = [name for name in models_of("flux") if name != "last_value"]


def model_of(name, schema, **parameters):
    """A model whose weights are moved off their start."""
    model = build_model(ModelSection(name=name, **parameters), schema, seed=0)
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(0).normal(0, 0.1, vector.shape))
    return model


def batch_of(schema, patients=12):
    return encode(flux_cohort(schema, patients), schema)


@pytest.mark.parametrize("name", TRAINED)
def test_book_keeping_proves_right(name):
    schema = flux_schema()
    assert supports_bookkeeping(model_of(name, schema))


@pytest.mark.parametrize("name", TRAINED)
def test_padding_does_not_matter(name):
    schema = flux_schema()
    model, batch, columns = model_of(name, schema), batch_of(schema), VisitColumns.of(schema)
    visits = batch.visits.clone()
    padding = visits[:, :, columns.valid] == 0
    assert padding.any()
    loss = model(batch)
    visits[padding] = 7.0
    visits[:, :, columns.valid][padding] = 0.0
    again = model(dataclasses.replace(batch, visits=visits))
    torch.testing.assert_close(again, loss)


def test_the_lstm_is_torchs():
    ours = SteppedLstm(5, 4, torch.Generator().manual_seed(0))
    torchs = torch.nn.LSTM(5, 4, batch_first=True)

    def theirs(rows):  # ours: in, forget, out, write; torch's: in, forget, write, out
        write_in, keep, show, write = rows.detach().split(4)
        return torch.cat([write_in, keep, write, show])

    with torch.no_grad():
        torchs.weight_ih_l0.copy_(theirs(ours.of_input.weight))
        torchs.weight_hh_l0.copy_(theirs(ours.of_state.weight))
        torchs.bias_ih_l0.copy_(theirs(ours.of_input.bias))
        torchs.bias_hh_l0.zero_()
    inputs = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(inputs), torchs(inputs)[0])


def test_the_transformer_knows_how_long_ago():
    schema = flux_schema()
    model, batch = model_of("transformer", schema), batch_of(schema)
    columns = VisitColumns.of(schema)
    visits = batch.visits.clone()
    visits[:, :, columns.gap] *= 3
    later = model.outputs(dataclasses.replace(batch, visits=visits))
    assert not torch.allclose(later, model.outputs(batch))


def test_heads_must_divide_the_size():
    with pytest.raises(StudyError, match="multiple of heads"):
        model_of("transformer", flux_schema(), size=10, heads=4)


class TestPathway:
    def test_a_message_follows_edges_only(self):
        schema = flux_schema()  # albumin - platelets; bilirubin stands alone
        moved = ripple(model_of("pathway_gnn", schema), batch_of(schema), "bilirubin", 2.0)
        own = [moved.markers.index("bilirubin")]
        others = [i for i in range(3) if i not in own]
        assert (np.abs(moved.mean[:, own]) > 0).all()
        np.testing.assert_allclose(moved.mean[:, others], 0.0, atol=1e-5)

    def test_a_neighbour_follows(self):
        schema = flux_schema()
        moved = ripple(model_of("pathway_gnn", schema), batch_of(schema), "albumin", 20.0)
        assert (np.abs(moved.mean[:, moved.markers.index("platelets")]) > 1e-3).all()

    def test_edges_go_both_ways_once(self):
        document = flux_document()
        document["graph"] = {
            "edges": [["albumin", "platelets"], ["platelets", "albumin"], ["albumin", "albumin"]]
        }
        assert directed_edges(FeatureSchema.model_validate(document)) == [(1, 2), (2, 1)]

    def test_it_needs_a_graph(self):
        document = flux_document()
        del document["graph"]
        with pytest.raises(StudyError, match=r"needs a \[graph\]"):
            model_of("pathway_gnn", FeatureSchema.model_validate(document))

    def test_loops_alone_are_no_graph(self):
        document = flux_document()
        document["graph"] = {"edges": [["albumin", "albumin"]]}
        with pytest.raises(StudyError, match="joins a marker to itself"):
            model_of("pathway_gnn", FeatureSchema.model_validate(document))


class TestRipple:
    def test_a_model_that_forecasts_the_last_value_moves_just_the_marker(self):
        schema = flux_schema()
        model = build_model(ModelSection(name="tcn"), schema, seed=0)  # starts at the last value
        moved = ripple(model, batch_of(schema), "albumin", 5.0)
        expected = [0.0, 5.0, 0.0]  # in its unit
        np.testing.assert_allclose(moved.mean, [expected, expected], atol=1e-3)
        np.testing.assert_allclose(moved.agreement[:, 1], 1.0)
        assert moved.horizons == (1.0, 4.0)

    def test_an_unknown_marker_is_named(self):
        schema = flux_schema()
        with pytest.raises(MisuseError, match="'sodium' is no marker of the study"):
            ripple(model_of("tcn", schema), batch_of(schema), "sodium", 1.0)

    def test_an_amount_is_in_the_unit_of_a_marker_seen_as_a_logarithm_too(self):
        schema = flux_schema()
        model = build_model(ModelSection(name="tcn"), schema, seed=0)
        moved = ripple(model, batch_of(schema), "bilirubin", 3.0)
        np.testing.assert_allclose(moved.mean[:, 0], 3.0, atol=1e-3)
        assert moved.units == ("mg/L", "mg/L", "mg/L")

    def test_who_would_leave_the_plausible_range_is_left_out(self):
        schema = flux_schema()
        model, batch = build_model(ModelSection(name="tcn"), schema, seed=0), batch_of(schema)
        few, all_ = (ripple(model, batch, "albumin", by).patients for by in (45.0, 5.0))
        assert 0 < few < all_ <= len(batch)

    @pytest.mark.parametrize(
        ("amount", "words"),
        [
            (200.0, "can move by 200 mg/L and stay between 1 and 99"),
            (0.0, "other than 0, not 0"),
            (float("nan"), "other than 0, not nan"),
            (float("-inf"), "other than 0, not -inf"),
        ],
    )
    def test_an_impossible_amount_is_one_sentence(self, amount, words):
        schema = flux_schema()
        with pytest.raises(MisuseError, match=words) as error:
            ripple(model_of("tcn", schema), batch_of(schema), "albumin", amount)
        assert "\n" not in str(error.value)

    def test_the_band_is_the_forecasts_own(self):
        schema = flux_schema()
        model, batch = model_of("pathway_gnn", schema), batch_of(schema)
        one, other = (ripple(model, batch, "albumin", by) for by in (5.0, -5.0))
        assert (one.band > 0).all()
        np.testing.assert_allclose(one.band[:, 0], other.band[:, 0], rtol=1e-4)  # not joined to it

    def test_somebody_must_have_a_value(self):
        schema = flux_schema()
        batch, columns = batch_of(schema), VisitColumns.of(schema)
        visits = batch.visits.clone()
        visits[:, :, columns.known.start] = 0.0
        nobody = dataclasses.replace(batch, visits=visits)
        with pytest.raises(MisuseError, match="no patient has a value of 'bilirubin'"):
            ripple(model_of("tcn", schema), nobody, "bilirubin", 1.0)
