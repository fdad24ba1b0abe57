"""Errors of private training, each named for the harm it prevents."""

from fedrx_common.errors import MisuseError


class LossShapeInvalid(MisuseError):  # noqa: N818 - named for what happened
    """The model did not return one loss per patient; clipping would miss its bound unnoticed."""


class MixesPatients(MisuseError):  # noqa: N818 - named for what happened
    """A layer lets one patient change what another contributes; no clipping can bound that."""


class UnsupportedModel(MisuseError):  # noqa: N818 - named for what happened
    """The gradient of a single patient cannot be had from this model."""


class TrainingInvalid(MisuseError):  # noqa: N818 - named for what happened
    """A training step was asked for with impossible settings, such as a rate of 2."""
