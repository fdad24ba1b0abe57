"""Errors of private training, each named for the harm it prevents."""

from fedrx_common.errors import MisuseError


class MixesPatients(MisuseError):
    """A layer or the loss does not keep patients apart; no clipping can bound one's influence."""


class UnsupportedModel(MisuseError):
    """This model does not give the gradient of a single patient."""


class TrainingInvalid(MisuseError):
    """The settings of a training step are impossible, such as a rate of 2."""
