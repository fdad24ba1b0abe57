"""`tcn`: dilated causal convolutions over a patient's visits (Bai, Kolter, Koltun 2018).

A visit's state sees `1 + (width - 1) * (2 ** layers - 1)` visits back, and never one ahead. Gaps
between visits are inputs, so that the grid need not be regular.
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.contract import UNDER_NOISE
from fedrx_models.flux.forecaster import Forecaster
from fedrx_models.flux.parts import WayOut
from fedrx_models.flux.summaries import VisitSummaries
from fedrx_models.layers import drawn_linear
from fedrx_protocol.study.schema import FeatureSchema


class TcnConfig(BaseModel):
    """Hyper-parameters of `tcn`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    channels: int = Field(
        default=16,
        ge=1,
        le=512,
        description="values of a visit's state",
        json_schema_extra={UNDER_NOISE: 8},
    )
    layers: int = Field(default=2, ge=1, le=10, description="each looks twice as far back")
    width: int = Field(default=3, ge=2, le=9, description="visits that a convolution joins")
    linear_path: bool = Field(
        default=True,
        description="a linear model of all summaries beside it",
        json_schema_extra={UNDER_NOISE: False},
    )


class CausalConvolution(nn.Module):
    """A convolution over visits that reads the visit itself and earlier ones, `(B, E, T)`."""

    def __init__(self, size: int, width: int, dilation: int, generator: torch.Generator) -> None:
        super().__init__()
        self.back = (width - 1) * dilation
        self.convolution = nn.Conv1d(size, size, width, dilation=dilation)
        with torch.no_grad():
            spread = (2.0 / (size * width)) ** 0.5
            self.convolution.weight.normal_(0.0, spread, generator=generator)
            nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]  # this layer has one

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Of the states' shape."""
        output: torch.Tensor = self.convolution(functional.pad(states, (self.back, 0)))
        return output


class TcnNetwork(nn.Module):
    """`PatientBatch -> (B, T, 3 * H * M)`."""

    def __init__(
        self, config: TcnConfig, schema: FeatureSchema, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.summaries = VisitSummaries(schema)
        self.inside = drawn_linear(self.summaries.width, config.channels, generator)
        self.layers = nn.ModuleList(
            CausalConvolution(config.channels, config.width, 2**i, generator)
            for i in range(config.layers)
        )
        self.outside = WayOut(
            schema, config.channels, self.summaries, generator, linear_path=config.linear_path
        )

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Outputs, 0 at the start."""
        summaries = self.summaries(batch)
        states = functional.silu(self.inside(summaries)).transpose(1, 2)
        for layer in self.layers:
            states = states + functional.silu(layer(states))
        output: torch.Tensor = self.outside(states.transpose(1, 2), summaries)
        return output


def build_tcn(config: TcnConfig, schema: FeatureSchema, generator: torch.Generator) -> Forecaster:
    """The model; it starts at "as last measured"."""
    return Forecaster("tcn", config, schema, TcnNetwork(config, schema, generator))
