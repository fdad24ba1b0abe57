"""Which sites spoiled attempts at rounds and are left out of the next; kept in the run's folder.

Every attempt is charged at the sites that answered, so a site that makes attempts fail spends what
belongs to all. There are three kinds of fault:

    proof     a site sent what no honest site sends; counted, whether or not the attempt failed
    absence   a site took part, then lacked, and for want of it a charged attempt failed
    doubt     an attempt failed and no site can be singled out

See docs/decisions/0015. Pure but for reading and writing one file.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import with_config

from fedrx_common.documents import STRICT, DocumentInvalid, read
from fedrx_common.errors import RunError
from fedrx_common.files import write_file
from fedrx_protocol.messages.refusal import Refusal
from fedrx_protocol.secagg.blame import ShareFault, Verdict, proved_by_faults
from fedrx_server.runs.files import to_json

PROOFS_FOR_GOOD: Final = 2
"""After so many proofs a site is left out until the coordinator readmits it."""
TIMES_FOR_GOOD: Final = 3
"""After so many proofs and absences together it is too."""
MOST_DOUBTS: Final = 3
"""After so many attempts that failed with a doubt about some sites the run stops."""
MOST_IN_A_ROW: Final = 5
"""After so many failed attempts at one round it stops, or after half of a smaller reserve."""

_FILE: Final = "blame.json"

Kind = Literal["proof", "absence", "doubt"]


@dataclass(frozen=True)
class Failure:
    """Why a site that was asked did not do its part.

    Args:
        reason: Name of its refusal, of what was wrong with its answer, or that it was lost.
        lost: No answer came.
        proved: Its answer breaks the protocol, which no honest site's does.
    """

    reason: str
    lost: bool = False
    proved: bool = False


@dataclass(frozen=True)
class EndedAttempt:
    """An attempt that is over.

    Args:
        round: The round.
        attempt: From 0.
        opened: Whether its sum was opened.
        participants: Sites that were asked.
        fallen: Sites that did not do their part, and why.
        verdict: What the unmasking showed.
        charged: Whether a failure costs privacy and can be left to time: a live, private run's.
    """

    round: int
    attempt: int
    opened: bool
    participants: int
    fallen: Mapping[str, Failure]
    verdict: Verdict
    charged: bool


@with_config(STRICT)
@dataclass(frozen=True)
class Fault:
    """What was wrong with one attempt.

    Args:
        round: The round.
        attempt: The attempt.
        kind: See the module.
        sites: Of a proof or an absence, the one site; of a doubt, those whose seed was not
            rebuilt, or none.
        reason: Name of it.
    """

    round: int
    attempt: int
    kind: Kind
    sites: tuple[str, ...]
    reason: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(self.kind)


@dataclass(frozen=True)
class LeftOut:
    """Why a site takes no part.

    Args:
        reason: Name of its last fault.
        times: Its faults so far.
        for_good: Until the coordinator readmits it; otherwise out of the next attempt only.
    """

    reason: str
    times: int
    for_good: bool

    def __str__(self) -> str:
        """The reason and for how long, in words."""
        if self.for_good:
            return f"{self.reason}, {self.times} times: until it is readmitted"
        return f"{self.reason}: out of the next attempt"


@with_config(STRICT)
@dataclass(frozen=True)
class Blame:
    """All faults of a run; grows by `judged`, shrinks by `forgiven` alone.

    Args:
        faults: In the order of their discovery.
        pairs: Owner and holder of each share that was found wrong: one of the two lied.
    """

    faults: tuple[Fault, ...]
    pairs: tuple[tuple[str, str], ...]

    def judged(self, ended: EndedAttempt, liars: int) -> "Blame":
        """With what an attempt showed; the same attempt again changes nothing.

        Args:
            ended: The attempt.
            liars: Sites that may lie, see `most_liars`.
        """
        found = [(fault.owner, fault.holder) for fault in ended.verdict.faults]
        pairs = tuple(dict.fromkeys((*self.pairs, *found)))
        fresh = {site for pair in found for site in pair}
        by_pairs = proved_by_faults((ShareFault(*pair) for pair in pairs), liars) & fresh
        proofs = dict.fromkeys(ended.verdict.proved | by_pairs, str(Refusal.SHARE_INVALID))
        proofs |= {site: one.reason for site, one in ended.fallen.items() if one.proved}
        new = [_fault(ended, "proof", reason, site) for site, reason in sorted(proofs.items())]
        fallen = {site: one.reason for site, one in sorted(ended.fallen.items())}
        if ended.opened or proofs:
            pass
        elif ended.verdict.doubtful:
            doubtful = sorted(ended.verdict.doubtful)
            new = [_fault(ended, "doubt", Refusal.SHARE_INVALID, *doubtful)]
        elif ended.charged and 2 * len(fallen) < ended.participants:
            new = [_fault(ended, "absence", reason, site) for site, reason in fallen.items()]
        elif ended.charged:
            # Most sites failed: the cause is the network or the coordinator, not a site.
            new = [_fault(ended, "doubt", Counter(fallen.values()).most_common(1)[0][0])]
        return replace(self, faults=tuple(dict.fromkeys((*self.faults, *new))), pairs=pairs)

    def left_out(self, latest: tuple[int, int]) -> dict[str, LeftOut]:
        """Sites that take no part now, sorted.

        Args:
            latest: Round and number of the attempt that was begun last.
        """
        out: dict[str, LeftOut] = {}
        for site in sorted({site for fault in self.faults for site in fault.sites}):
            own = [fault for fault in self.faults if site in fault.sites]
            kinds = Counter(fault.kind for fault in own)
            times = kinds["proof"] + kinds["absence"]
            for_good = kinds["proof"] >= PROOFS_FOR_GOOD or times >= TIMES_FOR_GOOD
            fresh = any(
                fault.kind != "absence" and (fault.round, fault.attempt) == latest for fault in own
            )
            if for_good or fresh:
                out[site] = LeftOut(own[-1].reason, len(own), for_good)
        return out

    def futile(self, round_number: int, reserve: int) -> bool:
        """Whether so many attempts failed without a proof that another would waste privacy.

        Args:
            round_number: The round under way.
            reserve: Repeated rounds that the noise pays for.
        """
        unproved = [fault for fault in self.faults if fault.kind != "proof"]
        doubts = {(one.round, one.attempt) for one in unproved if one.kind == "doubt" and one.sites}
        in_a_row = {one.attempt for one in unproved if one.round == round_number}
        most = min(MOST_IN_A_ROW, max(2, reserve // 2))
        return len(doubts) >= MOST_DOUBTS or len(in_a_row) >= most

    def causes(self) -> str:
        """Who failed of what, and how often, in words; empty if nothing did."""
        counted = Counter((one.kind, one.sites, one.reason) for one in self.faults)
        causes = []
        for (kind, sites, reason), times in counted.most_common():
            who = " and ".join(sites) or "half of the sites or more"
            if kind == "doubt" and sites:
                who += ", or a site that holds shares of it"
            causes.append(f"{who}: {reason}{f' ({times} times)' if times > 1 else ''}")
        return ", ".join(causes)

    def forgiven(self, readmitted: Collection[str] = ()) -> "Blame":
        """After a person has looked: proofs stay, but for those of readmitted sites."""
        kept = [
            fault
            for fault in self.faults
            if fault.kind == "proof" and not set(readmitted).intersection(fault.sites)
        ]
        pairs = [pair for pair in self.pairs if not set(readmitted).intersection(pair)]
        return Blame(tuple(kept), tuple(pairs))


def read_blame(folder: Path) -> Blame:
    """What a run's folder has on record; nothing where no attempt was spoiled.

    Raises:
        RunError: The file is damaged.
    """
    path = folder / _FILE
    if not path.exists():
        return Blame((), ())
    try:
        return read(path, Blame)
    except (DocumentInvalid, OSError):
        raise RunError(
            f"{path}: is damaged; remove it, and the run leaves no site out any more."
        ) from None


def write_blame(folder: Path, blame: Blame, *, sync: bool = True) -> None:
    """Write the faults to a run's folder, all or nothing."""
    write_file(folder / _FILE, to_json(asdict(blame)).encode(), sync=sync)


def _fault(ended: EndedAttempt, kind: Kind, reason: str, *sites: str) -> Fault:
    return Fault(ended.round, ended.attempt, kind, sites, reason)
