"""How many patients go through a model at a time, and how exactly the device computes them.

One patient must not change what the others contribute, not even a last digit: with badly chosen
weights any digit matters. Where a promise is made, a pass therefore has a fixed number of rows,
filled up with copies that count for nothing, and that number comes from public numbers. What holds:

* The same products and loops run for every pass, for all patients. A row's result depends on that
  row's numbers, and on its place only if a kernel treats the ends of a tensor differently.
* A CPU does so where a tensor's size is not a multiple of its vectors, where it shares work out
  among threads, and in MKL's products of few columns. Rows are a multiple of `ROWS_STEP`, one
  thread does the work, and a setting stops MKL (`fedrx_client/__init__.py`), so none of this
  happens; a test holds every model to it, bit by bit.
* On an accelerator the same kernels run for the same shape, but that a place in it means nothing is
  not tested here. Its float32 is then off by about 1e-7 of each patient, within the clipping margin
  for all weights but those chosen to magnify it.

Courses of visits are padded to the longest that a study allows, and most patients have far fewer.
They go through longest first, cut to a half of that, a quarter and so on, each patient as their own
visits allow, independent of the others.

Without a promise a pass has as many rows as there are patients, at most a number fixed on a CPU,
and on an accelerator as many as its free memory holds, which is found by trying.

Mixed precision stays off where gradients are clipped: in bfloat16 or TF32 rounding is 1e-3 of each
patient, and a few hundred others would move the sum further than the one patient may. Convolutions
on CUDA use TF32 by default, so it is switched off for them. Without privacy nothing is promised,
and TF32 is on; bfloat16 as well, where the study asks for it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from math import ceil
from typing import Any, Protocol, Self, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from fedrx_client.training.parameters import Batch, MakesUp
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.contract import AnyPrediction, PatientModel

BatchT = TypeVar("BatchT", bound=Batch)
ResultT = TypeVar("ResultT")

ROWS_STEP = 32
"""Rows of a fixed pass are a multiple of this: as many numbers as a vector loop takes at once."""

USUAL_ROWS = 128
"""Rows of a fixed pass where no public number of patients is known."""

MOST_ON_ACCELERATOR = 4096
"""Rows of a fixed pass there; more would only make the rounding of their sum grow."""

CPU_MICROBATCH = 1024
"""Patients in a pass that promises nothing; passes are added in float64."""

FIRST_MICROBATCH = 16_384
"""Patients in such a pass on an accelerator, unless its memory holds fewer."""

_FASTER_IN_FEWER_DIGITS = frozenset({"cuda"})


@runtime_checkable
class PaddedBatch(Batch, Protocol):
    """Patients with visits, padded to one length."""

    def padded_lengths(self) -> Tensor:
        """Return how many visits each patient is padded to, `(B,)`; 0 in a study without visits."""

    def cut_to(self, visits: int, /) -> Self:
        """Return the same patients, with so many visits."""


def rows_for(model: nn.Module, expected: float) -> int:
    """Return the rows of a fixed pass, few enough that a small site has little padding.

    Args:
        model: courses need fewer, as they go through in several groups of like length.
        expected: patients in a step at an average site, from agreed numbers only.
    """
    one = model.made_up(1) if isinstance(model, MakesUp) else None
    courses = isinstance(one, PaddedBatch) and bool(one.padded_lengths().any())
    share, least, most = (4, 32, 128) if courses else (2, 64, 256)
    if not on_cpu(model):
        share, most = 1, MOST_ON_ACCELERATOR
    return min(most, max(least, ROWS_STEP * ceil(expected / share / ROWS_STEP)))


def fixed_passes(batch: BatchT, rows: int) -> Iterator[tuple[BatchT, int]]:
    """Yield batches of exactly `rows` rows, and how many of the first are patients.

    The rows after them repeat the first one. Without patients there is no batch.
    """
    order, lengths = _longest_first(batch)
    start = 0
    while start < len(batch):
        count = min(rows, _alike(lengths[start:]))
        some = _filled(batch, order[start : start + count], rows)
        yield (some.cut_to(int(lengths[start])) if isinstance(some, PaddedBatch) else some), count
        start += count


def predictions(model: PatientModel, batch: PatientBatch, rows: int) -> AnyPrediction:
    """Predict in fixed passes, patients first."""
    if not len(batch):
        return model.predict(batch)
    splits = torch.split(torch.arange(len(batch)), rows)
    with precision(model, clipped=True):
        parts = [model.predict(_filled(batch, some, rows)) for some in splits]
    joined: dict[str, Any] = {
        field.name: np.concatenate(
            [
                getattr(part, field.name)[: len(some)]
                for part, some in zip(parts, splits, strict=True)
            ]
        )
        for field in fields(parts[0])
        if isinstance(getattr(parts[0], field.name), np.ndarray)
    }
    return replace(parts[0], **joined)


def _filled(batch: BatchT, positions: Tensor, rows: int) -> BatchT:
    """Select these patients, and copies of the first of them up to so many rows."""
    return batch.select(torch.cat([positions, positions[:1].expand(rows - len(positions))]))


_fits: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def microbatches(
    model: nn.Module, batch: BatchT, work: Callable[[BatchT], ResultT]
) -> Iterator[ResultT]:
    """Do the work for a few patients at a time, as many as there is room for; none for no patient.

    For sums that promise nothing. A pass that does not fit is done again in halves, and what fits
    is remembered for this model.

    Raises:
        torch.OutOfMemoryError: a single patient does not fit.
    """
    order, lengths = _longest_first(batch)
    unsorted = torch.arange(len(batch))
    usual = CPU_MICROBATCH if on_cpu(model) else FIRST_MICROBATCH
    start = 0
    while start < len(batch):
        count = min(_fits.get(model, usual), _alike(lengths[start:]))
        positions = order[start : start + count]
        # Nothing is copied where these are all patients in the batch's order.
        some = batch if torch.equal(positions, unsorted) else batch.select(positions)
        some = some.cut_to(int(lengths[start])) if isinstance(some, PaddedBatch) else some
        try:
            done = work(some)
        except torch.OutOfMemoryError:
            if count == 1:
                raise
        else:
            yield done
            start += count
            continue
        # Outside the handler, which would keep the tensors of the failed pass alive.
        _fits[model] = max(1, count // 2)
        torch.cuda.empty_cache()


def _longest_first(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the patients' positions, longest first, and their padded lengths in that order."""
    if not isinstance(batch, PaddedBatch):
        return torch.arange(len(batch)), torch.zeros(len(batch))
    lengths, order = batch.padded_lengths().cpu().sort(descending=True, stable=True)
    return order, lengths


def _alike(lengths: Tensor) -> int:
    """Count how many are as long as the first; lengths fall."""
    return int((lengths == lengths[0]).sum())


def on_cpu(model: nn.Module) -> bool:
    """Return whether all of a model is on the CPU."""
    return _kinds(model) <= {"cpu"}


def _kinds(model: nn.Module) -> set[str]:
    """Return the kinds of device that hold the model."""
    return {p.device.type for p in model.parameters()}


@contextmanager
def precision(model: nn.Module, *, clipped: bool, mixed: bool = False) -> Iterator[None]:
    """Set how exactly products are computed: what is clipped, and all on a CPU, in float32.

    The rest may use fewer digits on CUDA: TF32, or bfloat16 where `mixed` asks for it. What is
    clipped is computed by one thread of the CPU: several would cut tensors where no vector ends.
    The settings from before have no effect meanwhile, and return afterwards.
    """
    exactly = clipped or not _kinds(model) <= _FASTER_IN_FEWER_DIGITS
    before, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    if clipped:
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest" if exactly else "high")
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=not exactly))
            for kind in _kinds(model):
                fewer = mixed and not exactly
                stack.enter_context(torch.autocast(kind, torch.bfloat16, enabled=fewer))
            yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_num_threads(threads)
