"""What a model's structure shows: what attention reads, and what each edge of a graph carries.

Attention shows what a model read, not what changed its output; an edge's effect is the prediction
with the edge minus that without it, in the outcome's unit. How one marker moves the others is in
`flux.ripple`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.contract import PatientModel
from fedrx_models.explain.game import in_double
from fedrx_models.explain.outcome import Question, outcome_of, shown
from fedrx_models.flux.pathway_gnn import PathwayNetwork
from fedrx_models.flux.transformer import TransformerNetwork
from fedrx_models.pharmacogenomic.drug_gene_gnn import GeneMessages
from fedrx_models.pharmacogenomic.genomic_transformer import GenomicTransformerNetwork

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class AttentionShares:
    """What a transformer attends to.

    Attributes:
        names: of what is read: tokens (a feature, a gene or a run of genes), or visits in order.
        shares: `(B, layers, names)`, mean over heads; each row sums to 1. For visits, as read from
            each patient's newest one.
    """

    names: tuple[str, ...]
    shares: Floats


@dataclass(frozen=True, eq=False)
class EdgeEffect:
    """What one edge of the study's graph carries.

    Attributes:
        edge: the two genes or markers that it joins.
        effects: prediction with it minus prediction without it, `(B,)`, in the outcome's unit.
    """

    edge: tuple[str, str]
    effects: Floats

    @property
    def mean_absolute(self) -> float:
        """Mean size over patients; 0 for no patients."""
        return float(np.abs(self.effects).mean()) if len(self.effects) else 0.0


def has_attention(model: PatientModel) -> bool:
    """Check whether `attention_of` can read a model."""
    network = getattr(model, "network", None)
    return isinstance(network, GenomicTransformerNetwork | TransformerNetwork)


def has_graph(model: PatientModel) -> bool:
    """Check whether `edges_of` can try a model's edges."""
    return model.schema.graph is not None and _messages(model) is not None


def attention_of(model: PatientModel, batch: PatientBatch) -> AttentionShares:
    """Read a transformer's attention.

    Raises:
        MisuseError: the model has no attention.
    """
    network = getattr(model, "network", None)
    if isinstance(network, GenomicTransformerNetwork):
        return AttentionShares(network.names, network.attention(batch))
    if isinstance(network, TransformerNetwork):
        names = tuple(f"visit {i + 1}" for i in range(batch.visits.shape[1]))
        return AttentionShares(names, network.attention(batch))
    raise MisuseError(
        f"model '{model.name}' has no attention: genomic_transformer and transformer have."
    )


def edges_of(
    model: PatientModel,
    batch: PatientBatch,
    question: Question | None = None,
    among: Sequence[str] | None = None,
) -> tuple[EdgeEffect, ...]:
    """Find what each edge carries, by predicting without it; largest mean effect first.

    Args:
        model: a graph model.
        batch: patients; a forecast is asked from each one's newest visit.
        question: see `explanation.explain`.
        among: only edges that touch one of these; `None` tries all, one prediction each.

    Raises:
        MisuseError: the model has no graph.
    """
    outcome, graph = outcome_of(model.schema, question or Question()), model.schema.graph
    exact, batch = in_double(model), batch.to(torch.float64)
    if graph is None or _messages(exact) is None:
        raise MisuseError(f"model '{model.name}' has no graph: drug_gene_gnn and pathway_gnn have.")

    def predicted(asked: PatientModel) -> Floats:
        with torch.no_grad():
            found = [shown(asked, one, outcome) for one in _each(batch)]
        return torch.cat(found).numpy() if found else np.zeros(0)

    whole = predicted(exact)
    wanted = {frozenset(edge) for edge in graph.edges if edge[0] != edge[1]}
    if among is not None:
        wanted = {edge for edge in wanted if edge & set(among)}
    found = []
    for edge in sorted(tuple(sorted(edge)) for edge in wanted):
        first, second = edge
        found.append(EdgeEffect((first, second), whole - predicted(_without(exact, first, second))))
    return tuple(sorted(found, key=lambda one: -one.mean_absolute))


def _each(batch: PatientBatch) -> list[PatientBatch]:
    """Patients together, or of a course those of one length, cut so that the newest visit is last.

    In the order of the batch.
    """
    if not batch.visits.shape[1]:
        return [batch]
    lengths = batch.lengths().long().tolist()
    return [
        batch.select(torch.tensor([i])).cut_to(max(1, length)) for i, length in enumerate(lengths)
    ]


def _messages(model: PatientModel) -> GeneMessages | PathwayNetwork | None:
    for part in (getattr(model, "graph", None), getattr(model, "network", None)):
        if isinstance(part, GeneMessages | PathwayNetwork):
            return part
    return None


def _without(model: PatientModel, first: str, second: str) -> PatientModel:
    """Copy a model in which nothing travels along one edge, in either direction."""
    found = copy.deepcopy(model)
    messages = _messages(found)
    if isinstance(messages, GeneMessages):
        ends = {messages.genes.index(first), messages.genes.index(second)}
        pairs = zip(messages.sources.tolist(), messages.sinks.tolist(), strict=True)
        kept = torch.tensor([{a, b} != ends for a, b in pairs])
        messages.sources, messages.sinks = messages.sources[kept], messages.sinks[kept]
    elif isinstance(messages, PathwayNetwork):
        names = [marker.name for marker in model.schema.markers]
        messages.mute({names.index(first), names.index(second)})
    return found
