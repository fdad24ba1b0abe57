"""How many patients go through a model at a time, and how exactly a device must count meanwhile.

A sum over patients may be taken in any number of passes. On a CPU the number is fixed, so that not
a bit of a run depends on the machine; on an accelerator it is as many as its free memory holds,
which is found by trying.

Courses of visits are padded to the longest that a study allows, and most patients have far fewer.
They go through longest first, cut to a half of that, a quarter and so on, each patient as the own
visits allow and whatever the others' are. Who takes part was decided before, and a patient's own
gradient is the same in any company.

Mixed precision stays off where gradients are clipped. An accelerator picks another kernel for
another number of patients, so that leaving one out moves the rounding of all others. In float32
that is 1e-7 of each, within the clipping margin; in bfloat16 or TF32 it is 1e-3 of each, and a few
hundred others would move the sum further than the one patient may. Convolutions on CUDA use TF32
unless told otherwise, so this is told to them. Without privacy nothing is promised, and TF32 is on;
bfloat16 as well, where the study says so.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, Self, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fedrx_client.training.parameters import Batch

BatchT = TypeVar("BatchT", bound=Batch)
ResultT = TypeVar("ResultT")

ON_CPU = 1024
"""Patients in one pass; passes are added in float64, so that rounding does not grow with a site."""

FIRST_TRY = 16_384
"""Patients in one pass on an accelerator, unless its memory says otherwise."""

_FASTER_IN_FEWER_DIGITS = frozenset({"cuda"})


@runtime_checkable
class Courses(Batch, Protocol):
    """Patients with visits, padded to one length."""

    def padded_lengths(self) -> Tensor:
        """How many visits each patient is padded to, `(B,)`; 0 in a study without visits."""

    def cut_to(self, visits: int, /) -> Self:
        """The same patients, with so many visits."""


_fits: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def in_passes(
    model: nn.Module, batch: BatchT, work: Callable[[BatchT], ResultT]
) -> Iterator[ResultT]:
    """Do the work for a few patients at a time, as many as there is room for; none for no patient.

    A pass that does not fit is done again in halves, and what fits is remembered for this model.

    Raises:
        torch.OutOfMemoryError: a single patient does not fit.
    """
    order, lengths = _longest_first(batch)
    start = 0
    while start < len(batch):
        count = _patients_at_once(model, lengths[start:])
        some = _together(batch, order[start : start + count], int(lengths[start]))
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
    """Positions of the patients, and their padded lengths in that order."""
    if not isinstance(batch, Courses):
        return torch.arange(len(batch)), torch.zeros(len(batch))
    lengths, order = batch.padded_lengths().cpu().sort(descending=True, stable=True)
    return order, lengths


def _together(batch: BatchT, positions: Tensor, length: int) -> BatchT:
    """These patients, cut to that length; nothing is copied where they are all, as they stand."""
    everybody = torch.equal(positions, torch.arange(len(batch)))
    some = batch if everybody else batch.select(positions)
    return some.cut_to(length) if isinstance(some, Courses) else some


def _patients_at_once(model: nn.Module, lengths: Tensor) -> int:
    """How many of the patients still to come go through next; their padded `lengths` fall."""
    usual = ON_CPU if _kinds(model) <= {"cpu"} else FIRST_TRY
    alike = int((lengths == lengths[0]).sum())
    return min(_fits.get(model, usual), alike)


def _kinds(model: nn.Module) -> set[str]:
    """The kinds of device that hold the model."""
    return {p.device.type for p in model.parameters()}


@contextmanager
def precision(model: nn.Module, *, clipped: bool, mixed: bool = False) -> Iterator[None]:
    """How exactly products are computed: what is clipped, and all on a CPU, in float32.

    What is not may use fewer digits on CUDA: TF32, or bfloat16 where `mixed` asks for it. What was
    set before is set again afterwards, and until then it counts for nothing.
    """
    exactly = clipped or not _kinds(model) <= _FASTER_IN_FEWER_DIGITS
    before = torch.get_float32_matmul_precision()
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
