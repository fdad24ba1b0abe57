"""Closed forms of per-patient gradients, layer by layer.

A layer's use in one forward pass leaves an activation and a backprop. From these pairs follow each
patient's squared gradient norm and any weighted sum of gradients: Bu, Wang, Zha, Karypis (2022),
arXiv:2210.00038. A layer used several times has several pairs, which count as one longer sequence.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional

from fedrx_client.training.matrix_layers import (
    LayerGradients,
    LayerRecord,
    Rule,
    conv1d,
    gram_squared_norm,
    lengths,
    linear,
    own_parameters,
)
from fedrx_models.flux.parts import NodeLinear
from fedrx_models.layers import SegmentLinear

SMALL_LAYER = 4096
"""Values; any other layer up to this size may hold its own gradients patient by patient."""


def rule_for(layer: nn.Module) -> Rule | None:
    """Return the rule for a module that owns trained parameters; None if there is none.

    Exact types only: a subclass may compute something else with the same parameters.
    """
    if type(layer) in _RULES:
        # Options of an embedding that change its gradient across patients.
        unusual = ("max_norm", "scale_grad_by_freq", "sparse")
        usual = not any(getattr(layer, name, None) for name in unusual)
        plain = own_parameters(layer).keys() <= {"weight", "bias"}
        return _RULES[type(layer)] if plain and usual else None
    values = sum(p.numel() for p in own_parameters(layer).values())
    has_trained_children = any(own_parameters(c) for c in layer.modules() if c is not layer)
    return _held(_small) if values <= SMALL_LAYER and not has_trained_children else None


@dataclass(frozen=True, eq=False)
class _Rows:
    """Gradients of an embedding: tokens `(B, steps)` and their backprops `(B, steps, E)`."""

    layer: nn.Module
    tokens: Tensor
    backprops: Tensor

    @property
    def squared_norm(self) -> Tensor:
        """Rows that a patient repeats are summed before they are squared."""
        same = (self.tokens.unsqueeze(2) == self.tokens.unsqueeze(1)).to(self.backprops.dtype)
        return gram_squared_norm(same, torch.ones_like(self.backprops[..., 0]), self.backprops)

    def weighted_sum(self, factors: Tensor) -> dict[str, Tensor]:
        """Sum one row of the table per token."""
        table = torch.zeros_like(own_parameters(self.layer)["weight"])
        weighted = (self.backprops * factors[:, None, None]).flatten(0, 1)
        return {"weight": table.index_add(0, self.tokens.flatten(), weighted)}


def _embedding(layer: nn.Module, uses: Sequence[LayerRecord]) -> LayerGradients:
    """Apply the rule of an embedding, whose padding has no gradient."""
    tokens = torch.cat([tokens.reshape(len(tokens), -1) for tokens, _ in uses], 1)
    backprops = torch.cat([g.reshape(len(g), -1, g.shape[-1]) for _, g in uses], 1)
    padding = layer.padding_idx
    if isinstance(padding, int):
        backprops = backprops * (tokens != padding).unsqueeze(2)
    return _Rows(layer, tokens, backprops)


@dataclass(frozen=True, eq=False)
class _SegmentGradients:
    """Gradients of a linear layer for every segment: `(B, S, P)` in, `(B, S, E)` out."""

    layer: nn.Module
    uses: Sequence[LayerRecord]

    @property
    def squared_norm(self) -> Tensor:
        """A segment is a single step of a layer of its own; several uses are steps."""
        own = own_parameters(self.layer)
        inputs, backprops = self.uses[0]
        length = lengths(backprops, 2)
        parts = [torch.zeros_like(length[:, 0])]
        if len(self.uses) > 1:
            held = {"weight": sum(torch.einsum("bsp,bse->bspe", *use) for use in self.uses)}
            held["bias"] = sum(backprop for _, backprop in self.uses)
            parts += [torch.as_tensor(held[name]).flatten(1).square().sum(1) for name in own]
        else:
            if "weight" in own:
                parts.append((lengths(inputs, 2) * length).square().sum(1))
            if "bias" in own:
                parts.append(length.square().sum(1))
        return torch.stack(parts).sum(0)

    def weighted_sum(self, factors: Tensor) -> dict[str, Tensor]:
        """Sum by the layer's own parameter names."""
        own = own_parameters(self.layer)
        sums = {name: torch.zeros_like(p) for name, p in own.items()}
        for activation, backprop in self.uses:
            if "weight" in own:  # the inputs are the narrow side
                weighted = activation * factors[:, None, None]
                sums["weight"] += torch.einsum("bsp,bse->spe", weighted, backprop)
            if "bias" in own:
                sums["bias"] += torch.tensordot(factors, backprop, dims=1)
        return sums


