"""The study's loop: ask, collect, resolve, unmask, step, commit; again until the last round.

The loop knows sites by the roster, sums by the plan and nodes by the exchange. It holds one
accumulating vector whatever the number of sites, and it commits a round only when its sum is open.
What it logs is who took part and why somebody did not; there is nothing else that it could log.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_models.metrics import DoseMetrics, MetricPlan
from fedrx_protocol import wire
from fedrx_protocol.errors import FedRxError, PeerError
from fedrx_protocol.plan import RoundPlan, StudyPlan
from fedrx_protocol.roster import Roster
from fedrx_protocol.secagg.coordinator import CoordinatorKeys, CoordinatorRound
from fedrx_protocol.secagg.messages import (
    Advert,
    AdvertRequest,
    ResolveReply,
    RoundRequest,
    UnmaskReply,
)
from fedrx_protocol.secagg.parameters import session_id
from fedrx_protocol.weights import model_bytes, model_digest
from fedrx_server.checkpoints import RoundRecord
from fedrx_server.exchange import Exchange, Reply
from fedrx_server.optimizer import ServerOptimizer
from fedrx_server.run_folder import RunFolder

logger = logging.getLogger(__name__)

# What a site answers that has restarted and so lost its keys: it takes part again in a new epoch.
_KEYS_LOST = frozenset({"OutOfOrder", "SessionMismatch"})

Vector = NDArray[np.float32]
Observer = Callable[[RoundRecord], None]


class StudyStopped(FedRxError):  # noqa: N818 - named for what happened
    """The study could not go on; every finished round is kept and the run can be resumed."""


@dataclass(frozen=True)
class RunParties:
    """Who takes part in a run and what was agreed.

    Args:
        run_id: Name of the run, part of every key derivation.
        plan: The study made concrete.
        roster: The verified roster.
    """

    run_id: str
    plan: StudyPlan
    roster: Roster

    @property
    def session(self) -> bytes:
        """Binds every key of this run to run, study and roster."""
        return session_id(self.run_id, self.plan.study.digest, self.roster.digest)


@dataclass(frozen=True)
class _Opened:
    """A sum that was opened: the integer sum and the sites in it."""

    plan: RoundPlan
    total: NDArray[np.uint32]
    survivors: int
    participants: int


class StudyRun:
    """Runs a study from where its folder stands to the end.

    Args:
        parties: Who and what.
        exchange: Requests and replies.
        folder: The open run folder.
        initial: Start weights, shape `(d,)`; a folder with rounds in it has its own.
        observer: Called after every finished round.
    """

    def __init__(
        self,
        parties: RunParties,
        exchange: Exchange,
        folder: RunFolder,
        initial: Vector,
        observer: Observer = lambda _: None,
    ) -> None:
        self._parties = parties
        self._study = parties.plan.study
        self._exchange = exchange
        self._folder = folder
        self._observer = observer
        self._keys: CoordinatorKeys | None = None
        self._nodes: dict[str, int] = {}
        self._stale = False
        self._round = 1
        checkpoint = folder.latest_checkpoint()
        weights = initial if checkpoint is None else checkpoint.weights
        self._optimizer = ServerOptimizer(self._study.optimizer, weights, self._study.rounds)
        if checkpoint is not None:
            self._optimizer.restore(dict(checkpoint.optimizer_state))
            self._round = checkpoint.record.round + 1

    @property
    def weights(self) -> Vector:
        """The global weights as they stand, shape `(d,)`."""
        return self._optimizer.weights

    def run(self) -> None:
        """Go on until the last evaluation is done.

        Raises:
            StudyStopped: a round could not be completed.
        """
        while self._round <= self._study.final_round:
            self._one_round()
            self._round += 1

    def _one_round(self) -> None:
        began = time.monotonic()
        up, down = self._exchange.traffic.up, self._exchange.traffic.down
        opened = self._finish_pending() or self._attempts()
        metrics = self._apply(opened)
        traffic = self._exchange.traffic
        record = RoundRecord(
            round=self._round,
            attempt=opened.plan.attempt,
            participants=opened.participants,
            survivors=opened.survivors,
            dropped=opened.participants - opened.survivors,
            metrics=None if metrics is None else flat_metrics(metrics),
            bytes_up=traffic.up - up,
            bytes_down=traffic.down - down,
            seconds=time.monotonic() - began,
        )
        self._folder.save_round(record, self.weights, self._optimizer.state())
        self._observer(record)

    def _attempts(self) -> _Opened:
        reasons: Counter[str] = Counter()
        for _ in range(self._study.schedule.attempts):
            keys = self._session_keys()
            attempt = self._folder.reserve_attempt(self._round)
            reasons.clear()
            opened = self._attempt(keys, attempt, reasons)
            if opened is not None:
                return opened
            if reasons["BudgetExhausted"] > len(keys.members) - self._threshold:
                raise StudyStopped(
                    f"stopped before round {self._round}: the sites' privacy budget is spent "
                    f"after {self._round - 1} rounds; the model up to here is kept."
                )
            self._stale = True
        why = ", ".join(f"{count} × {name}" for name, count in reasons.most_common()) or "no answer"
        raise StudyStopped(
            f"round {self._round} could not be completed in {self._study.schedule.attempts} "
            f"attempts: at least {self._threshold} sites must take part ({why}); resume the run "
            "when they are back."
        )

    def _attempt(
        self, keys: CoordinatorKeys, attempt: int, reasons: "Counter[str]"
    ) -> _Opened | None:
        """One try; `None` if too few sites remained for the sum to be opened."""
        plan = self._parties.plan.round(self._round, attempt)
        weights = self.weights
        request = RoundRequest(
            session=self._parties.session,
            epoch=keys.epoch,
            round=self._round,
            attempt=attempt,
            participants=keys.members,
            threshold=self._threshold,
            model_digest=model_digest(model_bytes(weights)),
        )
        current = CoordinatorRound(keys, request, length=plan.layout.length)
        self._collect_masked(current, request, weights, reasons)
        if not self._resolve(current, reasons):
            return None
        self._folder.save_pending(self._round, current.to_bytes())
        return self._unmask(current, plan, reasons)

    def _collect_masked(
        self,
        current: CoordinatorRound,
        request: RoundRequest,
        weights: Vector,
        reasons: "Counter[str]",
    ) -> None:
        header = wire.encode(request)
        for reply in self._ask(
            "train.masked", dict.fromkeys(request.participants, header), current, weights
        ):
            if self._refused(reply, reasons):
                continue
            try:
                current.add(wire.decode_masked(reply.header, reply.payload))
            except PeerError as error:
                self._bad(reply, error, reasons)

    def _resolve(self, current: CoordinatorRound, reasons: "Counter[str]") -> bool:
        """Open the masks toward dropped sites until nobody else drops; False if too few remain."""
        while True:
            requests = current.close()
            if requests is None:
                return False
            if not requests:
                return True
            headers = {site: wire.encode(request) for site, request in requests.items()}
            for reply in self._ask("query.resolve", headers, current):
                if self._refused(reply, reasons):
                    continue
                try:
                    current.add_resolve(wire.decode(reply.header, ResolveReply))
                except PeerError as error:
                    self._bad(reply, error, reasons)

    def _unmask(
        self, current: CoordinatorRound, plan: RoundPlan, reasons: "Counter[str]"
    ) -> _Opened | None:
        headers = {
            site: wire.encode(request) for site, request in current.unmask_requests().items()
        }
        for reply in self._ask("query.unmask", headers, current):
            if self._refused(reply, reasons):
                continue
            try:
                current.add_unmask(wire.decode(reply.header, UnmaskReply))
            except PeerError as error:
                self._bad(reply, error, reasons)
        if not current.can_open:
            return None
        total, survivors = current.result()
        return _Opened(plan, total, len(survivors), len(current.request.participants))

    def _finish_pending(self) -> _Opened | None:
        """Send a stored UNMASK again after a crash; sites give the same answer to the same list."""
        pending = self._folder.load_pending()
        if pending is None:
            return None
        current = CoordinatorRound.from_bytes(pending[1], self._parties.roster)
        self._session_keys()
        plan = self._parties.plan.round(self._round, current.request.attempt)
        opened = self._unmask(current, plan, Counter())
        if opened is None:
            self._folder.clear_pending()
        return opened

    def _session_keys(self) -> CoordinatorKeys:
        """Keys of the current epoch; a new epoch is advertised where there is none."""
        if self._keys is None or self._stale:
            self._stale = False
            self._keys = self._advertise()
        return self._keys

    def _advertise(self) -> CoordinatorKeys:
        keys = CoordinatorKeys(
            session=self._parties.session,
            epoch=self._folder.reserve_epoch(),
            roster=self._parties.roster,
            parameters=self._parties.plan.parameters,
        )
        reasons: Counter[str] = Counter()
        header = wire.encode(AdvertRequest(self._parties.session, keys.epoch))
        nodes = dict.fromkeys(self._exchange.nodes(), header)
        self._nodes = {}
        for reply in self._send("query.advertise", nodes, f"epoch.{keys.epoch}"):
            if self._refused(reply, reasons):
                continue
            try:
                advert = wire.decode(reply.header, Advert)
                keys.add(advert)
                self._nodes[advert.site] = reply.node
            except PeerError as error:
                self._bad(reply, error, reasons)
        headers = {self._nodes[site]: wire.encode(keys.adverts(site)) for site in keys.members}
        for reply in self._send("query.keys", headers, f"epoch.{keys.epoch}"):
            if self._refused(reply, reasons):
                keys.remove(self._site_of(reply.node))
        return keys

    def _apply(self, opened: _Opened) -> DoseMetrics | None:
        """Step the optimizer on an opened sum and read its metrics."""
        sums = opened.plan.layout.decode(opened.total)
        if "training" in sums:
            weight = float(sums["weight"][0]) if "weight" in sums else None
            direction = self._direction(sums["training"], weight, opened.survivors)
            self._optimizer.step(direction, self._round)
        if "metrics" not in sums:
            return None
        part = opened.plan.by_name["metrics"]
        metric_plan = MetricPlan.for_study(
            self._study, final=self._round == self._study.final_round
        )
        noise_sd = part.site_noise_sd * np.sqrt(opened.survivors) / part.scale
        return metric_plan.from_state(sums["metrics"], noise_sd=float(noise_sd) or None)

    def _direction(
        self, total: NDArray[np.float64], weight: float | None, survivors: int
    ) -> NDArray[np.float64]:
        """What to step against: a mean gradient, or minus a mean change."""
        if weight is None and self._study.privacy.mode == "distributed":
            # Public, whatever the sample was: the agreed size, and how many sites took part.
            agreed = self._study.cohort.patients * (1 - self._study.cohort.held_out)
            weight = (
                self._study.training.sample_rate
                * agreed
                * survivors
                / len(self._parties.roster.sites)
            )
        mean = total / (survivors if weight is None else max(weight, 1.0))
        return mean if self._study.steps == "gradient" else -mean

    @property
    def _threshold(self) -> int:
        return self._parties.plan.parameters.threshold

    def _ask(
        self,
        kind: str,
        headers: Mapping[str, bytes],
        current: CoordinatorRound,
        payload: Vector | None = None,
    ) -> Iterator[Reply]:
        """Send a round's requests to sites by name."""
        attempt = f"{current.request.round}.{current.request.attempt}"
        nodes = {
            self._nodes[site]: header for site, header in headers.items() if site in self._nodes
        }
        return self._send(kind, nodes, attempt, payload)

    def _send(
        self, kind: str, headers: Mapping[int, bytes], attempt: str, payload: Vector | None = None
    ) -> Iterator[Reply]:
        return self._exchange.send(
            kind,
            headers,
            attempt=attempt,
            deadline_s=self._study.schedule.round_deadline_s,
            payload=payload,
        )

    def _refused(self, reply: Reply, reasons: "Counter[str]") -> bool:
        """Whether a reply holds no message; counts and logs why."""
        reason = "lost" if reply.lost else reply.refusal
        if reason in _KEYS_LOST:
            self._stale = True
        if reason:
            reasons[reason] += 1
            logger.info("round %d: %s: %s", self._round, self._site_of(reply.node), reason)
        return bool(reason)

    def _bad(self, reply: Reply, error: PeerError, reasons: "Counter[str]") -> None:
        reasons[type(error).__name__] += 1
        logger.warning("round %d: %s: %s", self._round, self._site_of(reply.node), error)

    def _site_of(self, node: int) -> str:
        return next((site for site, own in self._nodes.items() if own == node), f"node {node}")


def flat_metrics(metrics: DoseMetrics) -> dict[str, float]:
    """Metrics as one flat mapping for a round's record; absent values are left out."""
    flat = {
        "n": metrics.n,
        "mae": metrics.mae,
        "within_20_percent": metrics.within_20_percent,
        "r2": metrics.r2,
    }
    if metrics.mae_interval is not None:
        flat["mae_low"], flat["mae_high"] = metrics.mae_interval
    for group in metrics.groups:
        flat[f"mae {group.name}"] = group.mae
        flat[f"within_20_percent {group.name}"] = group.within_20_percent
    return {name: float(value) for name, value in flat.items() if value is not None}
