"""Bounds of patients' gradients that a model knows without looking at them.

Clipping by length alone scales those gradients down most whose patients the model predicts worst,
and so biases what is learned: rare events come out rarer still, and an interval too narrow. Two
things that a model knows prevent it. The first is the length of the loss's gradient by the outputs,
at most 1: divided by it, a gradient's length depends on the inputs alone, and so does the factor.
The second are layers whose gradient is bounded anyway, which are clipped separately.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fedrx_client.training.errors import TrainingInvalid
from fedrx_client.training.parameters import Batch


@runtime_checkable
class HasOutputGradient(Protocol):
    """A model whose loss is that of a head on its outputs.

    Attributes:
        head: takes the outputs first.
    """

    head: nn.Module

    @property
    def bounded_layers(self) -> Mapping[str, float]:
        """Layers in which no patient's gradient is longer than this, whatever the weights."""

    def output_gradient_norms(self, outputs: Tensor, batch: Any, /) -> Tensor | None:  # noqa: ANN401 - its own kind
        """Return the length of each loss's gradient by the outputs, `(B,)`, at most 1, if known."""


@dataclass(frozen=True)
class ClipBounds:
    """A clipping norm shared out, so that the squares of all limits add up to its square.

    Attributes:
        rest: of the gradient outside the layers in `apart`.
        apart: by layer, the limit of its gradient.
        scale: what its gradient is multiplied by, so that it stays within.
    """

    rest: float
    apart: Mapping[str, float]
    scale: float

    @classmethod
    def of(cls, model: nn.Module, bound: float) -> "ClipBounds":
        """Make those of a model, for a bound above 0 on the whole gradient."""
        known = dict(model.bounded_layers) if isinstance(model, HasOutputGradient) else {}
        used = sum(length**2 for length in known.values())
        if used >= 1:
            raise TrainingInvalid("bounded layers would leave nothing of the clipping norm.")
        scale = min(1.0, bound)
        apart = {name: scale * length for name, length in known.items()}
        return cls(math.sqrt(bound**2 - scale**2 * used), apart, scale)

    def factors(self, lengths: Tensor, output_norms: Tensor | None) -> Tensor:
        """Return each patient's factor outside the layers apart, `(B,)` in 0..1.

        An output norm that is NaN or below 0 counts as 0: that patient contributes nothing here.
        """
        reach = lengths
        if output_norms is not None:
            pull = torch.where(output_norms > 0, output_norms, 0.0).clamp(max=1.0)
            reach = lengths / pull.to(lengths)
        reach = torch.where(lengths > 0, reach, 0.0)  # no gradient: nothing to clip
        return (self.rest / reach.clamp(min=torch.finfo(lengths.dtype).tiny)).clamp(max=1.0)

    def factors_apart(self, name: str, lengths: Tensor) -> Tensor:
        """Return each patient's factor in a layer apart, `(B,)`: equal while its bound holds."""
        within = self.apart[name] / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)
        return within.clamp(max=self.scale)


@contextmanager
def watched(model: nn.Module) -> Iterator[Callable[[Batch], Tensor | None]]:
    """Watch one forward pass; yields a function that gives its output norms, if the model can."""
    if not isinstance(model, HasOutputGradient):
        yield lambda _: None
        return
    seen: list[Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))

    def output_gradient_norms(batch: Batch) -> Tensor | None:
        if len(seen) != 1:  # a loss of several outputs has no single one
            return None
        with torch.no_grad():
            found: Tensor | None = model.output_gradient_norms(seen[0], batch)
        return found

    try:
        yield output_gradient_norms
    finally:
        handle.remove()