@dataclass(frozen=True, eq=False)
class _HeldGradients:
    """Gradients held patient by patient, `(B, *shape)` by parameter."""

    each: dict[str, Tensor]

    @property
    def squared_norm(self) -> Tensor:
        parts = [g.flatten(1).square().sum(1) for g in self.each.values()]
        return torch.stack(parts).sum(0)

    def weighted_sum(self, factors: Tensor) -> dict[str, Tensor]:
        return {name: torch.tensordot(factors, g, dims=1) for name, g in self.each.items()}


def _held(of_use: Callable[[nn.Module, LayerRecord], dict[str, Tensor]]) -> Rule:
    """Make the rule of a small layer, whose gradients are simply held, patient by patient.

    Args:
        of_use: each own parameter's gradient per patient, `(B, *shape)`, from one use.
    """

    def rule(layer: nn.Module, uses: Sequence[LayerRecord]) -> LayerGradients:
        each = [of_use(layer, use) for use in uses]
        return _HeldGradients({n: sum(g[n] for g in each[1:]) + each[0][n] for n in each[0]})

    return rule


def _norm(layer: nn.Module, use: LayerRecord) -> dict[str, Tensor]:
    """Compute a layer or group norm's scale and shift, summed over the axis of the steps."""
    activation, backprop = use
    if isinstance(layer, nn.LayerNorm):
        shape = tuple(layer.normalized_shape)
        normal = functional.layer_norm(activation, shape, eps=layer.eps)
        stepwise, steps = (len(backprop), -1, math.prod(shape)), 1
    elif isinstance(layer, nn.GroupNorm):
        normal = functional.group_norm(activation, layer.num_groups, eps=layer.eps)
        stepwise, steps = (len(backprop), layer.num_channels, -1), 2
    else:
        raise TypeError(f"{type(layer).__name__} is neither a LayerNorm nor a GroupNorm.")
    normal, backprop = normal.reshape(stepwise), backprop.reshape(stepwise)
    sums = {"weight": (normal * backprop).sum(steps), "bias": backprop.sum(steps)}
    return {n: sums[n].reshape(-1, *p.shape) for n, p in own_parameters(layer).items()}


def _nodes(layer: nn.Module, use: LayerRecord) -> dict[str, Tensor]:
    """Compute a linear layer for every node: `(B, N, T, P)` in, `(B, N, T, E)` out."""
    activation, backprop = use
    found = {"weight": activation.transpose(2, 3) @ backprop, "bias": backprop.sum(2)}
    return {name: found[name] for name in own_parameters(layer)}


def _small(layer: nn.Module, use: LayerRecord) -> dict[str, Tensor]:
    """Compute plain parameters of any small module from one tensor to one, patients first."""
    weights = {name: p.detach() for name, p in own_parameters(layer).items()}

    def alone(activation: Tensor, backprop: Tensor) -> dict[str, Tensor]:
        def output(values: dict[str, Tensor]) -> Tensor:
            result: Tensor = functional_call(layer, values, (activation.unsqueeze(0),))
            return result

        pull_back = vjp(output, weights)[1]
        gradients: dict[str, Tensor] = pull_back(backprop.unsqueeze(0))[0]
        return gradients

    each: dict[str, Tensor] = vmap(alone)(*use)
    return each


_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Conv1d: conv1d,
    nn.Embedding: _embedding,
    nn.LayerNorm: _held(_norm),
    nn.GroupNorm: _held(_norm),
    SegmentLinear: _SegmentGradients,
    NodeLinear: _held(_nodes),
}
