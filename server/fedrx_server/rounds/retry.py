"""What a run does when it cannot go on: a simulation gives up, a live run waits and says for whom.

Waiting costs nothing: no attempt is counted and no sum is opened while too few sites are there.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from fedrx_common.errors import FedRxError
from fedrx_protocol.messages.refusal import Refusal
from fedrx_server.rounds.observer import RunObserver
from fedrx_server.runs.blame import LeftOut

# A site says this when its sum has no finite or no fitting value any more.
_RAN_AWAY: Final = (
    "round {round}: too many sites computed values beyond all bounds, so training has run away: "
    "use a smaller training.optimizer.learning_rate, or training.local.learning_rate where sites "
    "train epochs, and begin a new run."
)
ENDS: Final[Mapping[Refusal, str]] = {
    Refusal.BUDGET_EXHAUSTED: "stopped before round {round}: the sites' privacy budget is spent "
    "after {finished} rounds; the model up to here is kept.{because}",
    Refusal.VALUE_OUT_OF_RANGE: _RAN_AWAY,
    Refusal.TRAINING_INVALID: _RAN_AWAY,
    Refusal.MODEL_ALREADY_RELEASED: "round {round} cannot be repeated: its sum was unmasked and "
    "did not open, and sites answer once for each model where sums are exact; begin a new "
    "run.{because}",
}
"""Why a run ends where too few sites are left without those that refuse so."""


class StudyStopped(FedRxError):
    """The study could not go on; every finished round is kept and the run can be resumed."""


@dataclass(frozen=True)
class FailedAttempt:
    """A try at a round that did not open a sum.

    Args:
        round: The round.
        tries: Tries at it so far, this one included.
        failures: Those of them that began, and so used an attempt's number up.
        members: Sites that could be asked.
        threshold: Sites that must take part.
        reasons: Why sites did not answer in this try, counted.
        missing: Why each site of the roster that is not there is not; empty in a simulation.
        sites: Sites on the roster.
        left_out: Sites that the run leaves out because they spoiled attempts.
        causes: Who spoiled attempts of this run by what, in words.
        futile: Whether so many attempts failed that another would waste the sites' privacy.
        sites: Sites of the run.
        one_list: Whether all of them must take part, because every sum has the same list.
    """

    round: int
    tries: int
    failures: int
    members: int
    threshold: int
    reasons: Mapping[str, int]
    missing: Mapping[str, str]
    sites: int
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    causes: str = ""
    futile: bool = False
    one_list: bool = False

    @property
    def why_all(self) -> str:
        """Why no site may be missing, where that is so; for a sentence."""
        return " (all sums of this study are opened over one list)" if self.one_list else ""


@dataclass(frozen=True)
class MissingShares:
    """A masked sum that waits for shares of some of its sites.

    Args:
        round: The round.
        tries: How often they were asked.
        silent: Sites that did not answer.
        asked: Sites in the sum.
        missing: As in `FailedAttempt`.
    """

    round: int
    tries: int
    silent: int
    asked: int
    missing: Mapping[str, str]


class RetryPolicy(Protocol):
    """Decides whether to go on; each method returns when the time has come to try again."""

    def next_attempt(self, failure: FailedAttempt) -> None:
        """After a try that did not open a sum; raises `StudyStopped` to end the run."""

    def next_request(self, shares: MissingShares) -> None:
        """After too few shares came; raises `StudyStopped` to end the run."""


@dataclass(frozen=True)
class StopAfterAttempts:
    """Tries again at once, so many times, and then stops: for simulations, which never wait.

    Args:
        attempts: Tries at one round.
    """

    attempts: int

    def next_attempt(self, failure: FailedAttempt) -> None:
        """Return at once, unless another try cannot help or the tries are used up."""
        _stop_if_beyond_help(failure, failure.reasons, failure.members)
        if failure.tries < self.attempts:
            return
        counted = sorted(failure.reasons.items(), key=lambda item: -item[1])
        why = ", ".join(f"{count} × {name}" for name, count in counted) or "no answer"
        raise StudyStopped(
            f"round {failure.round} could not be completed in {self.attempts} attempts: at least "
            f"{failure.threshold} sites must take part{failure.why_all} ({why}); resume the run "
            "when they are back." + _because(failure)
        )

    def next_request(self, shares: MissingShares) -> None:
        """Return at once, unless the tries are used up."""
        if shares.tries >= self.attempts:
            raise StudyStopped(
                f"round {shares.round}: {shares.silent} of the {shares.asked} sites in its sum "
                "do not answer any more, so that it cannot be opened; resume the run when they "
                "are back."
            )


@dataclass(frozen=True)
class WaitForSites:
    """Waits for sites as long as it takes; only what no waiting mends ends the run.

    Args:
        watch: Is called with the sites for which it waits.
        look_s: Between two looks at who is there.
        pause_s: After the first failed attempt; doubles with each.
        longest_s: The longest pause.
        sleep: Waits some seconds; an exception raised in it, as by SIGTERM, ends the run.
    """

    watch: RunObserver
    look_s: float = 1.0
    pause_s: float = 2.0
    longest_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def next_attempt(self, failure: FailedAttempt) -> None:
        """Wait a moment for sites to come, or longer after an attempt that failed."""
        able = failure.sites - len(failure.left_out)
        _stop_if_beyond_help(failure, Counter(failure.missing.values()), able)
        if failure.members < failure.threshold:
            out = f"; left out: {_named(failure.left_out)}" if failure.left_out else ""
            self.watch.waiting(
                f"round {failure.round} needs {failure.threshold} sites{failure.why_all} and "
                f"{failure.members} can take part{out}",
                failure.missing,
            )
            self.sleep(self.look_s)
            return
        pause = self._pause(failure.failures)
        self.watch.waiting(
            f"round {failure.round} was not completed; it is tried again in {pause:.0f} s",
            failure.missing,
        )
        self.sleep(pause)

    def next_request(self, shares: MissingShares) -> None:
        """Wait for the sites whose shares are needed."""
        self.watch.waiting(
            f"round {shares.round} waits for shares: {shares.silent} of the {shares.asked} "
            "sites in its sum have not answered",
            shares.missing,
        )
        self.sleep(self._pause(shares.tries))

    def _pause(self, times: int) -> float:
        return float(min(self.longest_s, self.pause_s * 2.0 ** min(times - 1, 30)))


def _stop_if_beyond_help(failure: FailedAttempt, reasons: Mapping[str, int], sites: int) -> None:
    """Raise where too few of the sites are left that another try might win, or it costs too much.

    Args:
        failure: What happened.
        reasons: Why sites do not take part, counted.
        sites: Sites that are not left out, whatever keeps them away.
    """
    if failure.left_out and failure.sites - len(failure.left_out) < failure.threshold:
        without = (
            "a run without them is another study, because all sums of this one have one list"
            if failure.one_list
            else "or begin a new run without them"
        )
        raise StudyStopped(
            f"round {failure.round} needs {failure.threshold} of {failure.sites} sites, and these "
            f"are left out because they spoiled attempts: {_named(failure.left_out)}. Mend them, "
            f"then resume the run with --readmit SITE; {without}."
        )
    lost = Counter[str]()
    for refusal, sentence in ENDS.items():
        lost[sentence] += reasons.get(refusal, 0)
    for sentence, count in lost.items():
        if count and sites - count < failure.threshold:
            because = _because(failure)
            raise StudyStopped(
                sentence.format(round=failure.round, finished=failure.round - 1, because=because)
            )
    if failure.futile:
        raise StudyStopped(
            f"round {failure.round} is not tried again, because attempts failed that spent "
            f"privacy: {failure.causes}. Mend the cause, then resume the run."
        )


def _because(failure: FailedAttempt) -> str:
    return f" Attempts were spoiled: {failure.causes}." if failure.causes else ""


def _named(left_out: Mapping[str, LeftOut]) -> str:
    return ", ".join(f"{site} ({why})" for site, why in left_out.items())
