"""Any network that reads a patient's visits in order, with the head that makes forecasts of it."""

import torch
from pydantic import BaseModel
from torch import nn

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import columns_by_feature
from fedrx_models.cohort.visits import forecast_target, restore_forecast
from fedrx_models.contract import Forecast, PatientModel
from fedrx_models.heads import FORECAST_LEVEL, ForecastHead
from fedrx_protocol.study.schema import FeatureSchema


class Forecaster(PatientModel):
    """A network and a head.

    An output at a visit may rest on that visit and those before it, never on a later one.

    Args:
        name: the model's name in the study file.
        config: its validated hyper-parameters.
        schema: the features, markers, treatments and target.
        network: `PatientBatch` -> outputs `(B, T, 3 * H * M)`, where 0 means the last value.
    """

    def __init__(
        self,
        name: str,
        config: BaseModel,
        schema: FeatureSchema,
        network: nn.Module,
    ) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.schema = schema
        self.network = network
        self.head = ForecastHead(forecast_target(schema))

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """The head's loss of the network's outputs, `(B,)`."""
        losses: torch.Tensor = self.head(self.outputs(batch), batch)
        return losses

    def predict(self, batch: PatientBatch) -> Forecast:
        """Forecasts from every visit, in the markers' units."""
        with torch.no_grad():
            changes = self.head.predict(self.outputs(batch)).mean
        return Forecast(
            mean=restore_forecast(self.schema, changes, batch.visits), level=FORECAST_LEVEL
        )

    def prepared(self, batch: PatientBatch) -> PatientBatch:
        """With the summaries of all visits, which nothing trains, where the network reads any."""
        summaries = getattr(self.network, "summaries", None)
        return batch if summaries is None else summaries.prepared(batch)

    @property
    def explainable_inputs(self) -> dict[str, tuple[int, ...]]:
        """Every feature of the schema."""
        return columns_by_feature(self.schema)

    def outputs(self, batch: PatientBatch) -> torch.Tensor:
        """What the head reads, `(B, T, 3 * H * M)`."""
        found: torch.Tensor = self.network(batch)
        return found
