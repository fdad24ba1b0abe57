"""Sums in several passes: as many patients as there is room for, and in full precision."""

import dataclasses

import numpy as np
import pytest
import torch
from flux_cohorts import flux_cohort, flux_schema
from omics_cohorts import omics_cohort, omics_schema
from torch import nn

from fedrx_client.training.bookkeeping import plain_gradient
from fedrx_client.training.clipping import clipped_gradient_sum, gradient_sum, public_rows
from fedrx_client.training.errors import TrainingInvalid
from fedrx_client.training.local_epochs import LocalSettings
from fedrx_client.training.microbatches import CPU_MICROBATCH, microbatches, precision
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.registry import build_model, models_of
from fedrx_protocol.study.study import ModelSection

torch.set_num_threads(1)


def patients(count):
    return PatientBatch.tabular(torch.arange(float(count))[:, None], torch.zeros(count))


class Room:
    """Work that fits for so many patients only, and remembers whom it saw."""

    def __init__(self, most):
        self.most, self.tried, self.seen = most, [], []

    def __call__(self, batch):
        self.tried.append(len(batch))
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("no room")
        self.seen += batch.x[:, 0].tolist()
        return len(batch)


@pytest.mark.parametrize("count", [0, 1, CPU_MICROBATCH, CPU_MICROBATCH + 1, 3 * CPU_MICROBATCH])
def test_everybody_is_in_one_pass_exactly(count):
    room = Room(CPU_MICROBATCH)
    assert sum(microbatches(nn.Linear(1, 1), patients(count), room)) == count
    assert room.seen == list(range(count))
    assert max(room.tried, default=0) <= CPU_MICROBATCH


@pytest.mark.parametrize("most", [1, 3, 100])
def test_what_does_not_fit_is_halved_and_the_room_is_remembered(most):
    model, room = nn.Linear(1, 1), Room(most)
    assert sum(microbatches(model, patients(250), room)) == 250
    assert room.seen == list(range(250))
    again = Room(most)
    list(microbatches(model, patients(250), again))
    assert max(again.tried) <= most


def test_a_patient_who_does_not_fit_is_a_failure_of_the_device():
    with pytest.raises(torch.OutOfMemoryError):
        list(microbatches(nn.Linear(1, 1), patients(5), Room(0)))


@pytest.mark.parametrize(
    "take", [gradient_sum, lambda m, b: clipped_gradient_sum(m, b, 0.1).vector]
)
def test_sums_do_not_depend_on_the_room(take, monkeypatch):
    schema = omics_schema("panel")
    model = build_model(ModelSection(name="genomic_cnn"), schema, seed=0)
    batch = encode(omics_cohort(schema, 60), schema)
    whole = take(model, batch)
    monkeypatch.setattr("fedrx_client.training.microbatches.CPU_MICROBATCH", 7)
    assert np.allclose(take(model, batch), whole, rtol=1e-5, atol=1e-6)
    assert np.abs(whole).sum() > 0


def courses(count, most=24):
    """Patients with 2 to `most` visits, and a model off its start."""
    schema = flux_schema(most=most)
    model = build_model(ModelSection(name="tcn", channels=4), schema, seed=0)
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(0).normal(0, 0.1, vector.shape))
    return model, encode(flux_cohort(schema, count), schema)


def padded(batch):
    """How many rows of padding a batch brings."""
    return int((batch.visits.shape[1] - batch.lengths()).sum())


def test_courses_go_through_once_each_longest_first_and_with_little_padding():
    model, batch = courses(150)
    batch = dataclasses.replace(batch, x=torch.arange(150.0)[:, None])
    passes = list(microbatches(model, batch, lambda some: some))
    assert sorted(torch.cat([some.x for some in passes])[:, 0].tolist()) == list(range(150))
    shapes = [some.visits.shape[1] for some in passes]
    assert shapes == sorted(set(shapes), reverse=True)
    assert set(shapes) <= {24, 12, 6, 3}
    for some, shape in zip(passes, shapes, strict=True):
        assert int(some.lengths().max()) <= shape
        assert shape == 3 or int(some.lengths().min()) > shape // 2
    assert sum(map(padded, passes)) < padded(batch) / 2


@pytest.mark.parametrize("count", [10, 150])
def test_nobody_changes_to_how_many_visits_another_is_padded(count):
    """The longest course of all would otherwise change how everybody else's numbers are rounded."""
    model, batch = courses(count)
    batch = dataclasses.replace(batch, x=torch.arange(float(count))[:, None])

    def shapes(some):
        found = microbatches(model, some, lambda one: (one.x[:, 0].tolist(), one.visits.shape[1]))
        return {patient: shape for patients, shape in found for patient in patients}

    whole = shapes(batch)
    for longest in batch.lengths().sort(descending=True).indices[:3].tolist():
        others = shapes(batch.select(torch.arange(count) != longest))
        assert others == {patient: whole[patient] for patient in others}


