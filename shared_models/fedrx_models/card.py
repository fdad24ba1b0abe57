"""The card of a model: what a person must know before relying on it; it travels in its file."""

from datetime import date
from typing import Literal

from pydantic import Field

from fedrx_common.errors import MisuseError
from fedrx_protocol.study.base import Line, Name, Paragraph, StrictModel, is_empty

INTENDED_USE = (
    "Research software, no medical device. It supports the decision of a qualified person and "
    "never makes one; check each value against the patient before acting on it."
)


_MOST_NAMED = 3  # outcomes in a sentence


class ModelUnusable(MisuseError):
    """A model is withdrawn or expired, so it predicts for no patient."""


class CalibratedOutcome(StrictModel):
    """How far the intervals of one outcome must reach so that they hold.

    Attributes:
        of: the outcome: the target, or a marker and a horizon, as "inr 7".
        radius: what the model's own half-widths are multiplied by; None where too few patients were
            seen, or noise hides it.
        plain: share of outcomes that the model's own intervals held, as reported, 0..1; None where
            nothing can be said.
        covered: the same of the calibrated ones.
    """

    of: Line
    radius: float | None = Field(default=None, gt=0)
    plain: float | None = Field(default=None, ge=0, le=1)
    covered: float | None = Field(default=None, ge=0, le=1)


class Calibration(StrictModel):
    """What held-out patients of the consortium say of a model's intervals, as it was released.

    Attributes:
        level: share of new patients' outcomes that a calibrated interval holds, at least.
        confidence: probability over the noise that it does; 1 without noise.
        patients: how many it rests on; an estimate where noise was added.
        noise_sd: standard deviation of the noise, in patients, on each count; 0 without noise.
        outcomes: one for a number or a panel; for a forecast one for each marker and horizon.
    """

    level: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, le=1)
    patients: float
    noise_sd: float = Field(default=0.0, ge=0)
    outcomes: tuple[CalibratedOutcome, ...] = Field(strict=False)

    @property
    def missing(self) -> tuple[str, ...]:
        """Outcomes whose intervals stay the model's own."""
        return tuple(one.of for one in self.outcomes if one.radius is None)


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
        calibration: how its intervals were calibrated; None where they were not.
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
    calibration: Calibration | None = Field(default=None, exclude_if=is_empty)
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
    def intervals(self) -> str:
        """What the intervals rest on, in a sentence; empty where they were not calibrated."""
        found = self.calibration
        if found is None:
            return ""
        about = "" if found.noise_sd == 0 else "about "
        under = (
            "" if self.epsilon is None or not found.noise_sd else f" under ε = {self.epsilon:.2g}"
        )
        on = f"on {about}{found.patients:.0f} held-out patients{under}"
        if len(found.missing) == len(found.outcomes):
            return f"Intervals are the model's own: a calibration {on} could not tell a width."
        held = f"Intervals are calibrated {on}: they hold {100 * found.level:.0f} % of outcomes"
        held += f" or more (confidence {100 * found.confidence:.0f} %)" if found.noise_sd else ""
        own = ", ".join(found.missing[:_MOST_NAMED])
        more = len(found.missing) - _MOST_NAMED
        own += f" and {more} more" if more > 0 else ""
        return f"{held}{f', but those of {own} stay as the model has them' if own else ''}."

    @property
    def promise(self) -> str:
        """The privacy of those who trained it, in a few words."""
        if self.sites is None:
            return "published, not trained on patients of a consortium"
        if self.epsilon is None or self.delta is None:
            return "trained without a privacy promise"
        return f"ε = {self.epsilon:.2g} at δ = {self.delta:.0e} for every patient who trained it"
