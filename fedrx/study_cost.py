"""What a study will cost, before the first patient is touched: noise, privacy, bytes, warnings.

An evaluation that says nothing costs as much privacy as one that does, so the warnings say which
evaluations noise hides, and what would help.
"""

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

from fedrx_models.contract import get_vector
from fedrx_models.metrics.foresight import expected_headline
from fedrx_models.metrics.registry import Measure, measures_of
from fedrx_models.planning import make_plan
from fedrx_models.transfer import study_model
from fedrx_protocol.plan import StudyPlan
from fedrx_protocol.privacy.figures import Figure
from fedrx_protocol.study.schema import PanelTarget
from fedrx_protocol.study.study import Study

_HOLD_OUT = "find more, or raise cohort.held_out"
_MULTIPLES = (1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)


def study_cost(study: Study, sites: int) -> dict[str, Any]:
    """Say what a study will cost with a number of sites: noise, privacy, bytes a round.

    Raises:
        MisuseError: The study cannot be run with so many sites; says what to change.
    """
    plan = make_plan(study, sites)
    plan.check()
    check = EvaluationCheck.of(plan)
    weights = len(get_vector(study_model(study, seed=0)))
    between, final = plan.metrics_noise
    masked = max(plan.round(number, 0).layout.length for number in (1, study.final_round))
    unmeasured: dict[str, list[str]] = {}
    if isinstance(study.target, PanelTarget):
        measured = {gene.upper() for block in study.blocks for gene in block.genes}
        for drug in study.target.drugs:
            if strange := [gene for gene in drug.targets if gene.upper() not in measured]:
                unmeasured[drug.name] = strange
    return {
        "study": study.name,
        "digest": study.digest,
        "model": study.model.name,
        "weights": weights,
        "trained_weights": plan.dimension,
        "rounds": study.rounds,
        # As in the report: a round's metrics are of the model after the round before.
        "evaluation_rounds": [number - 1 for number in study.evaluation_rounds],
        "sites": sites,
        "threshold": plan.parameters.threshold,
        "max_colluding_sites": plan.parameters.max_colluding,
        "min_honest_sites": plan.parameters.min_honest,
        "stable_lists_live": study.opens_one_list(live=True),
        "privacy": {
            "mode": study.privacy.mode,
            "epsilon": None if study.privacy.mode == "none" else study.privacy.epsilon,
            "delta": study.privacy.delta,
            "epsilon_at_two_sites": plan.epsilon_at_two_sites or None,
            "noise_multiplier": plan.training_noise or None,
            "evaluation_noise_multiplier": between if isfinite(between) and between else None,
            "final_evaluation_noise_multiplier": final or None,
        },
        "targets_in_no_block": unmeasured,
        "bytes_up_per_site_and_round": 4 * masked,
        "bytes_down_per_site_and_round": 4 * weights,
        "evaluations": check.to_json(),
        "warnings": [*_warnings(study), *check.warnings()],
    }


def _warnings(study: Study) -> list[str]:
    """Say what is allowed in a study and seldom meant, a sentence each."""
    found = []
    delta, patients, usual = study.privacy.delta, study.cohort.patients, study.delta_limit / 10
    if study.privacy.mode != "none" and delta > usual:
        found.append(f"δ = {delta:g} is large for {patients} patients: {usual:.2g} is usual.")
    if study.cohort.largest_site > patients:
        found.append(
            f"cohort.largest_site is {study.cohort.largest_site}, but all sites together have "
            f"{patients} patients: a smaller one makes sums finer."
        )
    bound, largest = study.metrics.error_bound, study.largest_error
    if study.metrics_are_private and bound > largest:
        found.append(
            f"metrics.error_bound is {bound:g}, but no error can be above {largest:g}: the noise "
            "on errors grows with it."
        )
    return found


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
            between, last = self.noise_sd
            fewer = count - 1
            # Evaluations before the last share their budget alike.
            while fewer and self._hidden((between * sqrt(fewer / count), last), 1):
                fewer -= 1
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
