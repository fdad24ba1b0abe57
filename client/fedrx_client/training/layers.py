"""Closed forms of per-patient gradients, layer by layer.

A layer's use in one forward pass leaves an activation (what went in) and a slope (the loss's
derivative by what came out), both with patients first. From these pairs follow each patient's
squared gradient norm and any weighted sum of gradients, without the gradients themselves: Bu,
Wang, Zha, Karypis (2022), arXiv:2210.00038. A layer used several times has several pairs, which
count as one longer sequence.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional

Use = tuple[Tensor, Tensor]
"""(activation, slope), patients first."""

SMALL_LAYER = 4096
"""Values; any other layer up to this size may hold its own gradients patient by patient."""

# A norm from inner products loses digits where a patient's steps cancel. Its rounding error is at
# most about this share of the sum of absolute terms, which is added, so that no norm is too small.
_GRAM_ERROR = 2e-6


class Rule(Protocol):
    """What book-keeping needs to know about one kind of layer."""

    def squared_norm(self, layer: nn.Module, uses: Sequence[Use]) -> Tensor:
        """Squared L2 norm of each patient's gradient by this layer's parameters, `(B,)`."""

    def weighted_sum(
        self, layer: nn.Module, uses: Sequence[Use], factors: Tensor
    ) -> dict[str, Tensor]:
        """Sum over patients of factor times gradient, by the layer's own parameter names."""