def test_cutting_padding_off_changes_no_sum():
    model, batch = courses(40)
    whole = plain_gradient(model, batch).double().numpy()
    assert padded(batch) > 0
    assert np.allclose(gradient_sum(model, batch), whole, rtol=1e-4, atol=1e-5)
    alone = [
        clipped_gradient_sum(model, batch.select(torch.tensor([i])), 0.1, method="vmap").vector
        for i in range(40)
    ]
    together = clipped_gradient_sum(model, batch, 0.1).vector
    assert np.allclose(together, np.sum(alone, axis=0), rtol=1e-4, atol=1e-5)
    assert np.abs(together).sum() > 0


def test_courses_that_do_not_fit_are_halved():
    model, batch = courses(150)
    batch = dataclasses.replace(batch, x=torch.arange(150.0)[:, None])
    room = Room(5)
    assert sum(microbatches(model, batch, room)) == 150
    assert sorted(room.seen) == list(range(150))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("clipped", [True, False])
def test_only_what_is_not_clipped_may_be_computed_in_fewer_digits(device, clipped, monkeypatch):
    monkeypatch.setattr("fedrx_client.training.microbatches._kinds", lambda _: {device})
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    fewer = device == "cuda" and not clipped
    with precision(nn.Linear(1, 1), clipped=clipped):
        assert torch.backends.cudnn.allow_tf32 is fewer
        assert torch.get_float32_matmul_precision() == ("high" if fewer else "highest")
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before


FAMILIES = {
    "pharmacogenomic": (omics_schema("panel"), omics_cohort),
    "flux": (flux_schema(), flux_cohort),
}


@pytest.fixture
def quick_in_bfloat16(monkeypatch):
    """A CPU that counts as a device where fewer digits are worth it."""
    monkeypatch.setattr("fedrx_client.training.microbatches._FASTER_IN_FEWER_DIGITS", {"cpu"})


def product_type(model, *, clipped, mixed):
    with precision(model, clipped=clipped, mixed=mixed):
        return model(torch.ones(1, 1)).dtype


@pytest.mark.usefixtures("quick_in_bfloat16")
def test_only_a_plain_pass_is_ever_computed_in_bfloat16():
    model = nn.Linear(1, 1)
    assert product_type(model, clipped=False, mixed=True) is torch.bfloat16
    assert product_type(model, clipped=False, mixed=False) is torch.float32
    assert product_type(model, clipped=True, mixed=True) is torch.float32
    with torch.autocast("cpu", torch.bfloat16):  # whoever calls has no say in it
        assert product_type(model, clipped=True, mixed=False) is torch.float32


def test_a_cpu_counts_in_float32_whatever_a_study_says():
    assert product_type(nn.Linear(1, 1), clipped=False, mixed=True) is torch.float32


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family in FAMILIES for name in models_of(family)]
)
def test_gradients_in_bfloat16_are_those_in_float32_but_for_its_digits(family, name, monkeypatch):
    schema, cohort = FAMILIES[family]
    model = build_model(ModelSection(name=name), schema, seed=0)
    batch = encode(cohort(schema, 60), schema)
    exact, clipped = gradient_sum(model, batch), clipped_gradient_sum(model, batch, 0.1).vector
    monkeypatch.setattr("fedrx_client.training.microbatches._FASTER_IN_FEWER_DIGITS", {"cpu"})
    mixed = gradient_sum(model, batch, mixed=True)
    assert np.array_equal(clipped_gradient_sum(model, batch, 0.1).vector, clipped)
    assert np.linalg.norm(mixed - exact) < 0.02 * np.linalg.norm(exact)
    if model.name != "last_value":  # which multiplies nothing
        assert not np.array_equal(mixed, exact)


def test_noisy_steps_cannot_ask_for_bfloat16():
    settings = {
        "sample_rate": 1.0, "steps": 1, "expected_batch_size": 1.0,
        "learning_rate": 1.0, "clipping_norm": 1.0,
    }  # fmt: skip
    assert LocalSettings(**settings, noise_multiplier=0.0, mixed=True).mixed
    with pytest.raises(TrainingInvalid):
        LocalSettings(**settings, noise_multiplier=1.0, mixed=True)


@pytest.mark.parametrize(("room", "rows"), [(10_000, 320), (512, 160), (64, 32)])
def test_on_an_accelerator_rows_are_tried_on_made_up_patients_with_room_for_twice(
    room, rows, monkeypatch
):
    """A patient who let a pass fail would change how the passes of all others are cut."""
    tried = []

    def sums(model, batch, norm, *, rows):
        tried.append(rows)
        assert torch.equal(batch.omics, model.made_up(rows).omics)
        if rows > room:
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("fedrx_client.training.microbatches._kinds", lambda _: {"cuda"})
    monkeypatch.setattr("fedrx_client.training.clipping.clipped_gradient_sum", sums)
    model = build_model(ModelSection(name="linear"), omics_schema("panel"), seed=0)
    assert public_rows(model, 300) == rows
    again = len(tried)
    assert public_rows(model, 300) == rows
    assert len(tried) == again


def test_rows_follow_from_public_numbers_and_a_small_site_waits_for_little_padding():
    model, _ = courses(1)
    tabular = build_model(ModelSection(name="linear"), omics_schema("panel"), seed=0)
    found = [public_rows(tabular, expected) for expected in (1, 50, 300, 1000)]
    assert found == [64, 64, 160, 256]
    assert [public_rows(model, expected) for expected in (1, 50, 300, 1000)] == [32, 32, 96, 128]
