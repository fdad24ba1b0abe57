"""`drug_gene_gnn`: a patient's genes on the study's gene graph, linked to the drugs that hit them.

Every gene is a node that holds the blocks' values of it; messages follow the graph's edges. For a
panel, a drug reads the genes that it targets, and a drug's description (targets, pathway) is
combined with a summary of the patient. That part needs no training data of the drug itself. Where
the study says so, a patient's known responses to other drugs are used too, each weighted by the
similarity of its drug to the one in question.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from fedrx_common.errors import StudyError
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import columns_by_feature, flat_inputs, flat_width, outcome_count
from fedrx_models.contract import UNDER_NOISE, AnyPrediction, PatientModel
from fedrx_models.heads import OutcomeHead
from fedrx_models.layers import drawn_linear, zero_linear
from fedrx_models.pharmacogenomic.drug_relations import descriptors, different, relations
from fedrx_models.pharmacogenomic.linear import HuberDelta
from fedrx_models.pharmacogenomic.tokens import TokenLayout, Tokens, gene_columns
from fedrx_protocol.study.schema import FeatureSchema, PanelTarget

_FEW_RELATIVES = 1.0  # relatives' responses that weigh as much as the patient's mean

_START = ("any", "kin")  # relations that count before anything was learned
_QUICK = 10.0  # these few informative numbers may move that much faster than all others


class DrugGeneGnnConfig(BaseModel):
    """Hyper-parameters of `drug_gene_gnn`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = Field(
        default=8,
        ge=1,
        le=256,
        description="values of a gene's node",
        json_schema_extra={UNDER_NOISE: 2},
    )
    layers: int = Field(default=2, ge=1, le=8, description="steps that a message can travel")
    hidden: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="width of the patient's summary",
        json_schema_extra={UNDER_NOISE: 8},
    )
    known_responses: bool = Field(
        default=False,
        description="predict a drug also from the patient's known responses to other drugs",
    )
    linear_path: bool = Field(
        default=True, description="add a linear model of the same inputs for drugs trained on"
    )
    huber_delta: HuberDelta = 1.0


class GeneMessages(nn.Module):
    """Message passing over the study's genes, `PatientBatch -> (B, genes, size)`."""

    sources: torch.Tensor
    sinks: torch.Tensor
    weights: torch.Tensor

    def __init__(
        self, config: DrugGeneGnnConfig, schema: FeatureSchema, generator: torch.Generator
    ) -> None:
        super().__init__()
        genes = gene_columns(schema)
        self.genes = tuple(genes)
        place = {gene: i for i, gene in enumerate(self.genes)}
        pairs = {(place[a], place[b]) for a, b in (schema.graph.edges if schema.graph else ())}
        both = sorted({(a, b) for a, b in pairs if a != b} | {(b, a) for a, b in pairs if a != b})
        ends = torch.tensor(both, dtype=torch.int64).reshape(-1, 2)
        neighbours = torch.bincount(ends[:, 0], minlength=len(self.genes)).float()
        self.register_buffer("sources", ends[:, 0], persistent=False)
        self.register_buffer("sinks", ends[:, 1], persistent=False)
        self.register_buffer("weights", neighbours.clamp(min=1.0).rsqrt(), persistent=False)
        layout = TokenLayout(self.genes, tuple(genes.values()))
        self.nodes = Tokens(layout, flat_width(schema), config.size, generator)
        self.steps = nn.ModuleList(
            drawn_linear(2 * config.size, config.size, generator, 2**0.5)
            for _ in range(config.layers)
        )

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Compute the genes' states after the last message.

        An edge's strength is the product of its ends' weights, 1 / sqrt(neighbours): Kipf, Welling
        2017, arXiv:1609.02907, eq. 2.
        """
        states: torch.Tensor = self.nodes(batch)
        patients, genes, size = states.shape
        weights = self.weights[:, None].to(states)
        for step in self.steps:
            # Genes come first, so that an edge moves one long row.
            rows = states.transpose(0, 1).reshape(genes, patients * size) * weights
            sent = rows.index_select(0, self.sources)
            received = torch.zeros_like(rows).index_add(0, self.sinks, sent) * weights
            messages = received.reshape(genes, patients, size).transpose(0, 1)
            states = states + nn.functional.relu(step(torch.cat([states, messages], dim=2)))
        return states.contiguous()  # once, for all readers: messages leave genes first


class _PanelReadout(nn.Module):
    """Responses to a panel's drugs, from the genes' states and the patient's summary."""

    drugs: torch.Tensor
    hits: torch.Tensor

    def __init__(
        self,
        target: PanelTarget,
        genes: Sequence[str],
        config: DrugGeneGnnConfig,
    ) -> None:
        super().__init__()
        described = torch.from_numpy(descriptors(target))
        self.register_buffer("drugs", described, persistent=False)
        targets = [{name.upper() for name in drug.targets} for drug in target.drugs]
        hits = torch.tensor([[gene.upper() in row for gene in genes] for row in targets]).float()
        # A drug's row sums to 1, or to 0 if it has no known target.
        hits = hits / hits.sum(dim=1, keepdim=True).clamp(min=1.0)
        self.register_buffer("hits", hits, persistent=False)
        self.described = zero_linear(config.hidden, described.shape[1] + 1)
        self.hit = zero_linear(config.size, 1)

    def forward(self, states: torch.Tensor, summary: torch.Tensor) -> torch.Tensor:
        """Compute `(B, K)` from each drug's description alone."""
        wanted: torch.Tensor = self.described(summary)
        by_description = wanted[:, :-1] @ self.drugs.T.to(wanted) + wanted[:, -1:]
        by_gene: torch.Tensor = self.hit(states)
        return by_description + by_gene.squeeze(2) @ self.hits.T.to(by_gene)