def own_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Trained parameters that sit directly on this module."""
    return {n: p for n, p in layer.named_parameters(recurse=False) if p.requires_grad}


def rule_for(layer: nn.Module) -> Rule | None:
    """The rule for a module that owns trained parameters; None if there is none.

    Exact types only: a subclass may compute something else with the same parameters.
    """
    if type(layer) in _RULES:
        rule = _RULES[type(layer)]
        plain = own_parameters(layer).keys() <= {"weight", "bias"}
        return rule if plain and _is_usual(layer) else None
    values = sum(p.numel() for p in own_parameters(layer).values())
    has_trained_children = any(own_parameters(c) for c in layer.modules() if c is not layer)
    return _Small() if values <= SMALL_LAYER and not has_trained_children else None


def _is_usual(layer: nn.Module) -> bool:
    """Whether an embedding has none of the options that change its gradient across patients."""
    unusual = ("max_norm", "scale_grad_by_freq", "sparse")
    return not any(getattr(layer, name, None) for name in unusual)


class _Matrix:
    """Layers whose weight gradient is a sum over steps of slope times activation transposed."""

    def pairs(self, layer: nn.Module, use: Use) -> list[Use]:
        """The use as sequences `(B, steps, in)` and `(B, steps, out)`; one for each group."""
        raise TypeError(f"{type(layer).__name__} has no matrix form for {len(use)} tensors.")

    def _sequences(self, layer: nn.Module, uses: Sequence[Use]) -> list[Use]:
        by_group = zip(*(self.pairs(layer, use) for use in uses), strict=True)
        return [
            (torch.cat([a for a, _ in group], 1), torch.cat([g for _, g in group], 1))
            for group in by_group
        ]

    def squared_norm(self, layer: nn.Module, uses: Sequence[Use]) -> Tensor:
        own, total = own_parameters(layer), uses[0][1].new_zeros(len(uses[0][1]))
        for activation, slope in self._sequences(layer, uses):
            if "weight" in own:
                total = total + _outer_squared_norm(activation, slope)
            if "bias" in own:
                total = total + slope.sum(1).square().sum(1)
        return total

    def weighted_sum(
        self, layer: nn.Module, uses: Sequence[Use], factors: Tensor
    ) -> dict[str, Tensor]:
        own = own_parameters(layer)
        weights, biases = [], []
        for activation, slope in self._sequences(layer, uses):
            weighted = (slope * factors[:, None, None]).flatten(0, 1)
            weights.append(weighted.T @ activation.flatten(0, 1))
            biases.append(weighted.sum(0))
        sums = {"weight": torch.cat(weights), "bias": torch.cat(biases)}
        return {name: sums[name].reshape(p.shape) for name, p in own.items()}


class _Linear(_Matrix):
    def pairs(self, layer: nn.Module, use: Use) -> list[Use]:  # noqa: ARG002 - one form for all
        activation, slope = use
        if activation.ndim == 2:
            return [(activation.unsqueeze(1), slope.unsqueeze(1))]
        return [(activation.flatten(1, -2), slope.flatten(1, -2))]


class _Conv1d(_Matrix):
    def pairs(self, layer: nn.Module, use: Use) -> list[Use]:
        if not isinstance(layer, nn.Conv1d):
            raise TypeError(f"{type(layer).__name__} is not a Conv1d.")
        activation, slope = use
        padded = _padded(layer, activation)
        windows = functional.unfold(
            padded.unsqueeze(2),
            kernel_size=(1, layer.kernel_size[0]),
            dilation=(1, layer.dilation[0]),
            stride=(1, layer.stride[0]),
        ).transpose(1, 2)
        slopes = slope.transpose(1, 2)
        groups = layer.groups
        return list(zip(windows.chunk(groups, 2), slopes.chunk(groups, 2), strict=True))


def _padded(layer: nn.Conv1d, activation: Tensor) -> Tensor:
    if isinstance(layer.padding, str):
        total = layer.dilation[0] * (layer.kernel_size[0] - 1) if layer.padding == "same" else 0
        left, right = total // 2, total - total // 2
    else:
        left = right = layer.padding[0]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(activation, (left, right), mode=mode)


def _outer_squared_norm(activation: Tensor, slope: Tensor) -> Tensor:
    """Squared norm of each patient's sum over steps of slope times activation, `(B,)`.

    By whichever is smaller: inner products of steps, or the matrix itself.
    """
    steps, inputs = activation.shape[1:]
    outputs = slope.shape[2]
    if steps == 1:
        return activation.square().sum((1, 2)) * slope.square().sum((1, 2))
    if 2 * steps**2 > inputs * outputs:
        return torch.einsum("bto,bti->boi", slope, activation).square().sum((1, 2))
    same = torch.einsum("bti,bui->btu", activation, activation)
    return _gram_squared_norm(same, activation.norm(dim=2), slope)


def _gram_squared_norm(similarity: Tensor, size: Tensor, slope: Tensor) -> Tensor:
    """Sum over pairs of steps of similarity times the slopes' inner product, kept from below.

    Args:
        similarity: inner products of the activations, `(B, steps, steps)`.
        size: their lengths, `(B, steps)`.
        slope: `(B, steps, out)`.
    """
    slopes = torch.einsum("bto,buo->btu", slope, slope)
    absolute = (size * slope.norm(dim=2)).sum(1).square()
    squared: Tensor = (similarity * slopes).sum((1, 2)).clamp(min=0) + _GRAM_ERROR * absolute
    return squared


class _Embedding:
    """One row of the table per token; rows that a patient repeats add up before squaring."""

    def _tokens(self, layer: nn.Module, uses: Sequence[Use]) -> tuple[Tensor, Tensor]:
        """Token numbers `(B, steps)` and slopes `(B, steps, E)`; padding has no gradient."""
        tokens = torch.cat([tokens.reshape(len(tokens), -1) for tokens, _ in uses], 1)
        slopes = torch.cat([g.reshape(len(g), -1, g.shape[-1]) for _, g in uses], 1)
        padding = layer.padding_idx
        if isinstance(padding, int):
            slopes = slopes * (tokens != padding).unsqueeze(2)
        return tokens, slopes

    def squared_norm(self, layer: nn.Module, uses: Sequence[Use]) -> Tensor:
        tokens, slopes = self._tokens(layer, uses)
        same = (tokens.unsqueeze(2) == tokens.unsqueeze(1)).to(slopes.dtype)
        return _gram_squared_norm(same, torch.ones_like(slopes[..., 0]), slopes)

    def weighted_sum(
        self, layer: nn.Module, uses: Sequence[Use], factors: Tensor
    ) -> dict[str, Tensor]:
        tokens, slopes = self._tokens(layer, uses)
        table = torch.zeros_like(own_parameters(layer)["weight"])
        weighted = (slopes * factors[:, None, None]).flatten(0, 1)
        return {"weight": table.index_add(0, tokens.flatten(), weighted)}


class _Held:
    """Small layers whose gradients are simply held, patient by patient."""

    def gradients(self, layer: nn.Module, use: Use) -> dict[str, Tensor]:
        """Each own parameter's gradient per patient, `(B, *shape)`."""
        raise TypeError(f"{type(layer).__name__} has no held form for {len(use)} tensors.")

    def _total(self, layer: nn.Module, uses: Sequence[Use]) -> dict[str, Tensor]:
        each = [self.gradients(layer, use) for use in uses]
        return {name: sum(g[name] for g in each[1:]) + each[0][name] for name in each[0]}

    def squared_norm(self, layer: nn.Module, uses: Sequence[Use]) -> Tensor:
        parts = [g.flatten(1).square().sum(1) for g in self._total(layer, uses).values()]
        return torch.stack(parts).sum(0)

    def weighted_sum(
        self, layer: nn.Module, uses: Sequence[Use], factors: Tensor
    ) -> dict[str, Tensor]:
        total = self._total(layer, uses)
        return {name: torch.tensordot(factors, g, dims=1) for name, g in total.items()}


