"""A model of any network that turns a batch into outputs, and the head that reads those."""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import columns_by_feature, flat_inputs
from fedrx_models.contract import AnyPrediction, PatientModel
from fedrx_models.heads import OutcomeHead
from fedrx_protocol.study.schema import FeatureSchema


def whole_batch(batch: PatientBatch) -> PatientBatch:
    """Return the batch, for networks that read all of it."""
    return batch


class Predictor(PatientModel):
    """A network and a head.

    Args:
        name: the model's name in the study file.
        config: its validated hyper-parameters.
        schema: the features, blocks and target.
        network: what `inputs` gives -> outputs `(B, K)`, where 0 means the public reference.
        inputs: the part of a batch that the network reads: one flat tensor, or `whole_batch`.
        huber_delta: see `OutcomeHead`.
    """

    def __init__(
        self,
        name: str,
        config: BaseModel,
        schema: FeatureSchema,
        network: nn.Module,
        *,
        inputs: Callable[[PatientBatch], Any] = flat_inputs,
        huber_delta: float = 1.0,
    ) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.schema = schema
        self.inputs = inputs
        self.network = network
        self.head = OutcomeHead(schema.target, huber_delta)

    def forward(self, batch: PatientBatch) -> torch.Tensor:
        """Compute the head's loss of the network's outputs, `(B,)`."""
        losses: torch.Tensor = self.head(self.outputs(batch), batch)
        return losses

    def predict(self, batch: PatientBatch) -> AnyPrediction:
        """Predict in the target's kind and unit."""
        with torch.no_grad():
            return self.head.predict(self.outputs(batch))

    @property
    def explainable_inputs(self) -> dict[str, tuple[int, ...]]:
        """Every feature of the schema."""
        return columns_by_feature(self.schema)

    def outputs(self, batch: PatientBatch) -> torch.Tensor:
        """Compute what the head reads, `(B, K)`."""
        outputs: torch.Tensor = self.network(self.inputs(batch))
        return outputs