class _KnownResponses(nn.Module):
    """A prediction for each drug from responses to other drugs, `(B, K)`; 0 without responses.

    It never reads a drug's own response, under any of its names in the panel.
    """

    weights: torch.Tensor

    def __init__(self, target: PanelTarget) -> None:
        super().__init__()
        links = relations(target)
        alike = np.stack(list(links.values())) * different(target)
        self.register_buffer("weights", torch.from_numpy(alike), persistent=False)
        self.mix = nn.Linear(len(alike), 1)
        with torch.no_grad():  # starts at the patient's mean, moved by the most similar drugs
            start = [[float(name in _START) / _QUICK for name in links]]
            self.mix.weight.copy_(torch.tensor(start))
            self.mix.bias.zero_()

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Mix the patient's mean over other drugs and how each drug's relatives differ from it."""
        others, *alike = self.weights.to(batch.y)
        y = batch.y * batch.y_observed
        known, count = y @ others, batch.y_observed @ others
        mean = known / count.clamp(min=1.0)
        parts = [mean]
        for weights in alike:
            weight = batch.y_observed @ weights
            # The largest similarity, so that a few relatives mean the same in every relation.
            unit = weights.max().clamp(min=1e-6)
            parts.append((y @ weights - mean * weight) / (weight + _FEW_RELATIVES * unit))
        mixed: torch.Tensor = self.mix(_QUICK * torch.stack(parts, dim=2))
        known_by: torch.Tensor = mixed.squeeze(2) * (count > 0)
        return known_by


class DrugGeneGnn(PatientModel):
    """The gene graph, the readout of the study's outcome, and its head."""

    def __init__(
        self, config: DrugGeneGnnConfig, schema: FeatureSchema, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.name, self.config, self.schema = "drug_gene_gnn", config, schema
        self.graph = GeneMessages(config, schema, generator)
        width, target = flat_width(schema), schema.target
        nodes = len(self.graph.genes) * config.size
        columns = sum(len(c) for c in columns_by_feature(schema).values())
        self.summary = drawn_linear(nodes + columns, config.hidden, generator, 2**0.5)
        self.own = zero_linear(config.hidden, outcome_count(target))
        self.linear = zero_linear(width, outcome_count(target)) if config.linear_path else None
        self.panel: _PanelReadout | None = None
        self.known: _KnownResponses | None = None
        if isinstance(target, PanelTarget):
            self.panel = _PanelReadout(target, self.graph.genes, config)
            self.known = _KnownResponses(target) if config.known_responses else None
        self.head = OutcomeHead(target, config.huber_delta)

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Compute the loss per patient, `(B,)`.

        For a panel, it is the mean of two: one with what was learned from each drug's own
        responses, and one without, as if the drug were new.
        """
        own, shared = self._outputs(batch)
        losses: torch.Tensor = self.head(own + shared, batch)
        if self.panel is None:
            return losses
        if self.known is not None:
            shared = shared + self.known(batch)
        unseen: torch.Tensor = self.head(shared, batch)
        return (losses + unseen) / 2

    def predict(self, batch: PatientBatch) -> AnyPrediction:
        """Predict in the target's kind and unit.

        With `known_responses` it reads `y`, but for each drug only the responses to other drugs.
        """
        with torch.no_grad():
            return self.head.predict(self.outputs(batch))

    def outputs(self, batch: PatientBatch) -> torch.Tensor:
        """Compute what the head reads, `(B, K)`; with `known_responses` it reads `y`, see above."""
        own, shared = self._outputs(batch)
        return own + shared if self.known is None else shared + self.known(batch)

    @property
    def explainable_inputs(self) -> dict[str, tuple[int, ...]]:
        """Every feature of the schema."""
        return columns_by_feature(self.schema)

    def _outputs(self, batch: PatientBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute what each drug's own data taught, and what holds for any drug; both `(B, K)`."""
        states = self.graph(batch)
        read = torch.cat([states.flatten(1), batch.x], dim=1)
        summary = nn.functional.relu(self.summary(read))
        own: torch.Tensor = self.own(summary)
        if self.linear is not None:
            own = own + self.linear(flat_inputs(batch))
        return own, torch.zeros_like(own) if self.panel is None else self.panel(states, summary)


def build_drug_gene_gnn(
    config: DrugGeneGnnConfig, schema: FeatureSchema, generator: torch.Generator
) -> DrugGeneGnn:
    """Build the model; it starts near the study's public reference.

    Raises:
        StudyError: if the study has no graph, or asks for known responses without a panel.
    """
    if schema.graph is None:
        raise StudyError(
            "model 'drug_gene_gnn' needs a [graph] with edges between the genes of [[blocks]]."
        )
    if config.known_responses and not isinstance(schema.target, PanelTarget):
        raise StudyError("'model.known_responses' needs a target of kind 'panel': leave it out.")
    return DrugGeneGnn(config, schema, generator)