class _LayerNorm(_Held):
    def gradients(self, layer: nn.Module, use: Use) -> dict[str, Tensor]:
        if not isinstance(layer, nn.LayerNorm):
            raise TypeError(f"{type(layer).__name__} is not a LayerNorm.")
        activation, slope = use
        shape = tuple(layer.normalized_shape)
        normal = functional.layer_norm(activation, shape, eps=layer.eps)
        per_step = (len(slope), -1, math.prod(shape))
        return _affine(layer, (normal * slope).reshape(per_step), slope.reshape(per_step), 1)


class _GroupNorm(_Held):
    def gradients(self, layer: nn.Module, use: Use) -> dict[str, Tensor]:
        if not isinstance(layer, nn.GroupNorm):
            raise TypeError(f"{type(layer).__name__} is not a GroupNorm.")
        activation, slope = use
        normal = functional.group_norm(activation, layer.num_groups, eps=layer.eps)
        per_channel = (len(slope), layer.num_channels, -1)
        return _affine(layer, (normal * slope).reshape(per_channel), slope.reshape(per_channel), 2)


def _affine(layer: nn.Module, scaled: Tensor, slope: Tensor, steps: int) -> dict[str, Tensor]:
    """Gradients of a scale and a shift, summed over the axis that holds the steps."""
    sums = {"weight": scaled.sum(steps), "bias": slope.sum(steps)}
    return {n: sums[n].reshape(-1, *p.shape) for n, p in own_parameters(layer).items()}


class _Small(_Held):
    """Plain parameters on any small module that takes and returns one tensor, patients first."""

    def gradients(self, layer: nn.Module, use: Use) -> dict[str, Tensor]:
        weights = {name: p.detach() for name, p in own_parameters(layer).items()}

        def alone(activation: Tensor, slope: Tensor) -> dict[str, Tensor]:
            def output(values: dict[str, Tensor]) -> Tensor:
                result: Tensor = functional_call(layer, values, (activation.unsqueeze(0),))
                return result

            pull_back = vjp(output, weights)[1]
            gradients: dict[str, Tensor] = pull_back(slope.unsqueeze(0))[0]
            return gradients

        each: dict[str, Tensor] = vmap(alone)(*use)
        return each


_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _Linear(),
    nn.Conv1d: _Conv1d(),
    nn.Embedding: _Embedding(),
    nn.LayerNorm: _LayerNorm(),
    nn.GroupNorm: _GroupNorm(),
}
