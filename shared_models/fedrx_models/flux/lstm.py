"""`lstm`: a long short-term memory over a patient's visits, written out for per-patient gradients.

Torch's own LSTM is one opaque kernel whose gradient cannot be had patient by patient. Here the
inputs' part is one linear layer over all visits, and only the states' part steps through time.
Hochreiter and Schmidhuber 1997; forget gate: Gers, Schmidhuber, Cummins 2000.
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.contract import UNDER_NOISE
from fedrx_models.flux.forecaster import Forecaster
from fedrx_models.flux.parts import WayOut
from fedrx_models.flux.summaries import VisitSummaries
from fedrx_models.layers import drawn_linear
from fedrx_protocol.study.schema import FeatureSchema

_REMEMBER = 1.0  # forget gates start open: Jozefowicz, Zaremba, Sutskever 2015, section 3


class LstmConfig(BaseModel):
    """Hyper-parameters of `lstm`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = Field(
        default=16,
        ge=1,
        le=512,
        description="values of the state",
        json_schema_extra={UNDER_NOISE: 8},
    )
    linear_path: bool = Field(
        default=True,
        description="a linear model of all summaries beside it",
        json_schema_extra={UNDER_NOISE: False},
    )


class SteppedLstm(nn.Module):
    """`(B, T, inputs) -> (B, T, size)`; state t has read inputs up to t."""

    def __init__(self, inputs: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        self.of_input = drawn_linear(inputs, 4 * size, generator)
        self.of_state = nn.Linear(size, 4 * size, bias=False)
        with torch.no_grad():
            self.of_state.weight.normal_(0.0, size**-0.5, generator=generator)
            self.of_input.bias[size : 2 * size] = _REMEMBER

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """States after each visit."""
        state = cell = torch.zeros_like(inputs[:, 0, :1]).expand(-1, self.size)
        states = []
        for given in self.of_input(inputs).unbind(dim=1):
            gates = given + self.of_state(state)
            doors = torch.sigmoid(gates[:, : 3 * self.size])
            write, keep, show = doors.chunk(3, dim=1)
            cell = keep * cell + write * torch.tanh(gates[:, 3 * self.size :])
            state = show * torch.tanh(cell)
            states.append(state)
        return torch.stack(states, dim=1)


class LstmNetwork(nn.Module):
    """`PatientBatch -> (B, T, 3 * H * M)`."""

    def __init__(
        self, config: LstmConfig, schema: FeatureSchema, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.summaries = VisitSummaries(schema)
        self.memory = SteppedLstm(self.summaries.width, config.size, generator)
        self.outside = WayOut(
            schema, config.size, self.summaries, generator, linear_path=config.linear_path
        )

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Outputs, 0 at the start."""
        summaries = self.summaries(batch)
        output: torch.Tensor = self.outside(self.memory(summaries), summaries)
        return output


def build_lstm(config: LstmConfig, schema: FeatureSchema, generator: torch.Generator) -> Forecaster:
    """The model; it starts at "as last measured"."""
    return Forecaster("lstm", config, schema, LstmNetwork(config, schema, generator))
