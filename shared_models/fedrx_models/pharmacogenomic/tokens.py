"""From a patient's columns to tokens: one for each feature, one for every few genes, in order.

One token holds the values that all blocks have for one gene. Genes keep the study's order, so a
study that lists them along the genome gets tokens that are neighbours there.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import columns_by_feature, flat_inputs, flat_width
from fedrx_models.layers import SegmentLinear
from fedrx_protocol.study.schema import FeatureSchema


@dataclass(frozen=True)
class TokenLayout:
    """Which columns of `flat_inputs` make up each token.

    Attributes:
        names: what each token represents: a feature, 'TP53', 'TP53..WT1', or 'blocks missing'.
        columns: for each token its columns, ascending.
    """

    names: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...]

    def index(self, padding: int) -> torch.Tensor:
        """Return columns as int64 `(S, P)`; `padding` fills shorter tokens."""
        widest = max(1, *(len(columns) for columns in self.columns), 1)
        rows = [[*columns, *[padding] * (widest - len(columns))] for columns in self.columns]
        return torch.tensor(rows, dtype=torch.int64)


def token_layout(schema: FeatureSchema, most_gene_tokens: int) -> TokenLayout:
    """Lay out a study's tokens: its features, then its genes in at most `most_gene_tokens` runs.

    A last token holds the flags of missing blocks, where there are blocks.
    """
    features = columns_by_feature(schema)
    names, columns = list(features), list(features.values())
    genes = gene_columns(schema)
    if genes:
        run = math.ceil(len(genes) / most_gene_tokens)
        ordered = list(genes)
        for start in range(0, len(ordered), run):
            some = ordered[start : start + run]
            names.append(some[0] if len(some) == 1 else f"{some[0]}..{some[-1]}")
            columns.append(tuple(column for gene in some for column in genes[gene]))
        width = flat_width(schema)
        names.append("blocks missing")
        columns.append(tuple(range(width - len(schema.blocks), width)))
    return TokenLayout(tuple(names), tuple(columns))


def gene_columns(schema: FeatureSchema) -> dict[str, tuple[int, ...]]:
    """Find the columns of `flat_inputs` by gene, in the order in which blocks first name them."""
    found: dict[str, list[int]] = {}
    start = sum(len(columns) for columns in columns_by_feature(schema).values())
    for block in schema.blocks:
        for place, gene in enumerate(block.genes):
            found.setdefault(gene, []).append(start + place)
        start += len(block.genes)
    return {gene: tuple(columns) for gene, columns in found.items()}


class Tokens(nn.Module):
    """Tokens of a batch, `(B, S, E)`; every token has its own weights and place.

    Args:
        layout: which columns make up each token.
        width: number of columns of `flat_inputs`.
        size: E.
        generator: start weights.
    """

    index: torch.Tensor

    def __init__(
        self, layout: TokenLayout, width: int, size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        index = layout.index(padding=width)
        self.register_buffer("index", index, persistent=False)
        segments, inputs = index.shape
        self.embedding = SegmentLinear(segments, inputs, size, generator)

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Compute `(B, S, E)`."""
        columns = flat_inputs(batch)
        padded = torch.cat([columns, torch.zeros_like(columns[:, :1])], dim=1)
        tokens: torch.Tensor = self.embedding(padded[:, self.index])
        return tokens
