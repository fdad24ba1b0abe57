"""`linear`: one weight per column, the form of the published dosing equations."""

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from fedrx_models.encoding import column_names
from fedrx_models.pharmacogenomic.regressor import DoseRegressor
from fedrx_protocol.schema import FeatureSchema

HuberDelta = Annotated[
    float, Field(gt=0, le=10, description="in normalised target units; larger is squared error")
]


class LinearConfig(BaseModel):
    """Hyper-parameters of `linear`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    huber_delta: HuberDelta = 1.0


def build_linear(
    config: LinearConfig,
    schema: FeatureSchema,
    generator: torch.Generator,  # noqa: ARG001 - every factory takes one; this one starts at zero
) -> DoseRegressor:
    """A linear model that starts by predicting the reference dose for everybody."""
    network = nn.Linear(len(column_names(schema)), 1)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    return DoseRegressor("linear", config, schema, network, config.huber_delta)
