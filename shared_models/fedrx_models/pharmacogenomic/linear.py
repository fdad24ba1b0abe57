"""`linear`: one weight per column, the form of the published dosing equations."""

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field

from fedrx_models.cohort.encoding import flat_width, outcome_count
from fedrx_models.layers import zero_linear
from fedrx_models.pharmacogenomic.predictor import Predictor
from fedrx_protocol.study.schema import FeatureSchema

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
) -> Predictor:
    """Build a linear model that starts by predicting the study's reference for every patient."""
    network = zero_linear(flat_width(schema), outcome_count(schema.target))
    return Predictor("linear", config, schema, network, huber_delta=config.huber_delta)
