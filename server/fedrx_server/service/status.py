"""The state of a live run while it runs: one small file that anybody may read.

It names the sites that are there, those that are not and why, and what sums have shown. Nothing
about one site's patients is in it, because the coordinator knows nothing about them.
"""

import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import with_config

from fedrx_common.canonical_json import finite_or_none
from fedrx_common.documents import STRICT, DocumentInvalid, read
from fedrx_common.files import write_file
from fedrx_protocol.messages.refusal import Refusal
from fedrx_server.rounds.observer import RunObserver
from fedrx_server.runs.checkpoints import RoundRecord
from fedrx_server.runs.files import to_json

State = Literal[
    "waiting",
    "opening",
    "training",
    "resolving",
    "unmasking",
    "evaluating",
    "finished",
    "stopped",
    "failed",
]

_FILE: Final = "live.json"
_LEAST_BETWEEN_S: Final = 0.2
_RECENT_ROUNDS: Final = 5
_STATES: Final[Mapping[str, State]] = MappingProxyType(
    {
        "query.open": "opening",
        "query.advertise": "opening",
        "query.keys": "opening",
        "train.masked": "training",
        "query.resolve": "resolving",
        "query.unmask": "unmasking",
    }
)


@with_config(STRICT)
@dataclass(frozen=True)
class LiveState:
    """One moment of a run.

    Args:
        name: Name of the run's folder.
        run: What its sites know it by.
        study: The study's name.
        of: Rounds in all, the last evaluation included.
        threshold: Sites that must take part in a round.
        version: The release that runs at the coordinator.
        state: What it is doing.
        round: The round under way, or the last one; 0 before the first.
        attempt: From 0.
        present: Sites that take part in the present attempt.
        asked: Sites that were asked and have not answered yet.
        absent: Why each site that is not there, or fell out, is not.
        waiting_for: While it waits, those of them that could end the wait.
        versions: Releases of sites that run another one.
        sentence: Why it waits, stopped or failed.
        metrics: The metrics that were released last.
        metrics_round: The round whose model they speak of.
        epsilon_spent: An upper bound on what was spent so far; `None` if nothing is promised.
        epsilon_promised: The study's promise.
        delta: Of both.
        bytes_up: From all sites, in finished rounds.
        bytes_down: To all sites, in finished rounds.
        seconds_per_round: Of the last few rounds.
        seconds_left: At this pace.
        time: When this was written, unix seconds.
        pid: The process that drives the run.
        unit: The metrics' unit.
        tells: What the headline could tell, by which noise hides it; `None` if never said.
    """

    name: str
    run: str
    study: str
    of: int
    threshold: int
    version: str
    state: State = "opening"
    round: int = 0
    attempt: int = 0
    present: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    waiting_for: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    sentence: str = ""
    metrics: Mapping[str, float] | None = None
    metrics_round: int | None = None
    epsilon_spent: float | None = None
    epsilon_promised: float | None = None
    delta: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    seconds_per_round: float | None = None
    seconds_left: float | None = None
    time: float = 0.0
    pid: int = 0
    unit: str = ""
    tells: float | None = None


def read_live(folder: Path) -> LiveState | None:
    """Read the last moment that a run's process wrote down; none before its first.

    None too where a power cut tore the file, or another release wrote it: the next process of the
    run writes it again, and nothing depends on it.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        return read(path, LiveState)
    except (DocumentInvalid, OSError):
        return None


def write_live(folder: Path, state: LiveState) -> None:
    """Write a moment down; it may be lost in a power cut."""
    write_file(folder / _FILE, to_json(asdict(state)).encode(), sync=False)


class LiveWatch(RunObserver):
    """Keeps a run's `live.json` up to date, a few times a second at most.

    Args:
        folder: The run's folder.
        first: What it says before anything has happened.
        spent: Upper bound on epsilon once this attempt at this round is made too.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        first: LiveState,
        spent: Callable[[int, int], float],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._spent = spent
        self._now = now
        self._written = -math.inf
        self._state = replace(first, pid=os.getpid())
        self._recent: list[float] = []
        self._write()

    @property
    def state(self) -> LiveState:
        """The present state."""
        return self._state

    def on_request(self, kind: str, sites: Collection[str]) -> None:
        """Note the stage; a run that waits goes on waiting while it offers itself."""
        state = _STATES.get(kind, self._state.state)
        if state == "opening" and self._state.state == "waiting":
            state = "waiting"
        if state == "training" and self._state.round == self._state.of:
            state = "evaluating"
        self._change(state=state, asked=tuple(sorted(sites)))

    def on_reply(self, site: str, reason: str) -> None:
        """Note that a site answered, or why it did not."""
        asked = tuple(name for name in self._state.asked if name != site)
        absent = {name: why for name, why in self._state.absent.items() if name != site}
        if reason:
            absent[site] = reason
        self._state = replace(self._state, asked=asked, absent=absent)
        if self._now() - self._written >= _LEAST_BETWEEN_S:
            self._write()

    def attempting(
        self, round_number: int, attempt: int, sites: Collection[str], missing: Mapping[str, str]
    ) -> None:
        """Note the attempt and what it costs."""
        self._change(
            round=round_number,
            attempt=attempt,
            present=tuple(sorted(sites)),
            absent=dict(missing),
            waiting_for={},
            sentence="",
            epsilon_spent=finite_or_none(round(self._spent(round_number, attempt), 6)),
        )

    def on_version_mismatch(self, site: str, version: str) -> None:
        """Note another release."""
        self._change(versions={**self._state.versions, site: version})

    def waiting(self, sentence: str, missing: Mapping[str, str]) -> None:
        """Note for whom the run waits."""
        self._change(
            state="waiting",
            sentence=sentence,
            absent=dict(missing),
            waiting_for={site: why for site, why in missing.items() if why != Refusal.LEFT_OUT},
            present=tuple(site for site in self._state.present if site not in missing),
            asked=(),
        )

    def finished_round(self, record: RoundRecord) -> None:
        """Note a finished round."""
        self._recent = [*self._recent[1 - _RECENT_ROUNDS :], record.seconds]
        pace = sum(self._recent) / len(self._recent)
        self._state = with_metrics(self._state, [record])
        self._change(
            round=record.round,
            bytes_up=self._state.bytes_up + record.bytes_up,
            bytes_down=self._state.bytes_down + record.bytes_down,
            seconds_per_round=round(pace, 3),
            seconds_left=round(pace * (self._state.of - record.round), 1),
        )

    def _change(self, **changes: Any) -> None:  # noqa: ANN401 - fields of LiveState
        self._state = replace(self._state, **changes)
        self._write()

    def _write(self) -> None:
        self._written = self._now()
        self._state = replace(self._state, time=round(time.time(), 3))
        write_live(self._folder, self._state)


def with_metrics(state: LiveState, rounds: Sequence[RoundRecord]) -> LiveState:
    """The state with the last metrics that these rounds released, if they did."""
    for record in reversed(rounds):
        if record.metrics:
            metrics = dict(record.metrics)
            return replace(state, metrics=metrics, metrics_round=record.round - 1)
    return state
