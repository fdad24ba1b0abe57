"""What a live site writes down about a run: each request, answer and refusal, as an audit line.

The line is on disk before the answer leaves; if it cannot be written, the answer does not leave.
What a peer sent is quoted short and printable. A flood of refusals fills no disk: beyond a budget
they are counted, and one line says how many there were.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from fedrx_client.records.audit_log import MAX_REASON_CHARACTERS, AuditEntry, AuditKind, AuditLog
from fedrx_common.errors import DataError, FedRxError
from fedrx_common.text import shortened
from fedrx_protocol.messages.offer import RunOffer
from fedrx_protocol.messages.secure_aggregation import (
    AdvertList,
    AdvertRequest,
    ResolveRequest,
    RoundRequest,
    UnmaskRequest,
)

logger = logging.getLogger(__name__)

Request = RunOffer | AdvertRequest | AdvertList | RoundRequest | ResolveRequest | UnmaskRequest

_LONGEST_LIST = 12


@dataclass(frozen=True)
class RefusalRateLimit:
    """How many refusals are written out.

    Attributes:
        window_s: seconds after which counting begins again.
        alike: of one kind of request and one reason, in a window.
        in_all: for any reason, in a window.
    """

    window_s: int = 3600
    alike: int = 20
    in_all: int = 200


@dataclass(frozen=True)
class AuditContext:
    """What a line is about; empty or None where that is not known.

    Attributes:
        run: FedRx's name of the run.
        study: digest, hexadecimal.
        round: round number.
        attempt: attempt number.
    """

    run: str = ""
    study: str = ""
    round: int | None = None
    attempt: int | None = None


class Journal:
    """Writes a live site's audit lines, and the same to its ordinary log.

    Args:
        log: the site's audit log.
        clock: unix seconds.
        state: the present state of the site's `site.db`, which lines name; see `LedgerFile.state`.
        thrift: how many refusals are written out.
    """

    def __init__(
        self,
        log: AuditLog,
        clock: Callable[[], float],
        state: Callable[[], str],
        thrift: RefusalRateLimit | None = None,
    ) -> None:
        self._log, self._clock, self._state = log, clock, state
        self._thrift = thrift or RefusalRateLimit()
        self._since = int(clock())
        self._refused: Counter[str] = Counter()
        self._unwritten: Counter[str] = Counter()

    def event(self, kind: AuditKind, text: str, state: str = "") -> None:
        """Write down something about the agent itself.

        Args:
            kind: what it is.
            text: in words.
            state: of `site.db`, or empty where it is not looked at.

        Raises:
            LogUnwritable: it could not be written.
        """
        self._write(kind, AuditContext(), text, state=state)

    def asked(self, about: AuditContext, kind: str, request: Request) -> None:
        """Write down that a request came in and could be read.

        Raises:
            LogUnwritable: it could not be written; do not work on the request.
            LedgerDamaged, AuditDamaged: `site.db` or the log is not the newest; as above.
        """
        self._write("request", about, f"{kind}: {in_words(request)}", state=self._state())

    def answered(self, about: AuditContext, kind: str, what: str) -> None:
        """Write down that an answer is ready to leave.

        Args:
            about: what it is about.
            kind: type of the request.
            what: the answer in words.

        Raises:
            LogUnwritable: it could not be written; the answer must not leave.
            LedgerDamaged, AuditDamaged: `site.db` or the log is not the newest; as above.
        """
        self._write("answer", about, f"{kind}: {what}", state=self._state())

    def refused(self, about: AuditContext, kind: str, error: Exception) -> None:
        """Write down that a request was refused, and why; beyond the budget, only count it.

        Raises:
            LogUnwritable: it could not be written.
        """
        key = f"{shortened(kind, 40)}: {type(error).__name__}"
        now = int(self._clock())
        if now - self._since >= self._thrift.window_s:
            self._since = now
            self._refused.clear()
            self.close()
        if self._refused.total() >= self._thrift.in_all:
            # A peer chooses kinds: those beyond the budget must not fill the memory either.
            self._unwritten[key if key in self._refused else "requests of other kinds"] += 1
            return
        if self._refused[key] >= self._thrift.alike:
            self._unwritten[key] += 1
            return
        self._refused[key] += 1
        reason = "not foreseen; agent.log says more"
        if isinstance(error, DataError):  # its sentence may hold a count or a cell of the table
            reason = "the patients' table does not fit the study; `fedrx site check` says why"
        elif isinstance(error, FedRxError):
            reason = str(error) or "no more is known"
        self._write("refusal", about, f"{key}: {reason}", level=logging.WARNING)

    def close(self) -> None:
        """Write what was counted only.

        Raises:
            LogUnwritable: it could not be written.
        """
        counted, self._unwritten = self._unwritten, Counter()
        for key, count in counted.items():
            text = f"{key}: {count} more were refused and not written one by one"
            self._write("refusal", AuditContext(), text, level=logging.WARNING)

    def _write(
        self,
        kind: AuditKind,
        about: AuditContext,
        text: str,
        *,
        state: str = "",
        level: int = logging.INFO,
    ) -> None:
        entry = AuditEntry(
            time=int(self._clock()),
            kind=kind,
            reason=shortened(text, MAX_REASON_CHARACTERS),
            study=about.study,
            run=about.run,
            round=about.round,
            attempt=about.attempt,
            content=state,
        )
        self._log.record(entry)
        parts = [
            about.run and f"run {about.run}",
            "" if about.round is None else f"round {about.round}",
            f"attempt {about.attempt}" if about.attempt else "",
        ]
        where = ", ".join(filter(None, parts))
        logger.log(level, "%s", " ".join(filter(None, [kind, where, entry.reason])))


def in_words(request: Request) -> str:
    """Say what a request asks for, in the site's own log."""
    if isinstance(request, RunOffer):
        return f"take part in run {request.run}, coordinator's FedRx {request.version}"
    if isinstance(request, AdvertRequest):
        return f"send public keys of epoch {request.epoch}"
    if isinstance(request, AdvertList):
        sites = _listed([advert.site for advert in request.adverts])
        return f"accept public keys of epoch {request.epoch} of {sites}"
    if isinstance(request, RoundRequest):
        return (
            f"train on model {request.model_digest.hex()[:16]} with threshold {request.threshold} "
            f"among {_listed(request.participants)}"
        )
    if isinstance(request, ResolveRequest):
        return f"reveal mask seeds toward the dropped sites {_listed(request.dropped)}"
    return f"give key shares of the sites that answered, {_listed(request.survivors)}"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(shortened(name, 64) for name in names[:_LONGEST_LIST])
    return f"{len(names)} sites ({shown}{', …' if len(names) > _LONGEST_LIST else ''})"
