"""What book-keeping sees of a layer in one forward pass, and what a rule makes of it."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

LayerRecord = tuple[Tensor, Tensor]
"""(activation, backprop), patients first: the input, and the loss's derivative by the output."""

# A norm from inner products loses digits where a patient's steps cancel. Its rounding error is at
# most about this share of the sum of absolute terms, which is added, so that no norm is too small.
_GRAM_ERROR = 2e-6
_USUAL = 1e9


class LayerGradients(Protocol):
    """One layer's gradients per patient, as far as clipping needs them."""

    @property
    def squared_norm(self) -> Tensor:
        """Squared L2 norm of each patient's gradient by this layer's parameters, `(B,)`."""

    def weighted_sum(self, factors: Tensor) -> dict[str, Tensor]:
        """Sum over patients of factor times gradient, by the layer's own parameter names."""


Rule = Callable[[nn.Module, Sequence[LayerRecord]], LayerGradients]
"""One kind of layer's gradients, from all its uses in one forward pass; at least one."""


def own_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Trained parameters that sit directly on this module."""
    return {n: p for n, p in layer.named_parameters(recurse=False) if p.requires_grad}


def lengths(tensor: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """L2 norms over some axes; the square of a very small or large value does not spoil them.

    Weights chosen badly pair activations of 1e-23 with backprops of 1e20: their product counts.
    """
    largest = tensor.abs().amax(dim, keepdim=True)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    scaled: Tensor = torch.linalg.vector_norm(tensor / scale, dim=dim, keepdim=True) * scale
    return scaled.squeeze(dim)


def kept_from_below(squared: Tensor, size: Tensor, length: Tensor) -> Tensor:
    """A squared norm of a sum over steps, `(B,)`, raised by what rounding may have taken off.

    Where a step's product of squares could leave float32, the norm is taken to be the sum of the
    steps' norms, which it never exceeds.

    Args:
        squared: as computed, `(B,)`.
        size: lengths of the activations, `(B, steps)`.
        length: lengths of the backprops, `(B, steps)`.
    """
    absolute = (size * length).sum(1).square()
    usual = (size.amax(1) <= _USUAL) & (length.amax(1) <= _USUAL)
    return torch.where(usual, squared.clamp(min=0) + _GRAM_ERROR * absolute, absolute)


def gram_squared_norm(similarity: Tensor, size: Tensor, backprop: Tensor) -> Tensor:
    """Sum over pairs of steps of similarity times the backprops' inner product, kept from below.

    Args:
        similarity: inner products of the activations, `(B, steps, steps)`.
        size: their lengths, `(B, steps)`.
        backprop: `(B, steps, out)`.
    """
    backprops = torch.bmm(backprop, backprop.transpose(1, 2))
    return kept_from_below((similarity * backprops).sum((1, 2)), size, lengths(backprop, 2))
