"""The runs of a coordinator: where they are, what is wanted of each, and how to read one.

A run is a folder under `runs/`; commands write what is wanted of it to its `wanted.json`, and the
coordinator obeys. Reading takes no lock and changes nothing.
"""

import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import with_config

from fedrx_common.canonical_json import MalformedMessage
from fedrx_common.documents import STRICT, DocumentInvalid, read
from fedrx_common.errors import MisuseError, RunError
from fedrx_common.files import whole_lines, write_file
from fedrx_protocol.plan import StudyPlan
from fedrx_protocol.study.study import Study
from fedrx_protocol.trust.roster import Roster, SignedRoster
from fedrx_server.runs.blame import LeftOut, read_blame
from fedrx_server.runs.checkpoints import RoundRecord
from fedrx_server.runs.files import (
    Era,
    read_counters,
    read_eras,
    read_json,
    stored_study,
    to_json,
)
from fedrx_server.runs.folder import RunFolder

Goal = Literal["running", "stopped", "finished", "failed"]

_NAME: Final = re.compile(r"(?P<study>[a-z][a-z0-9_]{0,63})-(?P<number>[1-9][0-9]{0,8})")
_SEED_BITS: Final = 63


@with_config(STRICT)
@dataclass(frozen=True)
class DesiredState:
    """What is wanted of a run.

    Args:
        goal: `running` and `stopped` are wishes; `finished` and `failed` end them.
        sentence: Why it stopped or failed, if it did so by itself.
    """

    goal: Goal
    sentence: str = ""

    def __post_init__(self) -> None:
        if self.goal not in get_args(Goal):
            raise MisuseError(f"'{self.goal}' is nothing that a run can be asked for.")


def runs_folder(consortium: Path) -> Path:
    """Where a consortium's runs are."""
    return consortium / "runs"


def read_wanted(folder: Path) -> DesiredState:
    """What is wanted of the run in `folder`; stopped, if that was never said.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / "wanted.json"
    if not path.exists():
        return DesiredState("stopped", "it was not begun; resume it.")
    try:
        return read(path, DesiredState)
    except (DocumentInvalid, OSError):
        raise RunError(f"{path}: is damaged; remove it and resume the run.") from None


def write_wanted(folder: Path, wanted: DesiredState) -> None:
    """Say what is wanted of a run; survives a power cut."""
    write_file(folder / "wanted.json", to_json(asdict(wanted)).encode())


def read_left_out(folder: Path) -> dict[str, LeftOut]:
    """Sites that the run in `folder` leaves out, and why; its lock is not needed.

    Raises:
        RunError: a file is damaged.
    """
    last = read_counters(folder)
    return read_blame(folder).left_out((last.round, last.attempt))


@dataclass(frozen=True)
class Runs:
    """All runs of a consortium.

    Args:
        folder: `runs/` in the consortium's folder; need not exist yet.
    """

    folder: Path

    def names(self) -> tuple[str, ...]:
        """Names of all runs, by study and number."""
        found = [path.name for path in self.folder.glob("*/") if _NAME.fullmatch(path.name)]
        return tuple(sorted(found, key=_order))

    def path(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            RunError: there is no such run.
        """
        if name not in self.names():
            known = ", ".join(self.names()) or "none yet"
            raise RunError(f"There is no run '{name}'; the runs are: {known}.")
        return self.folder / name

    def create(
        self,
        study: Study,
        roster: SignedRoster,
        study_text: str,
        start: Path | None = None,
        *,
        without: Collection[str] = (),
    ) -> Path:
        """Make the folder of a new run, and want it to run.

        Args:
            study: the study.
            roster: who may take part.
            study_text: the study file as written.
            start: model file of the study that this one starts from.
            without: sites of the roster that take no part.

        Raises:
            StudyError: the study does not fit the roster.
            MisuseError: the model file is missing, too much, or another model or study's.
            RunError: the folder cannot be made.
        """
        # Imported on use: looking at a run must not wait for torch.
        from fedrx_models.transfer import start_model  # noqa: PLC0415

        plan = require_plan(study, roster)
        threshold, ids = plan.parameters.threshold, roster.roster.ids
        unknown = sorted(set(without).difference(ids))
        if unknown:
            raise MisuseError(
                f"--without {unknown[0]}: no such site is on the roster; it has {', '.join(ids)}."
            )
        taking_part = [site for site in ids if site not in without]
        if len(taking_part) < threshold:
            raise MisuseError(
                f"--without leaves {len(taking_part)} sites, and the study needs {threshold} in a "
                "sum: leave fewer out."
            )
        start_model(study, 0, start)
        numbers = [_order(name)[1] for name in self.names() if _order(name)[0] == study.name]
        path = self.folder / f"{study.name}-{max(numbers, default=0) + 1}"
        meta: dict[str, Any] = {
            # Never given twice, even where a folder was removed or an old backup restored.
            "run_id": f"{path.name}.{secrets.token_hex(4)}",
            "start_seed": secrets.randbits(_SEED_BITS),
        }
        if study.opens_one_list(live=True):
            meta["sites"] = taking_part
        elif without:
            meta["without"] = sorted(set(without))
        text = roster.to_json().decode()
        RunFolder.create(path, study, text, meta, study_text=study_text, start=start).close()
        write_wanted(path, DesiredState("running"))
        return path


