"""What `fedrx study check` says of a study's evaluations: which ones noise hides, what would help.

Before the first patient is touched; an evaluation that says nothing costs as much privacy as one
that does.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

from fedrx_models.metrics.foresight import expected_headline
from fedrx_models.metrics.registry import Measure, measures_of
from fedrx_protocol.plan import StudyPlan
from fedrx_protocol.privacy.figures import Figure
from fedrx_protocol.study.study import Study

_HOLD_OUT = "find more, or raise cohort.held_out"
_MULTIPLES = (1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)


@dataclass(frozen=True)
class EvaluationCheck:
    """The evaluations of a study, if all of its sites take part.

    Args:
        study: the study.
        noise_sd: standard deviation of the noise on each sum, of an evaluation before the last
            (0 if there is none) and of the last.
    """

    study: Study
    noise_sd: tuple[float, float]

    @classmethod
    def of(cls, plan: StudyPlan) -> "EvaluationCheck":
        """The check of a study made concrete for its sites."""
        *between, last = plan.study.evaluation_rounds
        first = cls._noise(plan, between[0]) if between else 0.0
        return cls(plan.study, (first, cls._noise(plan, last)))

    @staticmethod
    def _noise(plan: StudyPlan, round_number: int) -> float:
        return plan.round(round_number, 0).by_name["metrics"].noise_sd(plan.parameters.n)

    @property
    def between(self) -> Figure:
        """The headline of an evaluation before the last; nothing hides one that is not there."""
        return self._headline(self.noise_sd[0], final=False)

    @property
    def final(self) -> Figure:
        """The headline of the last evaluation."""
        return self._headline(self.noise_sd[1], final=True)

    @property
    def measure(self) -> Measure:
        """The headline."""
        return measures_of(self.study.target)[0]

    @property
    def held_out(self) -> float:
        """Held-out patients of all sites, by agreed numbers."""
        return self.study.cohort.patients * self.study.cohort.held_out

    def to_json(self) -> dict[str, Any]:
        """For `fedrx study check --json`: lengths of the noise's 95 % intervals."""
        return {
            "headline": self.measure.key,
            "could_tell": self.measure.tells,
            "noise_length": _length(self.between) if self.noise_sd[0] else None,
            "final_noise_length": _length(self.final),
            "hidden": self.between.hidden,
            "final_hidden": self.final.hidden,
        }

    def warnings(self) -> list[str]:
        """One sentence on what noise hides, and one on each remedy; empty if it hides nothing."""
        between, final = self.between, self.final
        if not between.hidden and not final.hidden:
            return []
        count = len(self.study.evaluation_rounds) - 1
        if final.hidden:
            what, hidden = ("all evaluations" if count else "the only evaluation"), final
        else:
            what, hidden = f"the {count} evaluations before the last", between
            what = "the evaluation before the last" if count == 1 else what
        digits, unit = self.measure.digits, f" {self.measure.unit}" if self.measure.unit else ""
        told = (
            f"Noise will hide {what}: with about {self.held_out:.0f} held-out patients, the 95 % "
            f"interval of the {self.measure.label} is {_length(hidden):.{digits}f}{unit} long, "
            f"but it could tell {hidden.tells:.{digits}f}{unit} only."
        )
        return [" ".join([told, *self._remedies(count)])]

    def _remedies(self, count: int) -> list[str]:
        """What would leave something to read."""
        if not self.final.hidden:
            fewer = next((k for k in range(count - 1, 0, -1) if not self._fewer(k, count)), 0)
            end = "so few" if fewer else "the single one at the end"
            more = self._patients(self.noise_sd)
            return [
                f"Use metrics.evaluations = {fewer}: {end} can be read.",
                *([f"Or hold out about {more:.0f} patients: {_HOLD_OUT}."] if more else []),
            ]
        alone = self.noise_sd[1] * (sqrt(self.study.metrics.final_share) if count else 1.0)
        more = self._patients((0.0, alone))
        if more is None:
            return ["Far more held-out patients or a larger privacy.epsilon would help."]
        use = "Use metrics.evaluations = 0, so that a single one at the end has the whole budget"
        if more <= self.held_out:
            return [f"{use}: it can be read."]
        hold_out = f"old out about {more:.0f} patients: {_HOLD_OUT}."
        return [f"{use}, and h{hold_out}" if count else f"H{hold_out}"]

    def _patients(self, noise_sd: tuple[float, float]) -> float | None:
        """The fewest held-out patients with whom noise hides nothing, of a few multiples."""
        enough = (k for k in _MULTIPLES if not self._hidden(noise_sd, k))
        return next((k * self.held_out for k in enough), None)

    def _fewer(self, count: int, before: int) -> bool:
        """Whether anything is hidden with `count` evaluations before the last: they share alike."""
        return self._hidden((self.noise_sd[0] * sqrt(count / before), self.noise_sd[1]), 1)

    def _hidden(self, noise_sd: tuple[float, float], more: float) -> bool:
        """Whether noise hides either kind of evaluation, with `more` times the patients."""
        return any(
            self._headline(sd, more, final=final).hidden
            for sd, final in zip(noise_sd, (False, True), strict=True)
        )

    def _headline(self, noise_sd: float, more: float = 1, *, final: bool) -> Figure:
        return expected_headline(self.study, more * self.held_out, noise_sd, final=final)


def _length(figure: Figure) -> float:
    """Of the noise's interval, both sides as long as the longer one: it is cut at its range."""
    if figure.noise is None or figure.value is None:
        return 0.0
    low, high = figure.noise
    return 2 * max(high - figure.value, figure.value - low)
