"""Layers that the networks share; none mixes patients.

Clipping has a closed form for every layer here: `nn.Linear` and similar ones, and `SegmentLinear`,
whose form is in the site's training code.
"""

import math

import torch
from torch import nn


def drawn_linear(
    inputs: int, outputs: int, generator: torch.Generator, gain: float = 1.0
) -> nn.Linear:
    """Build a linear layer: weights of standard deviation gain / sqrt(inputs), and bias zero."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.normal_(0.0, gain / math.sqrt(max(1, inputs)), generator=generator)
        layer.bias.zero_()
    return layer


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """Build a linear layer that starts at zero: an output that starts at the public reference."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def drawn_conv(
    inputs: int, outputs: int, width: int, generator: torch.Generator, gain: float = 1.0
) -> nn.Conv1d:
    """Build a convolution over tokens that keeps their number; `width` is odd."""
    layer = nn.Conv1d(inputs, outputs, width, padding=width // 2)
    with torch.no_grad():
        layer.weight.normal_(0.0, gain / math.sqrt(inputs * width), generator=generator)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # this layer has one
    return layer


class SegmentLinear(nn.Module):
    """A separate linear layer for every segment: `(B, S, P) -> (B, S, E)`.

    Args:
        segments: S.
        inputs: P, values of a segment; a segment with fewer is padded with zeros.
        outputs: E.
        generator: start weights.
    """

    def __init__(
        self, segments: int, inputs: int, outputs: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(segments, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(segments, outputs))
        with torch.no_grad():
            self.weight.normal_(0.0, 1 / math.sqrt(inputs), generator=generator)
            # Not zero: a segment's bias encodes its place in the sequence.
            self.bias.normal_(0.0, 0.1, generator=generator)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map `(B, S, P)` to `(B, S, E)`."""
        return torch.einsum("bsp,spe->bse", values, self.weight) + self.bias
