"""Errors of models and model files."""

from fedrx_common.errors import MisuseError


class ModelMismatch(MisuseError):  # noqa: N818 - named for what happened
    """Weights do not fit the model; loading them would silently train or dose with nonsense."""


class ModelFileInvalid(MisuseError):  # noqa: N818 - named for what happened
    """A model file is damaged, of another study, or not ours; nothing of it was used."""
