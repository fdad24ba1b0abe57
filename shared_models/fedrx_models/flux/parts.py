"""What the flux networks share: a way in from a visit's summaries, and a way out to forecasts."""

import torch
from torch import nn
from torch.nn import functional

from fedrx_models.encoding import output_count
from fedrx_models.pharmacogenomic.parts import drawn_linear, zero_linear
from fedrx_protocol.schema import FeatureSchema


class WayOut(nn.Module):
    """From a visit's state and its summaries to its outputs, `(B, T, 3 * H * M)`, 0 at the start.

    A linear model of the summaries stands beside what the state says: it is learned in the first
    few rounds, and is most of what can be known where patients are few.

    Args:
        schema: a forecast.
        size: values of a state.
        summaries: values of a visit's summaries.
        generator: start weights.
    """

    def __init__(
        self, schema: FeatureSchema, size: int, summaries: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        outputs = output_count(schema)
        self.hidden = drawn_linear(size, size, generator, 2**0.5)
        self.out = zero_linear(size, outputs)
        self.linear = zero_linear(summaries, outputs)

    def forward(self, states: torch.Tensor, summaries: torch.Tensor) -> torch.Tensor:
        """Outputs at every visit."""
        said: torch.Tensor = self.out(functional.silu(self.hidden(states)))
        output: torch.Tensor = said + self.linear(summaries)
        return output


class NodeLinear(nn.Module):
    """A linear layer of its own for every node at every visit: `(B, N, T, P) -> (B, N, T, E)`.

    Args:
        nodes: N.
        inputs: P.
        outputs: E.
        generator: start weights; None starts at zero.
    """

    def __init__(
        self, nodes: int, inputs: int, outputs: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(nodes, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(nodes, outputs))
        if generator is not None:
            with torch.no_grad():
                self.weight.normal_(0.0, inputs**-0.5, generator=generator)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`(B, N, T, P)` to `(B, N, T, E)`."""
        return values @ self.weight + self.bias.unsqueeze(1)
