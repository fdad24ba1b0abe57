"""How many patients go through a model at a time, and how exactly a device must count meanwhile.

A sum over patients may be taken in any number of passes. On a CPU the number is fixed, so that not
a bit of a run depends on the machine; on an accelerator it is as many as its free memory holds,
which is found by trying.

Mixed precision stays off where gradients are clipped. An accelerator picks another kernel for
another number of patients, so that leaving one out moves the rounding of all others. In float32
that is 1e-7 of each, within the clipping margin; in bfloat16 or TF32 it is 1e-3 of each, and a few
hundred others would move the sum further than the one patient may. Convolutions on CUDA use TF32
unless told otherwise, so this is told to them. Without privacy nothing is promised, and TF32 is on;
bfloat16 as well, where the study says so.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fedrx_client.training.parameters import Batch

BatchT = TypeVar("BatchT", bound=Batch)
ResultT = TypeVar("ResultT")

ON_CPU = 1024
"""Patients in one pass; passes are added in float64, so that rounding does not grow with a site."""

FIRST_TRY = 16_384
"""Patients in one pass on an accelerator, unless its memory says otherwise."""

_FASTER_IN_FEWER_DIGITS = frozenset({"cuda"})

_fits: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def in_passes(
    model: nn.Module, batch: BatchT, work: Callable[[BatchT], ResultT]
) -> Iterator[ResultT]:
    """Do the work for a few patients at a time, as many as there is room for; none for no patient.

    A pass that does not fit is done again in halves, and what fits is remembered for this model.

    Raises:
        torch.OutOfMemoryError: a single patient does not fit.
    """
    start = 0
    while start < len(batch):
        at_once = _patients_at_once(model)
        count = min(at_once, len(batch) - start)
        whole = count == len(batch)  # nothing is copied where one pass will do
        some = batch if whole else batch.select(torch.arange(start, start + count))
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


def _patients_at_once(model: nn.Module) -> int:
    return _fits.get(model, ON_CPU if _kinds(model) <= {"cpu"} else FIRST_TRY)


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
