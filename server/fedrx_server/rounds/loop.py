"""The study's loop: ask, collect, resolve, unmask, step, commit; until the last round.

The loop knows sites by the roster, sums by the plan and nodes by the exchange. It holds one
accumulating vector whatever the number of sites, and it commits a round only when its sum is open.
It logs who took part and why a site did not; there is nothing else that it could log.
"""

import logging
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedrx_models.card import Calibration
from fedrx_models.evaluation import evaluation_plan
from fedrx_models.metrics.base import Metrics
from fedrx_protocol.messages.secure_aggregation import RoundRequest
from fedrx_protocol.messages.weights import model_bytes, model_digest
from fedrx_protocol.secagg.blame import most_liars
from fedrx_protocol.secagg.coordinator import CoordinatorRound, KeyDirectory
from fedrx_server.rounds.attempt import Attempt, OpenedSum
from fedrx_server.rounds.exchange import Exchange
from fedrx_server.rounds.membership import Membership, RunParties, Vector
from fedrx_server.rounds.observer import RunObserver
from fedrx_server.rounds.optimizer import ServerOptimizer
from fedrx_server.rounds.retry import FailedAttempt, RetryPolicy, StopAfterAttempts, StudyStopped
from fedrx_server.rounds.spill import SpilledVectors
from fedrx_server.runs.checkpoints import RoundRecord
from fedrx_server.runs.folder import RunFolder

__all__ = ["RunParties", "StudyRun", "StudyStopped"]

logger = logging.getLogger(__name__)

Observer = Callable[[RoundRecord], None]


