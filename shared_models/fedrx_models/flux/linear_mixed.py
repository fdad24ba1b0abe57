"""`linear_mixed`: a linear rule on a visit's newest values, fading means and features.

The mean of a patient's own values so far takes the place of a mixed model's random intercept (Laird
and Ware, Biometrics 1982;38:963-74): beside how many values it rests on, so that one layer, learned
without seeing patients together, can lean on it or not.
"""

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import output_count
from fedrx_models.flux.forecaster import Forecaster
from fedrx_models.flux.summaries import VisitSummaries
from fedrx_models.layers import zero_linear
from fedrx_protocol.study.schema import FeatureSchema


class LinearMixedConfig(BaseModel):
    """`linear_mixed` has no hyper-parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Linear(nn.Module):
    """`PatientBatch -> (B, T, 3 * H * M)`."""

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        self.summaries = VisitSummaries(schema)
        self.linear = zero_linear(self.summaries.width, output_count(schema))

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Outputs, 0 at the start."""
        output: torch.Tensor = self.linear(self.summaries(batch))
        return output


def build_linear_mixed(
    config: LinearMixedConfig,
    schema: FeatureSchema,
    generator: torch.Generator,  # noqa: ARG001 - every factory takes one; this one starts at zero
) -> Forecaster:
    """A linear model that starts by forecasting the last value."""
    return Forecaster("linear_mixed", config, schema, _Linear(schema))
