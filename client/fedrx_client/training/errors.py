"""Errors of private training, each named for the harm it prevents."""

from fedrx_common.errors import MisuseError


class LossShapeInvalid(MisuseError):
    """The model did not return one loss per patient; clipping would miss its bound unnoticed."""


class MixesPatients(MisuseError):
    """A layer lets one patient change what another contributes; no clipping can bound that."""


class UnsupportedModel(MisuseError):
    """This model does not give the gradient of a single patient."""


class TrainingInvalid(MisuseError):
    """The settings of a training step are impossible, such as a rate of 2."""
