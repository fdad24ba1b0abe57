"""`last_value`: every marker stays as it was last measured; only the band is learned."""

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.visits import QUANTILES, VisitColumns
from fedrx_models.flux.forecaster import Forecaster
from fedrx_protocol.study.schema import FeatureSchema


class LastValueConfig(BaseModel):
    """`last_value` has no hyper-parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Bands(nn.Module):
    """No change, and one pair of half-widths for each horizon and marker.

    A linear layer on a constant, because every per-patient-gradient method understands those.
    """

    def __init__(self, forecasts: int) -> None:
        super().__init__()
        self.reach = nn.Linear(1, (QUANTILES - 1) * forecasts, bias=False)
        nn.init.zeros_(self.reach.weight)
        self.forecasts = forecasts

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Outputs `(B, T, 3 * forecasts)`, the median change 0."""
        patients, visits = batch.visits.shape[:2]
        reach = self.reach(torch.ones_like(batch.visits[:, :, :1]))
        reach = reach.reshape(patients, visits, self.forecasts, QUANTILES - 1)
        still = torch.zeros_like(reach[..., :1])
        return torch.cat([still, reach], dim=-1).flatten(start_dim=2)


def build_last_value(
    config: LastValueConfig,
    schema: FeatureSchema,
    generator: torch.Generator,  # noqa: ARG001 - every factory takes one; this one starts at zero
) -> Forecaster:
    """The simplest rule, with an honest band around it."""
    return Forecaster("last_value", config, schema, _Bands(VisitColumns.of(schema).forecasts))
