"""`transformer`: attention over a patient's visits, with time as it is, not as a position.

Each head forgets at its own public rate in the study's time unit, so that a visit of a minute ago
and one of last year are not alike because they are neighbours. Linear biases by distance:
Press, Smith, Lewis 2022 (ALiBi), here by elapsed time.
"""

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.nn import functional

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.visits import VisitColumns, forecast_target
from fedrx_models.contract import UNDER_NOISE, Floats
from fedrx_models.flux.forecaster import Forecaster
from fedrx_models.flux.parts import WayOut
from fedrx_models.flux.summaries import VisitSummaries
from fedrx_models.layers import drawn_linear
from fedrx_protocol.study.schema import FeatureSchema

_NEVER = -1e4  # added to a logit: e to its power is 0 in float32
_OCTAVES = 4  # sines and cosines of the elapsed time, each of twice the period before


class TransformerConfig(BaseModel):
    """Hyper-parameters of `transformer`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = Field(
        default=48,
        ge=1,
        le=512,
        description="values of a visit's state; a multiple of heads",
        json_schema_extra={UNDER_NOISE: 8},
    )
    heads: int = Field(default=4, ge=1, le=32, description="attention heads")
    layers: int = Field(default=1, ge=1, le=12, description="attention layers")
    feed_forward: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="width between two layers",
        json_schema_extra={UNDER_NOISE: 16},
    )
    linear_path: bool = Field(
        default=True,
        description="a linear model of all summaries beside it",
        json_schema_extra={UNDER_NOISE: False},
    )

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.size % self.heads:
            raise ValueError(f"size {self.size} must be a multiple of heads {self.heads}")
        return self


class TimedAttention(nn.Module):
    """Attention of every visit to itself and those before it, `(B, T, E) -> (B, T, E)`."""

    def __init__(self, size: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.inside = drawn_linear(size, 3 * size, generator)
        self.outside = drawn_linear(size, size, generator)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Each visit's mix of what it may read; `bias` is added to logits, `(B, heads, T, T)`."""
        query, key, value = self._parts(states)
        mixed = _who_reads_whom(query, key, bias) @ value
        output: torch.Tensor = self.outside(mixed.transpose(1, 2).flatten(2))
        return output

    def weights(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Which visit reads which, `(B, heads, T, T)`; rows sum to 1."""
        query, key, _ = self._parts(states)
        return _who_reads_whom(query, key, bias)

    def _parts(self, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        patients, visits, width = states.shape
        joined = self.inside(states).reshape(patients, visits, 3, self.heads, width // self.heads)
        return tuple(joined.permute(2, 0, 3, 1, 4))


def _who_reads_whom(query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.softmax(query @ key.transpose(2, 3) / key.shape[3] ** 0.5 + bias, dim=3)


class _AttentionLayer(nn.Module):
    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.before = nn.LayerNorm(config.size)
        self.attention = TimedAttention(config.size, config.heads, generator)
        self.between = nn.LayerNorm(config.size)
        self.wide = drawn_linear(config.size, config.feed_forward, generator, 2**0.5)
        self.narrow = drawn_linear(config.feed_forward, config.size, generator)

    def forward(self, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        states = states + self.attention(self.before(states), bias)
        moved: torch.Tensor = self.narrow(functional.gelu(self.wide(self.between(states))))
        return states + moved


class TransformerNetwork(nn.Module):
    """`PatientBatch -> (B, T, 3 * H * M)`."""

    rates: torch.Tensor
    waves: torch.Tensor

    def __init__(
        self, config: TransformerConfig, schema: FeatureSchema, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.columns = VisitColumns.of(schema)
        self.summaries = VisitSummaries(schema)
        times = [horizon.at for horizon in forecast_target(schema).horizons]
        self.register_buffer("rates", _rates(times, config.heads), persistent=False)
        # Angular speeds whose periods begin at four of the shortest horizon.
        periods = 4.0 * times[0] * 2.0 ** torch.arange(_OCTAVES)
        self.register_buffer("waves", 2.0 * torch.pi / periods, persistent=False)
        width = self.summaries.width + 2 * _OCTAVES
        self.inside = drawn_linear(width, config.size, generator)
        self.layers = nn.ModuleList(
            _AttentionLayer(config, generator) for _ in range(config.layers)
        )
        self.last = nn.LayerNorm(config.size)
        self.outside = WayOut(
            schema, config.size, self.summaries, generator, linear_path=config.linear_path
        )

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Outputs, 0 at the start."""
        summaries = self.summaries(batch)
        states, bias = self._start(batch, summaries)
        for layer in self.layers:
            states = layer(states, bias)
        output: torch.Tensor = self.outside(self.last(states), summaries)
        return output

    def attention(self, batch: PatientBatch) -> Floats:
        """What each patient's newest visit reads in each layer, mean over heads, `(B, layers, T)`.

        Each row sums to 1. Attention shows what the model read, not what changed its output.
        """
        newest = (batch.lengths().long() - 1).clamp(min=0)
        rows, seen = torch.arange(len(batch), device=newest.device), []
        with torch.no_grad():
            states, bias = self._start(batch, self.summaries(batch))
            for layer in self.layers:
                if not isinstance(layer, _AttentionLayer):
                    raise TypeError(f"{type(layer).__name__} has no attention.")
                weights = layer.attention.weights(layer.before(states), bias)
                seen.append(weights[rows, :, newest].mean(dim=1))
                states = layer(states, bias)
        found: Floats = torch.stack(seen, dim=1).cpu().double().numpy()
        return found

    def _start(
        self, batch: PatientBatch, summaries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States before the first layer, `(B, T, size)`, and the bias of elapsed time."""
        # Time since a patient's first visit, with no time between two episodes.
        time = batch.visits[:, :, self.columns.gap].cumsum(dim=1)
        angles = time[:, :, None] * self.waves.to(time)
        waves = torch.cat([torch.sin(angles), torch.cos(angles)], dim=2)
        return self.inside(torch.cat([summaries, waves], dim=2)), self._bias(time)

    def _bias(self, time: torch.Tensor) -> torch.Tensor:
        """Compute minus rate x age, and never for a later visit, `(B, heads, T, T)`.

        Padding comes after all visits, so that no visit reads it.
        """
        visits = time.shape[1]
        later = torch.triu(torch.ones(visits, visits, device=time.device), diagonal=1)
        ages = (time[:, :, None] - time[:, None, :]).abs()
        faded = -self.rates.to(time)[None, :, None, None] * ages[:, None]
        return faded.clamp(min=_NEVER / 2) + _NEVER * later


def _rates(times: list[float], heads: int) -> torch.Tensor:
    """Give how fast each head forgets, `(heads,)`: the first never, the others ever faster."""
    slowest, fastest = 1.0 / (4.0 * times[-1]), 2.0 / times[0]
    steps = torch.linspace(0.0, 1.0, max(heads - 1, 1))
    rates = slowest * (fastest / slowest) ** steps
    return torch.cat([torch.zeros(1), rates])[:heads]


def build_transformer(
    config: TransformerConfig, schema: FeatureSchema, generator: torch.Generator
) -> Forecaster:
    """Build the model; it starts at "as last measured"."""
    network = TransformerNetwork(config, schema, generator)
    return Forecaster("transformer", config, schema, network)
