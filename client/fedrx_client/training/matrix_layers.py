"""Closed forms for layers whose weight gradient is a product of backprops and activations.

A linear layer and a convolution both have the gradient `sum over steps of backprop x activation`.
Its norm per patient comes from whichever is cheapest: one product of lengths (a single step), inner
products of steps (few steps, wide layer), or the gradients themselves, which are then kept for the
weighted sum as long as they fit. No patient's gradient outlives the pass it was made in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

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
        """Sum factor times gradient over patients, by the layer's own parameter names."""


Rule = Callable[[nn.Module, Sequence[LayerRecord]], LayerGradients]
"""One kind of layer's gradients, from all its uses in one forward pass; at least one."""


def own_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained parameters that belong directly to this module."""
    return {n: p for n, p in layer.named_parameters(recurse=False) if p.requires_grad}


def lengths(tensor: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Compute L2 norms over some axes, safe against squares of very small or large values.

    Weights chosen badly pair activations of 1e-23 with backprops of 1e20: their product counts.
    """
    largest = tensor.abs().amax(dim, keepdim=True)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    scaled: Tensor = torch.linalg.vector_norm(tensor / scale, dim=dim, keepdim=True) * scale
    return scaled.squeeze(dim)


def kept_from_below(squared: Tensor, size: Tensor, length: Tensor) -> Tensor:
    """Raise a squared norm of a sum over steps, `(B,)`, by what rounding may have taken off.

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
    """Sum similarity times the backprops' inner product over pairs of steps, kept from below.

    Args:
        similarity: inner products of the activations, `(B, steps, steps)`.
        size: their lengths, `(B, steps)`.
        backprop: `(B, steps, out)`.
    """
    backprops = torch.bmm(backprop, backprop.transpose(1, 2))
    return kept_from_below((similarity * backprops).sum((1, 2)), size, lengths(backprop, 2))


HELD_VALUES = 2**24
"""Gradient values a layer may hold for the weighted sum: 64 MiB in float32."""

# Above this, time for inner products of steps exceeds what holding the gradients saves (measured
# on one core, widths 32 to 256, 16 to 64 steps).
_FEW_STEPS = 0.4


def linear(layer: nn.Module, uses: Sequence[LayerRecord]) -> LayerGradients:
    """Apply the rule of `nn.Linear` to patients, or to any number of steps of each patient."""
    activations, backprops = list[Tensor](), list[Tensor]()
    for activation, backprop in uses:
        one_step = activation.ndim == 2
        activations.append(activation.unsqueeze(1) if one_step else activation.flatten(1, -2))
        backprops.append(backprop.unsqueeze(1) if one_step else backprop.flatten(1, -2))
    return _gradients(layer, [[_longer(activations)]], _longer(backprops))


def conv1d(layer: nn.Module, uses: Sequence[LayerRecord]) -> LayerGradients:
    """Apply the rule of `nn.Conv1d` with any options: for each tap a linear layer."""
    if not isinstance(layer, nn.Conv1d):
        raise TypeError(f"{type(layer).__name__} is not a Conv1d.")
    stride, dilation, size = layer.stride[0], layer.dilation[0], layer.kernel_size[0]
    if isinstance(layer.padding, str):
        total = dilation * (size - 1) if layer.padding == "same" else 0
        left, right = total // 2, total - total // 2
    else:
        left = right = layer.padding[0]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    # The inputs of each weight of the kernel, `(B, steps, channels)`; nothing is copied.
    inputs = []
    for activation, backprop in uses:
        padded = functional.pad(activation, (left, right), mode=mode)
        reach = stride * (backprop.shape[2] - 1) + 1
        starts = [dilation * tap for tap in range(size)]
        inputs.append([padded[:, :, i : i + reach : stride].transpose(1, 2) for i in starts])
    taps = [_longer(list(tap)).chunk(layer.groups, 2) for tap in zip(*inputs, strict=True)]
    backprops = _longer([backprop.transpose(1, 2) for _, backprop in uses])
    return _gradients(layer, [list(group) for group in zip(*taps, strict=True)], backprops)


@dataclass(frozen=True, eq=False)
class _Product:
    """Activations `(B, steps, in)` and backprops `(B, steps, out)` of a matrix of weights."""

    activation: Tensor
    backprop: Tensor
    held: Tensor | None
    squared_norm: Tensor

    def weighted_sum(self, factors: Tensor) -> Tensor:
        """Sum to `(out, in)`."""
        if self.held is not None:
            summed: Tensor = torch.tensordot(factors, self.held, dims=1)
            return summed
        weighted = (self.backprop * factors[:, None, None]).flatten(0, 1)
        total: Tensor = weighted.T @ self.activation.flatten(0, 1)
        return total


@dataclass(frozen=True, eq=False)
class _MatrixGradients:
    """Weight gradients by group and tap, and the bias's, which are simply held `(B, out)`."""

    layer: nn.Module
    products: list[list[_Product]]
    biases: Tensor

    @property
    def squared_norm(self) -> Tensor:
        """`(B,)`."""
        total = torch.zeros_like(self.biases[:, 0])
        for taps in self.products:
            total = total + sum(product.squared_norm for product in taps)
        if "bias" in own_parameters(self.layer):
            total = total + self.biases.square().sum(1)
        return total

    def weighted_sum(self, factors: Tensor) -> dict[str, Tensor]:
        """Sum by the layer's own parameter names."""
        own, sums = own_parameters(self.layer), {}
        if "weight" in own:
            by_group = [[tap.weighted_sum(factors) for tap in taps] for taps in self.products]
            # A lone tap is a linear layer's: stacking it would copy it value by value.
            groups = [torch.stack(taps, -1) if taps[1:] else taps[0] for taps in by_group]
            sums["weight"] = torch.cat(groups)
        if "bias" in own:
            sums["bias"] = factors @ self.biases
        return {name: sums[name].reshape(p.shape) for name, p in own.items()}


