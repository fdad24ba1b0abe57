"""`pathway_gnn`: markers as nodes of the study's graph, and messages along its edges at each visit.

A marker's node holds its newest value and its fading means, so that a message says where the
neighbour is and where it comes from: an effect with a delay is one of an older mean. Every edge has
weights of its own, in each direction. What is not joined by a path of at most `layers` edges cannot
move a forecast: `ripple` then answers "if this marker moves, which follow, when, how sure".
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional

from fedrx_common.errors import StudyError
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import output_count
from fedrx_models.cohort.visits import QUANTILES, VisitColumns
from fedrx_models.contract import UNDER_NOISE
from fedrx_models.flux.forecaster import Forecaster
from fedrx_models.flux.parts import NodeLinear, by_visit
from fedrx_models.flux.summaries import VisitSummaries
from fedrx_models.layers import drawn_linear, zero_linear
from fedrx_protocol.study.schema import FeatureSchema


class PathwayGnnConfig(BaseModel):
    """Hyper-parameters of `pathway_gnn`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = Field(
        default=12,
        ge=1,
        le=256,
        description="values of a marker's node",
        json_schema_extra={UNDER_NOISE: 4},
    )
    layers: int = Field(default=2, ge=1, le=8, description="edges that a message can travel")


class _Messages(nn.Module):
    """One step along the edges, `(B, M, T, size)` to the same."""

    sources: torch.Tensor
    sinks: torch.Tensor
    shares: torch.Tensor

    def __init__(
        self, edges: list[tuple[int, int]], nodes: int, size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        _keep_edges(self, edges)
        share = 1.0 / torch.bincount(self.sinks, minlength=nodes).clamp(min=1.0).sqrt()
        self.register_buffer("shares", share, persistent=False)
        self.along = NodeLinear(len(edges), size, size, generator)
        self.own = NodeLinear(nodes, size, size, generator)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        heard = _to_sinks(self.along(states[:, self.sources]), self.sinks, states.shape[1])
        share = self.shares.to(states)[:, None, None]
        return states + functional.silu(self.own(states) + heard * share)


class PathwayNetwork(nn.Module):
    """`PatientBatch -> (B, T, 3 * H * M)`."""

    sources: torch.Tensor
    sinks: torch.Tensor
    wanted: torch.Tensor

    def __init__(
        self, config: PathwayGnnConfig, schema: FeatureSchema, generator: torch.Generator
    ) -> None:
        super().__init__()
        columns, edges = VisitColumns.of(schema), directed_edges(schema)
        self.nodes, self.size = columns.markers, config.size
        self.summaries = VisitSummaries(schema)
        self.horizons = columns.horizons
        self.register_buffer("wanted", torch.tensor(columns.forecast), persistent=False)
        _keep_edges(self, edges)
        width, shared = self.summaries.marker_width, self.summaries.shared_width
        each = QUANTILES * columns.horizons
        self.inside = NodeLinear(self.nodes, width, config.size, generator)
        self.around = drawn_linear(shared, self.nodes * config.size, generator)
        self.steps = nn.ModuleList(
            _Messages(edges, self.nodes, config.size, generator) for _ in range(config.layers)
        )
        self.out = NodeLinear(self.nodes, config.size, each)
        # What can be said without a hidden state: of a marker itself, its neighbours, the rest.
        self.from_own = NodeLinear(self.nodes, width, each)
        self.from_neighbours = NodeLinear(len(edges), width, each)
        self.from_rest = zero_linear(shared, output_count(schema))

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Outputs, 0 at the start."""
        shared, markers = self.summaries.parts(batch)
        patients, visits = shared.shape[:2]
        nodes = markers.transpose(1, 2)
        around = self.around(shared).reshape(patients, visits, self.nodes, self.size)
        states = functional.silu(self.inside(nodes) + around.transpose(1, 2))
        for step in self.steps:
            states = step(states)
        said = self.out(states) + self.from_own(nodes)
        said = said + _to_sinks(
            self.from_neighbours(nodes[:, self.sources]), self.sinks, self.nodes
        )
        rest: torch.Tensor = self.from_rest(shared)
        return by_visit(said[:, self.wanted], self.horizons) + rest

    def mute(self, ends: set[int]) -> None:
        """Let nothing travel between two markers, in place.

        Args:
            ends: positions of the markers that the edge joins.
        """
        pairs = zip(self.sources.tolist(), self.sinks.tolist(), strict=True)
        gone = torch.tensor([{source, sink} == ends for source, sink in pairs])
        carriers = [self.from_neighbours]
        carriers += [step.along for step in self.steps if isinstance(step, _Messages)]
        with torch.no_grad():
            for carrier in carriers:
                carrier.weight[gone] = 0.0
                carrier.bias[gone] = 0.0


def directed_edges(schema: FeatureSchema) -> list[tuple[int, int]]:
    """The study's edges in both directions, as positions of markers, each once.

    Raises:
        StudyError: the study has no graph.
    """
    if schema.graph is None:
        raise StudyError(
            "model 'pathway_gnn' needs a [graph] with edges between the study's markers: "
            "add one, or choose another model."
        )
    places = {marker.name: i for i, marker in enumerate(schema.markers)}
    pairs = [(places[one], places[other]) for one, other in schema.graph.edges]
    both = {pair for a, b in pairs for pair in ((a, b), (b, a)) if a != b}
    if not both:
        raise StudyError("every edge of [graph] joins a marker to itself: name two.")
    return sorted(both)


def _keep_edges(module: nn.Module, edges: list[tuple[int, int]]) -> None:
    ends = torch.tensor(edges)
    module.register_buffer("sources", ends[:, 0].contiguous(), persistent=False)
    module.register_buffer("sinks", ends[:, 1].contiguous(), persistent=False)


def _to_sinks(messages: torch.Tensor, sinks: torch.Tensor, nodes: int) -> torch.Tensor:
    """Sum of each node's messages, `(B, edges, T, E)` to `(B, nodes, T, E)`."""
    shape = (messages.shape[0], nodes, *messages.shape[2:])
    return messages.new_zeros(shape).index_add(1, sinks, messages)


def build_pathway_gnn(
    config: PathwayGnnConfig, schema: FeatureSchema, generator: torch.Generator
) -> Forecaster:
    """The model; it starts at "as last measured".

    Raises:
        StudyError: the study has no graph of markers.
    """
    return Forecaster("pathway_gnn", config, schema, PathwayNetwork(config, schema, generator))
