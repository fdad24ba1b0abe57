"""What each round of a study releases, and with how much noise: derived, never sent.

Site and coordinator build the same plan from the study, the roster's size and the model's size.
The coordinator therefore cannot ask for an extra evaluation, a smaller noise or a finer grid: a
site simply does what the round's number says.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from math import ceil, fsum, isfinite, sqrt
from typing import Literal, TypeVar

from fedrx_common.errors import StudyError
from fedrx_protocol.fixed_point import LayoutInvalid, Segment, SumLayout, grid_scale
from fedrx_protocol.privacy.accountant import Composition
from fedrx_protocol.privacy.calibration import (
    local_noise_multiplier,
    metrics_noise_multipliers,
    training_noise_multiplier,
)
from fedrx_protocol.privacy.discretization import grid_sensitivity, grid_slack
from fedrx_protocol.privacy.errors import AccountingInvalid, NoiseTooSmall, TargetUnreachable
from fedrx_protocol.privacy.two_sites import epsilon_at_two_sites
from fedrx_protocol.secagg.parameters import SecAggParameters
from fedrx_protocol.study.study import Study

PartName = Literal["training", "weight", "metrics"]

# A noise sample beyond this many standard deviations has probability 4e-33: the space kept free
# for it means that an honest site never has to give up a round because its vector left the ring.
TAIL_DEVIATIONS = 12.0

# Bounds of what is summed without clipping. A value beyond them stops the site before it sends.
LARGEST_UPDATE = 16.0
UNCLIPPED_GRADIENT = 100.0

# An evaluation that must be tried again gets twice the noise, so that all tries together cost
# 1 + 1/4 + 1/16 + ... < 4/3 of the first one, which the calibration pays for in advance. After
# this many tries (and 2048 times the noise) it would say nothing any more.
_ALL_TRIES = 4.0 / 3.0
MOST_TRIES = 12

Noise = TypeVar("Noise")


@dataclass(frozen=True)
class MetricShape:
    """Size of a metric state and what one patient can change of it.

    Args:
        length: Number of sums.
        sensitivity: L2 norm that one patient's contribution never exceeds.
    """

    length: int
    sensitivity: float


@dataclass(frozen=True)
class Part:
    """One segment of a round's vector.

    Args:
        name: What it is.
        length: Number of values.
        scale: Grid units per unit of the value.
        limit: Largest magnitude of one site's value, in grid units, before noise.
        noise_multiplier: Noise of the sum over `min_honest` sites, in sensitivities; 0 for none.
        site_noise_sd: Standard deviation that each site adds, in grid units.
        sensitivity: L2 norm of one patient in the real-valued sum, before the grid.
        slack: What the grid adds to the release's privacy loss (see `privacy.grid`).
    """

    name: PartName
    length: int
    scale: float
    limit: int
    noise_multiplier: float = 0.0
    site_noise_sd: float = 0.0
    sensitivity: float = 0.0
    slack: float = 0.0

    def noise_sd(self, sites: int) -> float:
        """Standard deviation of the noise in a sum over so many sites, in units of the value."""
        return self.site_noise_sd * sqrt(sites) / self.scale


@dataclass(frozen=True)
class RoundPlan:
    """The vector of one attempt at one round."""

    round: int
    attempt: int
    parts: tuple[Part, ...]
    site_limit: int
    """Largest magnitude a site may put into a coordinate, noise included: n such cannot wrap."""

    @cached_property
    def by_name(self) -> Mapping[PartName, Part]:
        """Parts by name."""
        return {part.name: part for part in self.parts}

    @cached_property
    def layout(self) -> SumLayout:
        """How the summed vector is divided into parts."""
        return SumLayout(
            tuple(Segment(part.name, part.length, part.scale, part.limit) for part in self.parts)
        )


@dataclass(frozen=True)
class StudyPlan:
    """A study made concrete for a roster and a model.

    Args:
        study: The agreed study.
        parameters: Secure aggregation among the roster's sites.
        dimension: Number of model weights that are trained.
        between: Metric state of the evaluations in between.
        final: Metric state of the last evaluation.
    """

    study: Study
    parameters: SecAggParameters
    dimension: int
    between: MetricShape
    final: MetricShape

    @cached_property
    def training_noise(self) -> float:
        """Noise multiplier of a training round's sum; 0 where sites add none to the sum."""
        privacy = self.study.privacy
        if privacy.mode != "distributed":
            return 0.0

        def least(slack: float) -> float:
            return training_noise_multiplier(
                privacy.epsilon,
                privacy.delta,
                self.study.training.sample_rate,
                self.paid_rounds,
                grid_slack=slack,
            )

        with self._impossible_named():
            return _settled(least, lambda noise: self._gradient_part(noise).slack)

    @cached_property
    def local_noise(self) -> float:
        """Noise multiplier of a DP-SGD step at a site of its own; 0 in the other modes."""
        study, local = self.study, self.study.training.local
        if study.privacy.mode != "local":
            return 0.0
        rate = min(1.0, local.batch_size / self.patients_per_site)
        with self._impossible_named():
            return local_noise_multiplier(
                study.privacy.epsilon,
                study.privacy.delta,
                sample_rate=rate,
                rounds=self.paid_rounds,
                steps_per_round=local.epochs * ceil(1 / rate),
            )

    @property
    def patients_per_site(self) -> int:
        """Training patients of an average site, from agreed numbers only.

        A private site sets its rates and divisors by this: its own size would tell of a patient.
        """
        cohort = self.study.cohort
        return max(1, round(cohort.patients * (1 - cohort.held_out) / self.parameters.n))

    @cached_property
    def metrics_noise(self) -> tuple[float, float]:
        """Noise multipliers of a first try in between and at the end; zeros for exact sums."""
        study = self.study
        if not study.metrics_are_private:
            return (0.0, 0.0)

        def least(slack: float) -> tuple[float, float]:
            between, final = metrics_noise_multipliers(
                study.privacy.epsilon,
                study.privacy.delta,
                len(study.evaluation_rounds) - 1,
                study.metrics.final_share,
                grid_slack=slack,
            )
            return (between * sqrt(_ALL_TRIES), final * sqrt(_ALL_TRIES))

        with self._impossible_named():
            return _settled(least, self._evaluation_slack)

    @property
    def noise_shares(self) -> int:
        """Sites among which the noise of one sum is shared: one where each adds all of it."""
        return 1 if self.study.privacy.mode == "local" else self.parameters.min_honest

    @property
    def site_limit(self) -> int:
        """Largest magnitude a site may put into a coordinate, so that n sites cannot wrap."""
        return (2**31 - 1) // self.parameters.n

    def round(self, number: int, attempt: int) -> RoundPlan:
        """The plan of one attempt (from 0) at one round (from 1)."""
        study = self.study
        if not 1 <= number <= study.final_round or attempt < 0:
            raise StudyError(
                f"round {number}, attempt {attempt} is not part of the study: "
                f"rounds go from 1 to {study.final_round}."
            )
        final = number == study.final_round
        parts = () if final else self._training_parts
        if number in study.evaluation_rounds:
            tries = self._final_tries if final else self._between_tries
            # Sums without noise may be tried as often as it takes.
            parts += tries[attempt : attempt + 1] if self.metrics_noise[final] else tries
        if not parts:
            raise StudyError(
                f"the last evaluation has been tried {attempt} times, and another one would cost "
                "more privacy than the study allows: the model is finished, its metrics are not."
            )
        return RoundPlan(number, attempt, parts, self.site_limit)

    def check(self) -> None:
        """Build the plan of every kind of round once.

        Raises:
            StudyError: The study's numbers do not fit together; says which one to change.
        """
        _ = self.local_noise
        for number in {1, *self.study.evaluation_rounds}:
            self.round(number, 0)

    @property
    def paid_rounds(self) -> int:
        """Training releases that the noise pays for, repeated attempts included."""
        return self.study.rounds + self.study.privacy.reserve_rounds

    @cached_property
    def paid_training(self) -> Composition:
        """All that the noise for training pays for, at one site; empty where there is none."""
        study, local = self.study, self.study.training.local
        if study.privacy.mode == "local":
            rate = min(1.0, local.batch_size / self.patients_per_site)
            steps = self.paid_rounds * local.epochs * ceil(1 / rate)
            return Composition.repeated((self.local_noise, rate), steps)
        if study.privacy.mode == "none":
            return Composition()
        slack = self.paid_rounds * self._gradient_part(self.training_noise).slack
        kind = self.training_noise, study.training.sample_rate
        return Composition.repeated(kind, self.paid_rounds, slack)

    @cached_property
    def paid_metrics(self) -> Composition:
        """All that the noise for metrics pays for, repeated tries included; empty likewise."""
        if not self.study.metrics_are_private:
            return Composition()
        between, final = (noise / sqrt(_ALL_TRIES) for noise in self.metrics_noise)
        count = len(self.study.evaluation_rounds)
        slack = count * self._evaluation_slack(self.metrics_noise)
        some = Composition.repeated((between, 1.0), count - 1)
        return some + Composition.repeated((final, 1.0), 1, slack)

    @cached_property
    def epsilon_at_two_sites(self) -> float:
        """What is promised to a patient who is at two sites with the same records; 0 for nothing.

        Exact metrics are outside of it, as they do outside the study's epsilon.
        """
        privacy = self.study.privacy
        shared = privacy.mode == "distributed"
        parts = self.paid_training, self.paid_metrics
        return epsilon_at_two_sites(*parts, privacy.delta, shared_noise=shared)

    @property
    def patients_seen_within(self) -> float:
        """How exactly rounds with and without a site can show how many patients it trains on.

        One standard deviation, in patients. Hostile weights give every patient the same clipped
        gradient, so a sum counts patients, with noise of sigma on q times their number. The mean of
        half the paid rounds with the site, less the mean of the others without, has noise
        2 sigma / (q sqrt(rounds)). Mode `distributed` only.
        """
        rate = self.study.training.sample_rate
        return 2 * self.training_noise / (rate * sqrt(self.paid_rounds))

    # Every request needs a round's parts, so they are computed once. They are few, whatever rounds
    # and attempts a coordinator asks for, so it cannot fill a site's memory.

    @cached_property
    def _training_parts(self) -> tuple[Part, ...]:
        study = self.study
        if study.privacy.mode == "distributed":
            return (self._gradient_part(self.training_noise),)
        if study.privacy.mode == "local":
            return (self._part("training", self.dimension, largest=LARGEST_UPDATE),)
        largest = UNCLIPPED_GRADIENT if study.steps == "gradient" else LARGEST_UPDATE
        return (
            self._part("training", self.dimension, largest=study.cohort.largest_site * largest),
            self._part("weight", 1, largest=float(study.cohort.largest_site)),
        )

    @cached_property
    def _between_tries(self) -> tuple[Part, ...]:
        return self._tries(self.between, self.metrics_noise[0])

    @cached_property
    def _final_tries(self) -> tuple[Part, ...]:
        return self._tries(self.final, self.metrics_noise[1])

    def _gradient_part(self, noise: float) -> Part:
        """The clipped gradient sum with a given noise multiplier."""
        norm = self.study.training.clipping_norm
        return self._part(
            "training",
            self.dimension,
            sensitivity=norm,
            largest=self.study.cohort.largest_site * norm,
            noise=noise,
        )

    def _tries(self, shape: MetricShape, noise: float) -> tuple[Part, ...]:
        """All tries at one evaluation, each with twice the noise of the one before."""
        parts = [self._metric_part(shape, noise)]
        with suppress(StudyError):  # a later try's noise may not fit 32 bits: there is none then
            while noise and len(parts) < MOST_TRIES:
                parts.append(self._metric_part(shape, noise * 2.0 ** len(parts)))
        return tuple(parts)

    def _evaluation_slack(self, noise: tuple[float, float]) -> float:
        """The grid's cost of all tries at one evaluation, at most."""
        used = [(self.between, noise[0]), (self.final, noise[1])]
        return max(
            fsum(part.slack for part in self._tries(shape, first))
            for shape, first in used
            if isfinite(first)
        )

    def _metric_part(self, shape: MetricShape, noise: float) -> Part:
        """An evaluation's sums with a given noise multiplier."""
        return self._part(
            "metrics",
            shape.length,
            sensitivity=shape.sensitivity,
            largest=self.study.cohort.largest_site * shape.sensitivity,
            noise=noise,
        )

    def _part(
        self,
        name: PartName,
        length: int,
        *,
        largest: float,
        sensitivity: float = 0.0,
        noise: float = 0.0,
    ) -> Part:
        """Choose the finest grid on which the largest values plus the noise's tail still fit."""
        n, share = self.parameters.n, noise / sqrt(self.noise_shares)
        tail = TAIL_DEVIATIONS * share
        try:
            scale = grid_scale(
                n * largest,
                sites=n,
                noise_bound=n * tail * sensitivity,
                noise_steps=n * tail * sqrt(length),
            )
        except LayoutInvalid:
            raise StudyError(
                f"the {name} sum of {length:,} values does not fit 32 bits with this much noise: "
                "raise privacy.epsilon, or lower training.rounds."
            ) from None
        limit = max(1, round(scale * largest))
        if not noise:
            return Part(name, length, scale, limit, sensitivity=sensitivity)
        moved = grid_sensitivity(scale=scale, clipping_norm=sensitivity, dimension=length)
        sd = share * moved
        try:
            slack = grid_slack(length, sd, self.noise_shares)
        except NoiseTooSmall:
            raise StudyError(
                f"the {name} sum has too little noise for the 32-bit grid of {n} sites: lower "
                "privacy.epsilon or cohort.largest_site."
            ) from None
        return Part(name, length, scale, limit, noise, sd, sensitivity, slack)

    @contextmanager
    def _impossible_named(self) -> Iterator[None]:
        """Turn an accountant's refusal into one sentence about the study's keys."""
        try:
            yield
        except (AccountingInvalid, TargetUnreachable):
            privacy = self.study.privacy
            raise StudyError(
                f"no noise keeps epsilon {privacy.epsilon:g} at delta {privacy.delta:g} over "
                f"{self.study.rounds:,} rounds: raise privacy.epsilon or privacy.delta, or lower "
                "training.rounds."
            ) from None


def _settled(least: Callable[[float], Noise], slack_of: Callable[[Noise], float]) -> Noise:
    """The least noise that also pays for the slack of its own grid.

    More noise mostly means less slack, but where it makes the grid coarser it means more: hence
    the search goes on until the noise pays for all that is needed.
    """
    slack = 0.0
    while True:
        noise = least(slack)
        needed = slack_of(noise)
        if needed <= slack:
            return noise
        slack = needed
