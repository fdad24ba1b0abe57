"""`genomic_transformer`: attention among a patient's tokens; what it attends to can be read.

Attention is built from linear layers, because gradients per patient are known for those. A hidden
layer reads all tokens side by side. Their mean would not suffice: before training it is nearly a
sum over genes, which contains no product of two, and noise hides the slope that would form one.
"""

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import flat_inputs, flat_width, outcome_count
from fedrx_models.contract import Floats
from fedrx_models.layers import drawn_linear, zero_linear
from fedrx_models.pharmacogenomic.linear import HuberDelta
from fedrx_models.pharmacogenomic.predictor import Predictor, whole_batch
from fedrx_models.pharmacogenomic.tokens import TokenLayout, Tokens, token_layout
from fedrx_protocol.study.schema import FeatureSchema

SUMMARY = "summary"
"""Name of the token that represents the patient and reads all others."""


class GenomicTransformerConfig(BaseModel):
    """Hyper-parameters of `genomic_transformer`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    gene_tokens: int = Field(
        default=48, ge=1, le=1024, description="most tokens for genes; further genes share one"
    )
    size: int = Field(
        default=32, ge=1, le=512, description="values of a token; a multiple of heads"
    )
    heads: int = Field(default=4, ge=1, le=32, description="attention heads")
    layers: int = Field(default=2, ge=1, le=12, description="attention layers")
    feed_forward: int = Field(default=64, ge=1, le=4096, description="width between two layers")
    hidden: int = Field(default=64, ge=1, le=4096, description="width of the last hidden layer")
    linear_path: bool = Field(
        default=True, description="add a linear model of the same inputs to the output"
    )
    huber_delta: HuberDelta = 1.0

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.size % self.heads:
            raise ValueError(f"size {self.size} must be a multiple of heads {self.heads}")
        return self


class Attention(nn.Module):
    """Self-attention with several heads, `(B, S, E) -> (B, S, E)`; Vaswani et al. 2017."""

    def __init__(self, size: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.inside = drawn_linear(size, 3 * size, generator)
        self.outside = drawn_linear(size, size, generator)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Mix all tokens for each token."""
        query, key, value = self._parts(tokens)
        mixed = _who_reads_whom(query, key) @ value
        output: torch.Tensor = self.outside(mixed.transpose(1, 2).flatten(2))
        return output

    def weights(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute which token attends to which, `(B, heads, S, S)`; rows sum to 1."""
        query, key, _ = self._parts(tokens)
        return _who_reads_whom(query, key)

    def _parts(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        patients, places, width = tokens.shape
        joined = self.inside(tokens).reshape(patients, places, 3, self.heads, width // self.heads)
        return tuple(joined.permute(2, 0, 3, 1, 4))


def _who_reads_whom(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Compute scaled dot products as shares, `(B, heads, S, S)`."""
    return torch.softmax(query @ key.transpose(2, 3) / query.shape[3] ** 0.5, dim=3)


class _Layer(nn.Module):
    def __init__(self, config: GenomicTransformerConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.before = nn.LayerNorm(config.size)
        self.attention = Attention(config.size, config.heads, generator)
        self.between = nn.LayerNorm(config.size)
        self.wide = drawn_linear(config.size, config.feed_forward, generator, 2**0.5)
        self.narrow = drawn_linear(config.feed_forward, config.size, generator)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention(self.before(tokens))
        moved: torch.Tensor = self.narrow(nn.functional.gelu(self.wide(self.between(tokens))))
        return tokens + moved


class GenomicTransformerNetwork(nn.Module):
    """`PatientBatch -> (B, K)`, with readable attention.

    Attributes:
        names: what each token represents; the first is `SUMMARY`.
    """

    def __init__(
        self, config: GenomicTransformerConfig, schema: FeatureSchema, generator: torch.Generator
    ) -> None:
        super().__init__()
        measured = token_layout(schema, config.gene_tokens)
        # A token without columns is its own bias: the same for every patient.
        layout = TokenLayout((SUMMARY, *measured.names), ((), *measured.columns))
        width, outputs = flat_width(schema), outcome_count(schema.target)
        self.names = layout.names
        self.tokens = Tokens(layout, width, config.size, generator)
        self.layers = nn.ModuleList(_Layer(config, generator) for _ in range(config.layers))
        self.last = nn.LayerNorm(config.size)
        places = len(layout.names) * config.size
        self.hidden = drawn_linear(places, config.hidden, generator, 2**0.5)
        self.out = zero_linear(config.hidden, outputs)
        self.linear = zero_linear(width, outputs) if config.linear_path else None

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Compute outputs `(B, K)`, 0 at the start."""
        tokens = self.tokens(batch)
        for layer in self.layers:
            tokens = layer(tokens)
        hidden = nn.functional.gelu(self.hidden(self.last(tokens).flatten(1)))
        output: torch.Tensor = self.out(hidden)
        return output if self.linear is None else output + self.linear(flat_inputs(batch))

    def attention(self, batch: PatientBatch) -> Floats:
        """Compute what the summary attends to in each layer, mean over heads, `(B, layers, S)`.

        `names` names the tokens; each row sums to 1. Attention shows what the model read, not what
        changed its output: for that, vary an input.
        """
        seen = []
        with torch.no_grad():
            tokens = self.tokens(batch)
            for layer in self.layers:
                if not isinstance(layer, _Layer):
                    raise TypeError(f"{type(layer).__name__} has no attention.")
                weights = layer.attention.weights(layer.before(tokens))
                seen.append(weights[:, :, 0].mean(dim=1))
                tokens = layer(tokens)
        found: Floats = torch.stack(seen, dim=1).cpu().double().numpy()
        return found


def build_genomic_transformer(
    config: GenomicTransformerConfig, schema: FeatureSchema, generator: torch.Generator
) -> Predictor:
    """Build the model; it starts at the study's public reference."""
    network = GenomicTransformerNetwork(config, schema, generator)
    return Predictor(
        "genomic_transformer",
        config,
        schema,
        network,
        inputs=whole_batch,
        huber_delta=config.huber_delta,
    )
