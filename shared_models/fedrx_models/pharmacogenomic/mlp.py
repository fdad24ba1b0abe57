"""`mlp`: a small multilayer perceptron, beside a linear path that carries the main effects."""

import math
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from fedrx_models.cohort.encoding import flat_width, outcome_count
from fedrx_models.layers import drawn_linear, zero_linear
from fedrx_models.pharmacogenomic.linear import HuberDelta
from fedrx_models.pharmacogenomic.predictor import Predictor
from fedrx_protocol.study.schema import FeatureSchema

Activation = Literal["gelu", "relu", "tanh"]
_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}
_GAINS: dict[Activation, float] = {"gelu": math.sqrt(2), "relu": math.sqrt(2), "tanh": 5 / 3}


class MlpConfig(BaseModel):
    """Hyper-parameters of `mlp`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hidden: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        default=(32,), min_length=1, max_length=8, description="width of each hidden layer"
    )
    activation: Activation = Field(default="gelu", description="or relu, tanh")
    layer_norm: bool = Field(default=False, description="normalise each patient's hidden values")
    linear_path: bool = Field(
        default=True, description="add a linear model of the same inputs to the output"
    )
    huber_delta: HuberDelta = 1.0


class _Network(nn.Module):
    """The perceptron, plus the linear path where there is one; `(B, F) -> (B, K)`."""

    def __init__(self, perceptron: nn.Sequential, linear: nn.Linear | None) -> None:
        super().__init__()
        self.perceptron = perceptron
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.perceptron(x)
        return output if self.linear is None else output + self.linear(x)


def build_mlp(config: MlpConfig, schema: FeatureSchema, generator: torch.Generator) -> Predictor:
    """Build a perceptron with hidden layers drawn from `generator`; it starts at the reference.

    The output layer and the linear path start at zero. So the first rounds, which have the most
    noise relative to what is known, move the main effects.
    """
    inputs, outputs = flat_width(schema), outcome_count(schema.target)
    layers: list[nn.Module] = []
    width = inputs
    for size in config.hidden:
        layers.append(drawn_linear(width, size, generator, _GAINS[config.activation]))
        if config.layer_norm:
            layers.append(nn.LayerNorm(size))
        layers.append(_ACTIVATIONS[config.activation]())
        width = size
    network = _Network(
        nn.Sequential(*layers, zero_linear(width, outputs)),
        zero_linear(inputs, outputs) if config.linear_path else None,
    )
    return Predictor("mlp", config, schema, network, huber_delta=config.huber_delta)
