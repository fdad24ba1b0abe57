"""The card of a model: what a person must know before relying on it; it travels in its file."""

from datetime import date
from typing import Literal

from pydantic import Field

from fedrx_common.errors import MisuseError
from fedrx_protocol.study.base import Line, Name, Paragraph, StrictModel

INTENDED_USE = (
    "Research software, no medical device. It supports the decision of a qualified person and "
    "never makes one; check each value against the patient before acting on it."
)


class ModelUnusable(MisuseError):
    """A model is withdrawn or expired, so it predicts for no patient."""


class ModelCard(StrictModel):
    """What was trained, under which promise, for whom, and until when it may be used.

    Attributes:
        study: name of the study.
        title: its title.
        made: the day on which training ended, in UTC.
        privacy: mode of the study's privacy.
        epsilon: spent on each patient at `delta`; None where nothing was promised.
        delta: of the promise; None likewise.
        sites: hospitals that trained it; None where it was not trained, as a published equation.
        pipeline: digest of the declared data pipeline, where the study pins one.
        intended_use: in a sentence or two.
        expires: the first day on which it may not be used any more.
        withdrawn: why it may not be used any more; empty while it may.
    """

    study: Name
    title: Line = ""
    made: date = Field(strict=False)
    privacy: Literal["distributed", "local", "none"] = "none"
    epsilon: float | None = None
    delta: float | None = None
    sites: int | None = None
    pipeline: Line | None = None
    intended_use: Paragraph = INTENDED_USE
    expires: date | None = Field(default=None, strict=False)
    withdrawn: Paragraph = ""

    def require_usable(self, today: date, name: str) -> None:
        """Refuse a model that may not predict any more.

        Args:
            today: the day on which it would.
            name: the model in words, for the error.

        Raises:
            ModelUnusable: it is withdrawn or expired.
        """
        if self.withdrawn:
            raise ModelUnusable(
                f"{name}: the model was withdrawn ({self.withdrawn.rstrip('.')}); use another."
            )
        if self.expires is not None and today >= self.expires:
            raise ModelUnusable(
                f"{name}: the model expired on {self.expires.isoformat()}; install a newer one, or "
                "extend it with `fedrx model card --expires` after judging it again."
            )

    @property
    def promise(self) -> str:
        """The privacy of those who trained it, in a few words."""
        if self.sites is None:
            return "published, not trained on patients of a consortium"
        if self.epsilon is None or self.delta is None:
            return "trained without a privacy promise"
        return f"ε = {self.epsilon:.2g} at δ = {self.delta:.0e} for every patient who trained it"
