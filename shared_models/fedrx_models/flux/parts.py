"""What the flux networks share: a way in from a visit's summaries, and a way out to forecasts."""

import torch
from torch import nn
from torch.nn import functional

from fedrx_models.cohort.encoding import output_count
from fedrx_models.cohort.visits import QUANTILES, VisitColumns
from fedrx_models.flux.summaries import VisitSummaries
from fedrx_models.layers import drawn_linear, zero_linear
from fedrx_protocol.study.schema import FeatureSchema

_CONTEXT = 8  # values of a network's state that each marker's own network reads
_HIDDEN = 16  # width of a marker's own network


class WayOut(nn.Module):
    """From a visit's state and its summaries to its outputs, `(B, T, 3 * H * M)`, 0 at the start.

    Each forecast marker has a small network of its own, which reads that marker's history, what
    belongs to no marker, and a few values of the state. Most of what can be known of a marker is
    in its own history, and where patients are few, or noise is added, weights that read everything
    else are not worth what they cost. That is why the linear path beside it can be left out.

    Args:
        schema: a forecast.
        size: values of a state.
        summaries: whose output is read.
        generator: start weights.
        linear_path: whether every output also has a linear model of all summaries.
    """

    forecast: torch.Tensor

    def __init__(
        self,
        schema: FeatureSchema,
        size: int,
        summaries: VisitSummaries,
        generator: torch.Generator,
        *,
        linear_path: bool,
    ) -> None:
        super().__init__()
        columns = VisitColumns.of(schema)
        self.shared = summaries.shared_width
        self.markers = (columns.markers, summaries.marker_width)
        self.horizons, markers = columns.horizons, len(columns.forecast)
        self.register_buffer("forecast", torch.tensor(columns.forecast), persistent=False)
        inputs = summaries.marker_width + self.shared + _CONTEXT
        outputs = QUANTILES * columns.horizons
        self.context = drawn_linear(size, _CONTEXT, generator)
        self.hidden = NodeLinear(markers, inputs, _HIDDEN, generator)
        self.out = NodeLinear(markers, _HIDDEN, outputs)
        self.straight = NodeLinear(markers, inputs, outputs)
        self.linear = zero_linear(summaries.width, output_count(schema)) if linear_path else None

    def forward(self, states: torch.Tensor, summaries: torch.Tensor) -> torch.Tensor:
        """Outputs at every visit, of states `(B, T, size)` and summaries `(B, T, width)`."""
        # What each forecast marker's network reads, `(B, M, T, P)`.
        markers = summaries[:, :, self.shared :].reshape(*summaries.shape[:2], *self.markers)
        own = markers[:, :, self.forecast]
        around = torch.cat([summaries[:, :, : self.shared], self.context(states)], dim=2)
        around = around[:, :, None].expand(-1, -1, own.shape[2], -1)
        values = torch.cat([own, around], dim=3).transpose(1, 2)
        said = self.out(functional.silu(self.hidden(values))) + self.straight(values)
        output = by_visit(said, self.horizons)
        return output if self.linear is None else output + self.linear(summaries)


def by_visit(said: torch.Tensor, horizons: int) -> torch.Tensor:
    """`(B, M, T, H * 3)` in the order of a visit's outputs: horizon, marker, quantile."""
    patients, markers, visits, _ = said.shape
    parts = said.reshape(patients, markers, visits, horizons, QUANTILES)
    return parts.permute(0, 2, 3, 1, 4).flatten(2)


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