def absent_sites(meta: Mapping[str, Any], roster: Roster) -> frozenset[str]:
    """Sites of a roster that take no part in a run.

    Args:
        meta: the run folder's.
        roster: the run's present one; it may have grown since the run began.
    """
    if "sites" in meta:
        return frozenset(roster.ids).difference(meta["sites"])
    return frozenset(meta.get("without", ()))


def require_list(run: RunFolder, before: Roster, after: Roster, threshold: int) -> None:
    """Hold a new roster against the list that the run's sums were opened over.

    Raises:
        MisuseError: a site of the list is gone or has other keys, so that every site would refuse;
            or the list is shorter than the threshold that the new roster's size asks for.
    """
    listed = run.meta.get("sites", ()) if run.rounds else ()
    keys = [{entry.site: entry.identity for entry in one.sites} for one in (before, after)]
    gone = [site for site in listed if keys[0].get(site) != keys[1].get(site)]
    if gone:
        raise MisuseError(
            f"{run.path}: its sums were opened over one list of sites, and on the new roster "
            f"'{gone[0]}' is gone or has other keys, so every site would refuse the next: begin a "
            "new study."
        )
    if listed and len(listed) < threshold:
        raise MisuseError(
            f"{run.path}: its sums were opened over {len(listed)} sites, and with the new roster "
            f"a sum needs {threshold}: begin a new study that sets secure_aggregation.threshold."
        )


def require_plan(study: Study, roster: SignedRoster) -> StudyPlan:
    """The study's plan for a roster, checked.

    Raises:
        MisuseError: they do not fit together; says what to change.
    """
    # Imported on use: looking at a run must not wait for torch.
    from fedrx_models.planning import plan_for  # noqa: PLC0415

    plan = plan_for(study, len(roster.roster.sites))
    plan.check()
    return plan


@dataclass(frozen=True)
class RunView:
    """What any process may read of a run, finished or not.

    Args:
        path: its folder.
        study: the study.
        signed: its present roster; not verified here.
        run_id: what sites know it by.
        rounds: finished rounds.
        eras: rosters before the present one.
        begun: last round and attempt that were begun.
    """

    path: Path
    study: Study
    signed: SignedRoster
    run_id: str
    rounds: tuple[RoundRecord, ...]
    eras: tuple[Era, ...] = ()
    begun: tuple[int, int] = (0, -1)

    @classmethod
    def read(cls, path: Path) -> "RunView":
        """Read a run; its lock is not needed.

        Raises:
            RunError: no run folder, or a damaged one.
        """
        study = stored_study(path)
        try:
            signed = SignedRoster.from_json((path / "roster.json").read_bytes())
            run_id = str(read_json(path / "meta.json")["meta"]["run_id"])
        except (OSError, MalformedMessage, MisuseError, KeyError, TypeError):
            raise RunError(f"{path}: is damaged; restore it from a backup.") from None
        lines = path / "rounds.jsonl"
        rounds = tuple(RoundRecord.from_json(line, str(lines)) for line in whole_lines(lines)[0])
        last = read_counters(path)
        begun = last.round, last.attempt
        return cls(path, study, signed, run_id, rounds, read_eras(path), begun)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def finished(self) -> bool:
        """Whether the last evaluation is done."""
        return bool(self.rounds) and self.rounds[-1].round == self.study.final_round

    def attempts(self) -> tuple[tuple[int, int, int], ...]:
        """Every attempt that was begun: round, attempt, and the sites on its roster.

        One whose requests no site received is counted too, so that the bound is never too small.
        """
        last = {record.round: record.attempt for record in self.rounds}
        begun, attempt = self.begun
        if begun > max(last, default=0):
            last[begun] = attempt
        now = len(self.signed.roster.sites)
        attempts = []
        for number, most in last.items():
            for tried in range(most + 1):
                later = (e.sites for e in self.eras if (number, tried) < (e.round, e.attempt))
                attempts.append((number, tried, next(later, now)))
        return tuple(attempts)


def _order(name: str) -> tuple[str, int]:
    study, _, number = name.rpartition("-")
    return study, int(number)
