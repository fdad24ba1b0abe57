"""`genomic_cnn`: convolutions over a patient's tokens, ordered by gene, beside a linear path."""

import math

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import flat_inputs, flat_width, outcome_count
from fedrx_models.layers import drawn_conv, drawn_linear, zero_linear
from fedrx_models.pharmacogenomic.linear import HuberDelta
from fedrx_models.pharmacogenomic.predictor import Predictor, whole_batch
from fedrx_models.pharmacogenomic.tokens import Tokens, token_layout
from fedrx_protocol.study.schema import FeatureSchema

_RELU_GAIN = math.sqrt(2)


class GenomicCnnConfig(BaseModel):
    """Hyper-parameters of `genomic_cnn`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    gene_tokens: int = Field(
        default=64, ge=1, le=4096, description="most tokens for genes; further genes share one"
    )
    channels: int = Field(default=16, ge=1, le=512, description="values of a token")
    layers: int = Field(default=2, ge=1, le=8, description="convolutions, each with a shortcut")
    kernel: int = Field(default=5, ge=1, le=31, description="tokens a convolution sees; odd")
    hidden: int = Field(default=64, ge=1, le=4096, description="width of the last hidden layer")
    linear_path: bool = Field(
        default=True, description="add a linear model of the same inputs to the output"
    )
    huber_delta: HuberDelta = 1.0

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("a kernel must be odd, so that a token has as many to each side")
        return kernel


class _ConvolutionNetwork(nn.Module):
    """`PatientBatch -> (B, K)`."""

    def __init__(
        self, config: GenomicCnnConfig, schema: FeatureSchema, generator: torch.Generator
    ) -> None:
        super().__init__()
        layout = token_layout(schema, config.gene_tokens)
        width, outputs = flat_width(schema), outcome_count(schema.target)
        size = config.channels
        self.tokens = Tokens(layout, width, size, generator)
        self.convolutions = nn.ModuleList(
            drawn_conv(size, size, config.kernel, generator, _RELU_GAIN)
            for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, size) for _ in range(config.layers))
        places = len(layout.names) * size
        self.hidden = drawn_linear(places, config.hidden, generator, _RELU_GAIN)
        self.out = zero_linear(config.hidden, outputs)
        self.linear = zero_linear(width, outputs) if config.linear_path else None

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Compute outputs `(B, K)`, 0 at the start."""
        tokens = self.tokens(batch).transpose(1, 2).contiguous()
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            tokens = tokens + nn.functional.relu(convolution(norm(tokens)))
        hidden = nn.functional.relu(self.hidden(tokens.flatten(1)))
        output: torch.Tensor = self.out(hidden)
        return output if self.linear is None else output + self.linear(flat_inputs(batch))


def build_genomic_cnn(
    config: GenomicCnnConfig, schema: FeatureSchema, generator: torch.Generator
) -> Predictor:
    """Build the model; it starts at the study's public reference."""
    network = _ConvolutionNetwork(config, schema, generator)
    return Predictor(
        "genomic_cnn",
        config,
        schema,
        network,
        inputs=whole_batch,
        huber_delta=config.huber_delta,
    )
