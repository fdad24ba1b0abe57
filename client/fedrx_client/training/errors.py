"""Errors of private training, each named for the harm it prevents."""

from fedrx_common.errors import MisuseError


class LossShapeInvalid(MisuseError):
    """The model did not return one loss per patient; clipping would miss its bound unnoticed."""


class MixesPatients(MisuseError):
    """A layer lets one patient change what another contributes; no clipping can bound that."""


class UnsupportedModel(MisuseError):
    """The gradient of a single patient cannot be had from this model."""


class TrainingInvalid(MisuseError):
    """A training step was asked for with impossible settings, such as a rate of 2."""
