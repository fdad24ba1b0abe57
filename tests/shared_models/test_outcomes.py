"""Blocks become tensors, and every kind of outcome a loss and a prediction."""

import dataclasses

import numpy as np
import pytest
import torch
from omics_cohorts import GENES, TARGETS, omics_cohort, omics_schema
from torch.nn import functional

from fedrx_common.errors import DataError
from fedrx_models.cohort.cohort import concatenate
from fedrx_models.cohort.encoding import (
    block_columns,
    encode,
    flat_inputs,
    flat_width,
    outcome_count,
)
from fedrx_models.contract import Prediction, Probability, SurvivalCurves
from fedrx_models.heads import OutcomeHead
from fedrx_protocol.study.schema import SurvivalTarget

KINDS = list(TARGETS)


@pytest.fixture(params=KINDS)
def schema(request):
    return omics_schema(request.param)


@pytest.fixture
def batch(schema):
    return encode(omics_cohort(schema, 40), schema)


class TestCohort:
    def test_blocks_are_selected_pooled_and_part_of_the_fingerprint(self, schema):
        cohort = omics_cohort(schema, 10)
        some = cohort.select([3, 1])
        assert np.array_equal(
            some.blocks["mutation"], cohort.blocks["mutation"][[3, 1]], equal_nan=True
        )
        other = omics_cohort(schema, 5, seed=1, site="b")
        pooled = concatenate([cohort, other])
        assert pooled.blocks["expression"].shape == (15, len(GENES))
        assert np.array_equal(pooled.target[10:], other.target, equal_nan=True)
        blocks = {**cohort.blocks, "mutation": 1 - cohort.blocks["mutation"]}
        assert dataclasses.replace(cohort, blocks=blocks).fingerprint != cohort.fingerprint
        order = np.arange(10)[::-1]
        assert cohort.select(order).fingerprint == cohort.fingerprint

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"blocks": {}}, "block 'expression' of the study is missing"),
            ({"blocks": {"expression": 0, "mutation": 0, "rna": 0}}, "block 'rna' is not in the"),
            ({"blocks": {"expression": np.zeros((3, 2)), "mutation": 0}}, r"has shape \(3, 2\)"),
            (
                {"blocks": {"expression": np.full((3, 6), 21.0), "mutation": np.zeros((3, 6))}},
                "'expression' holds 21, but the study allows -20 to 20",
            ),
        ],
    )
    def test_a_block_that_does_not_fit_is_refused(self, changes, words):
        with pytest.raises(DataError, match=words):
            dataclasses.replace(omics_cohort(omics_schema(), 3), **changes)

    @pytest.mark.parametrize(
        ("kind", "target", "words"),
        [
            ("binary", [0, 1, 2], "'toxic' holds 2, but only 0 and 1"),
            ("binary", [0, 1, np.nan], "target 'toxic' is missing for a patient"),
            ("survival", [[1, 1], [2, 0.5], [1, 1]], "'relapse, event' holds 0.5"),
            ("survival", [[1, 1], [-2, 1], [1, 1]], "'relapse, time' holds -2"),
            ("survival", [1, 2, 3], r"has shape \(3,\)"),
            ("survival", [[1, 1], [np.nan, 1], [1, 1]], "'relapse' is missing"),
            ("panel", [[1, 1, 1, 1], [np.nan] * 4, [1] * 4], "'response' is missing"),
            ("panel", [[1, 1, 1, 99], [1] * 4, [1] * 4], "'response' holds 99"),
        ],
    )
    def test_an_outcome_that_does_not_fit_is_refused(self, kind, target, words):
        cohort = omics_cohort(omics_schema(kind), 3)
        with pytest.raises(DataError, match=words):
            dataclasses.replace(cohort, target=np.array(target, dtype=float))


def test_joint_slopes_belong_to_the_losss_value():
    """What a search along a line relies on; in rounds the interval leaves the prediction alone."""
    schema = omics_schema("panel")
    batch = encode(omics_cohort(schema, 40), schema).to(torch.float64)
    outputs = torch.full_like(batch.y, 0.3).requires_grad_()
    slopes = {}
    for joint in (False, True):
        head = OutcomeHead(schema.target).double()
        head.joint = joint

        def loss(shift, head=head):
            return head(outputs + shift, batch).sum()

        (slope,) = torch.autograd.grad(loss(0.0), outputs)
        slopes[joint] = float(slope.sum()), float((loss(1e-6) - loss(-1e-6)).detach()) / 2e-6
    assert slopes[True][0] == pytest.approx(slopes[True][1], rel=1e-3)
    assert slopes[False][0] != pytest.approx(slopes[False][1], rel=1e-2)