def _gradients(layer: nn.Module, groups: list[list[Tensor]], backprop: Tensor) -> LayerGradients:
    """Combine activations by group and tap, `(B, steps, in)`, and backprops `(B, steps, out)`."""
    biases = backprop.sum(1)
    if "weight" not in own_parameters(layer):
        return _MatrixGradients(layer, [], biases)
    backprops = backprop.chunk(len(groups), 2)
    pairs = zip(groups, backprops, strict=True)
    products = [[_product(tap, own) for tap in taps] for taps, own in pairs]
    return _MatrixGradients(layer, products, biases)


def _longer(parts: list[Tensor]) -> Tensor:
    """Join several uses, which count as one longer sequence."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _product(activation: Tensor, backprop: Tensor) -> _Product:
    patients, steps, inputs = activation.shape
    outputs = backprop.shape[2]
    if steps == 1:
        alone = lengths(activation, (1, 2)) * lengths(backprop, (1, 2))
        return _Product(activation, backprop, None, alone.square())
    if steps * (inputs + outputs) <= _FEW_STEPS * inputs * outputs:
        same = torch.bmm(activation, activation.transpose(1, 2))
        squared = gram_squared_norm(same, lengths(activation, 2), backprop)
        return _Product(activation, backprop, None, squared)
    if patients * inputs * outputs <= HELD_VALUES:
        held = torch.bmm(backprop.transpose(1, 2), activation)
        return _Product(activation, backprop, held, _lengths(held).square())
    at_once = max(1, HELD_VALUES // (inputs * outputs))
    parts = zip(torch.split(activation, at_once), torch.split(backprop, at_once), strict=True)
    squared = torch.cat([_lengths(torch.bmm(g.transpose(1, 2), a)) for a, g in parts]).square()
    # The sum computes them again in another order: where steps cancel, other digits remain.
    squared = kept_from_below(squared, lengths(activation, 2), lengths(backprop, 2))
    return _Product(activation, backprop, None, squared)


def _lengths(matrices: Tensor) -> Tensor:
    """Return the L2 norm of each patient's matrix, `(B,)`."""
    found: Tensor = torch.linalg.vector_norm(matrices, dim=(1, 2))
    return found