class StudyRun:
    """Runs a study from the last round in its folder to the end.

    Args:
        parties: Who and what.
        exchange: Requests and replies.
        folder: The open run folder.
        initial: Start weights, shape `(d,)`; a folder with rounds in it has its own.
        trained: Which of them are trained, `(d,)`; sites sum over these only. All by default.
        observer: Called after every finished round.
        retry_policy: What to do when a round cannot be completed; by default the study's number of
            attempts is made, and then the run stops.
        watch: Is called as things happen.
    """

    def __init__(
        self,
        parties: RunParties,
        exchange: Exchange,
        folder: RunFolder,
        initial: Vector,
        observer: Observer = lambda _: None,
        *,
        trained: NDArray[np.bool_] | None = None,
        retry_policy: RetryPolicy | None = None,
        watch: RunObserver | None = None,
    ) -> None:
        self._parties = parties
        self._trained = np.ones(len(initial), np.bool_) if trained is None else trained
        self._study = parties.plan.study
        self._traffic = exchange.traffic
        self._retry_policy = retry_policy or StopAfterAttempts(self._study.schedule.attempts)
        self._watch = watch or RunObserver()
        self._members = Membership(parties, exchange, folder, self._watch)
        self._folder = folder
        self._observer = observer
        self._round = 1
        checkpoint = folder.latest_checkpoint()
        weights = initial if checkpoint is None else checkpoint.weights
        self._optimizer = ServerOptimizer(self._study.optimizer, weights, self._study.rounds)
        if checkpoint is not None:
            self._optimizer.restore(dict(checkpoint.optimizer_state))
            self._round = checkpoint.record.round + 1

    @property
    def weights(self) -> Vector:
        """The present global weights, shape `(d,)`."""
        return self._optimizer.weights

    def run(self) -> None:
        """Go on until the last evaluation is done.

        Raises:
            StudyStopped: a round could not be completed.
        """
        while self._round <= self._study.final_round:
            began = time.monotonic()
            up, down = self._traffic.up, self._traffic.down
            opened = self._finish_pending() or self._attempts()
            metrics, calibration = self._apply(opened)
            record = RoundRecord(
                round=self._round,
                attempt=opened.plan.attempt,
                participants=opened.participants,
                survivors=opened.survivors,
                dropped=opened.participants - opened.survivors,
                metrics=None if metrics is None else metrics.flat(),
                bytes_up=self._traffic.up - up,
                bytes_down=self._traffic.down - down,
                seconds=time.monotonic() - began,
                calibration=None if calibration is None else calibration.model_dump(mode="json"),
            )
            self._folder.save_round(record, self.weights, self._optimizer.state())
            self._observer(record)
            self._round += 1

    def _attempts(self) -> OpenedSum:
        tries = failures = 0
        reserve = self._study.privacy.reserve_rounds
        while True:
            self._members.reasons.clear()
            keys = self._members.keys()
            present = self._members.present
            # No number is used up while too few are there: repeated evaluations get more noise.
            if keys is not None and len(present) >= self._parties.least:
                opened = self._attempt(keys, present)
                if opened is not None:
                    return opened
                failures += 1
            tries += 1
            failure = FailedAttempt(
                round=self._round,
                tries=tries,
                failures=failures,
                members=self._members.able,
                threshold=self._parties.least,
                reasons=dict(self._members.reasons),
                missing=self._members.missing(),
                sites=len(self._parties.sites),
                one_list=self._parties.one_list,
                left_out=self._folder.left_out,
                causes=self._folder.blame.causes(),
                futile=self._charged and self._folder.blame.futile(self._round, reserve),
            )
            self._retry_policy.next_attempt(failure)
            self._members.renew()

    def _attempt(self, keys: KeyDirectory, present: tuple[str, ...]) -> OpenedSum | None:
        """One try; `None` if too few sites remained for the sum to be opened."""
        plan = self._parties.plan.round(self._round, self._folder.reserve_attempt(self._round))
        weights = self.weights
        request = RoundRequest(
            session=self._parties.session,
            epoch=keys.epoch,
            round=self._round,
            attempt=plan.attempt,
            participants=present,
            threshold=self._parties.plan.parameters.threshold,
            model_digest=model_digest(model_bytes(weights)),
        )
        kept = SpilledVectors(self._folder.path)
        current = CoordinatorRound(keys, request, length=plan.layout.length, inputs=kept)
        attempt = Attempt(self._members, plan, current)
        self._watch.attempting(plan.round, plan.attempt, present, self._members.missing())
        attempt.collect(weights)
        # A sum without the lost site would be refused: the list is the same in every round.
        if (self._parties.one_list and not attempt.complete) or not attempt.resolve():
            self._judge(attempt, opened=False)
            return None
        self._folder.save_pending(self._round, current.to_bytes())
        return self._unmask(attempt)

    def _finish_pending(self) -> OpenedSum | None:
        """Send a stored UNMASK again after a crash; sites give the same answer to the same list."""
        pending = self._folder.load_pending()
        if pending is None:
            return None
        current = CoordinatorRound.from_bytes(pending[1], self._parties.roster)
        plan = self._parties.plan.round(self._round, current.request.attempt)
        self._members.keys()
        return self._unmask(Attempt(self._members, plan, current))

    def _unmask(self, attempt: Attempt) -> OpenedSum | None:
        opened = attempt.unmask(self._retry_policy)
        self._judge(attempt, opened=opened is not None)
        if opened is None:
            self._folder.clear_pending()
        return opened

    def _judge(self, attempt: Attempt, *, opened: bool) -> None:
        """Record which sites spoiled an attempt, before anything else is tried."""
        ended = attempt.ended(opened=opened, charged=self._charged)
        liars = most_liars(self._parties.plan.parameters)
        self._folder.save_blame(self._folder.blame.judged(ended, liars))
        for site, why in self._folder.left_out.items():
            logger.warning("%d.%d: %s is left out: %s", ended.round, ended.attempt, site, why)

    def _apply(self, opened: OpenedSum) -> tuple[Metrics | None, Calibration | None]:
        """Step the optimizer on an opened sum, and read its metrics and its calibration."""
        sums = opened.plan.layout.decode(opened.total)
        if "training" in sums:
            survivors, total = opened.survivors, sums["training"]
            if "weight" in sums:
                mean = total / max(float(sums["weight"][0]), 1.0)
            elif self._study.privacy.mode == "distributed":
                # Public, whatever the sample was: the agreed size, and how many sites took part.
                patients = self._study.cohort.patients * (1 - self._study.cohort.held_out)
                sampled = self._study.training.sample_rate * patients * survivors
                mean = total / max(sampled / len(self._parties.roster.sites), 1.0)
            else:
                mean = total / survivors
            direction = mean if self._study.steps == "gradient" else -mean
            everywhere = np.zeros(len(self._trained))  # a frozen weight has no direction
            everywhere[self._trained] = direction
            self._optimizer.step(everywhere, self._round)
        if "metrics" not in sums:
            return None, None
        noise_sd = opened.plan.by_name["metrics"].noise_sd(opened.survivors)
        agreed = evaluation_plan(self._study, final=self._round == self._study.final_round)
        return agreed.read(sums["metrics"], noise_sd)

    @property
    def _charged(self) -> bool:
        """Whether a failed attempt spends privacy of patients."""
        return self._parties.offers is not None and self._study.privacy.mode != "none"