class TestEncoding:
    def test_blocks_lie_side_by_side_with_zeros_where_missing(self, schema, batch):
        cohort = omics_cohort(schema, 40)
        columns = block_columns(schema)
        assert columns == {"expression": slice(0, 6), "mutation": slice(6, 12)}
        missing = np.isnan(cohort.blocks["expression"]).all(axis=1)
        assert 0 < missing.sum() < 40
        assert not batch.omics[missing, columns["expression"]].any()
        assert torch.equal(batch.omics_observed[:, 0], torch.from_numpy(~missing).float())
        assert batch.omics_observed[:, 1].all()
        known = torch.tensor(cohort.blocks["mutation"]).float()
        assert torch.equal(batch.omics[:, columns["mutation"]], known)

    def test_a_block_is_centred_by_its_public_reference_gene_by_gene(self):
        schema = omics_schema()
        means = tuple(float(i) for i in range(6))
        block = schema.blocks[0].model_copy(update={"mean": means, "scale": 2.0})
        schema = schema.model_copy(update={"blocks": (block, schema.blocks[1])})
        cohort = omics_cohort(schema, 5, seed=3)
        expected = (cohort.blocks["expression"] - np.arange(6)) / 2
        found = encode(cohort, schema).omics[:, :6].numpy()
        assert found == pytest.approx(np.nan_to_num(expected), abs=1e-6)

    def test_a_batch_says_what_was_observed(self, schema, batch):
        k = outcome_count(schema.target)
        assert batch.y.shape == batch.y_observed.shape == (40, k)
        assert not batch.y[batch.y_observed == 0].any()
        assert flat_inputs(batch).shape == (40, flat_width(schema))
        picked = batch.select(torch.tensor([5, 2]))
        assert torch.equal(picked.omics[0], batch.omics[5])
        assert picked.to(torch.float64).y_observed.dtype == torch.float64

    def test_survival_bins_by_hand(self):
        target = SurvivalTarget(kind="survival", name="d", time_unit="m", edges=(2.0, 4.0, 8.0))
        schema = omics_schema("survival").model_copy(update={"target": target})
        cohort = dataclasses.replace(
            omics_cohort(schema, 7),
            target=np.array([[2, 1], [2.1, 1], [3, 0], [4, 0], [9, 1], [0, 1], [1, 0]], float),
        )
        batch = encode(cohort, schema)
        event = [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]]
        risk = [[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]]
        assert batch.y.tolist() == event
        assert batch.y_observed.tolist() == risk


class TestHead:
    def test_one_loss_a_patient_whatever_is_missing(self, schema, batch):
        head = OutcomeHead(schema.target)
        outputs = torch.randn(batch.y.shape, generator=torch.Generator().manual_seed(0))
        losses = head(outputs, batch)
        assert losses.shape == (40,)
        changed = torch.where(batch.y_observed > 0, outputs, outputs + 5)
        assert torch.equal(head(changed, batch), losses)

    def test_a_patient_of_whom_nothing_was_observed_pulls_nowhere(self, schema, batch):
        outputs = torch.zeros_like(batch.y, requires_grad=True)
        nobody = dataclasses.replace(batch, y_observed=torch.zeros_like(batch.y))
        head = OutcomeHead(schema.target)
        head(outputs, nobody).sum().backward()
        assert not outputs.grad.any()
        assert all(not parameter.grad.any() for parameter in head.parameters())

    def test_outputs_of_zero_mean_the_public_reference(self, schema, batch):
        prediction = OutcomeHead(schema.target).predict(torch.zeros_like(batch.y))
        match schema.target.kind:
            case "continuous":
                assert isinstance(prediction, Prediction)
                assert prediction.mean == pytest.approx(np.zeros(40))
            case "binary":
                assert isinstance(prediction, Probability)
                assert prediction.mean == pytest.approx(np.full(40, 0.4))
            case "survival":
                assert isinstance(prediction, SurvivalCurves)
                assert prediction.mean[0] == pytest.approx(0.8 ** np.arange(1, 5))
            case "panel":
                assert prediction.mean[0] == pytest.approx(np.arange(4.0))
                assert prediction.upper.shape == (40, 4)

    def test_absurd_outputs_give_finite_losses_and_predictions(self, schema, batch):
        head = OutcomeHead(schema.target)
        for outputs in (torch.full_like(batch.y, 1e6), torch.full_like(batch.y, -1e6)):
            assert head(outputs, batch).isfinite().all()
            assert np.isfinite(head.predict(outputs).mean).all()

    def test_survival_is_the_likelihood_of_what_was_seen(self):
        schema = omics_schema("survival")
        batch = encode(omics_cohort(schema, 30), schema)
        outputs = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
        head = OutcomeHead(schema.target)
        hazards = torch.sigmoid(outputs + head.offset)
        likelihood = torch.where(batch.y > 0, hazards, 1 - hazards)
        likelihood = torch.where(batch.y_observed > 0, likelihood, 1.0).prod(dim=1)
        assert torch.allclose(head(outputs, batch), -likelihood.log(), atol=1e-5)

    def test_a_panel_averages_over_the_drugs_that_were_given(self):
        schema = omics_schema("panel")
        batch = encode(omics_cohort(schema, 30), schema)
        head = OutcomeHead(schema.target)
        with torch.no_grad():
            head.log_reach.weight.fill_(0.3)
        outputs = torch.zeros_like(batch.y)
        one = batch.y_observed[:, 0] > 0
        alone = dataclasses.replace(
            batch, y_observed=batch.y_observed * torch.tensor([1.0, 0, 0, 0])
        )
        fit = functional.huber_loss(outputs[one, 0], batch.y[one, 0], reduction="none")
        assert (head(outputs, alone)[one] >= fit).all()
        assert not head(outputs, alone)[~one].any()
