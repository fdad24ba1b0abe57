"""The process that drives one run: `python -m fedrx_server.service.worker consortium/runs/NAME-1`.

It reads on standard input how to reach the SuperLink, and ends when that input does, so that no
run goes on without its coordinator. It may be killed at any moment: the next one goes on from the
last finished round. What another try cannot repair is marked as failed, in a sentence.
"""

import logging
import math
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Final, Literal, NoReturn

from fedrx_common.errors import FedRxError, MisuseError, PeerError, RunError
from fedrx_common.logs import QUIET_CLIENT, log_to
from fedrx_models.contract import PatientModel, get_vector, set_vector
from fedrx_models.files import MODEL_FILE, save_model
from fedrx_models.metrics.registry import measures_of
from fedrx_models.planning import plan_for
from fedrx_models.transfer import start_model, trained_positions
from fedrx_protocol.trust.roster import SignedRoster
from fedrx_server.consortium.files import ConsortiumFiles, ConsortiumInfo
from fedrx_server.gateway.control import SuperLinkAddress, list_sites
from fedrx_server.report.card import model_card
from fedrx_server.report.from_run import last_calibration, run_privacy, run_report, run_result
from fedrx_server.report.privacy import planned_releases, spent_at_most
from fedrx_server.report.write import write_report
from fedrx_server.rounds.admission import Offers
from fedrx_server.rounds.loop import RunParties, StudyRun
from fedrx_server.rounds.retry import StudyStopped, WaitForSites
from fedrx_server.rounds.witness import Witness
from fedrx_server.runs.checkpoints import RoundRecord
from fedrx_server.runs.files import RunInUse
from fedrx_server.runs.folder import RunFolder
from fedrx_server.runs.registry import DesiredState, RunView, absent_sites, write_wanted
from fedrx_server.service.credentials import parse_address
from fedrx_server.service.grid import live_run
from fedrx_server.service.status import (
    LiveState,
    LiveWatch,
    State,
    read_live,
    with_metrics,
    write_live,
)

logger = logging.getLogger(__name__)

Ending = Literal["stopped", "finished", "failed"]

DONE: Final = 0
FAILED: Final = 2
AGAIN: Final = 3
"""Exit status of a worker after which another one may succeed."""

_LOG_BYTES: Final = 1_000_000
_LOG_FILES: Final = 3


class StopAsked(BaseException):
    """SIGTERM: as safe at any moment as SIGKILL, but the run is closed at the SuperLink."""


def main(argv: list[str]) -> int:
    """Drive the run in the folder that is named; gives the exit status."""
    folder = Path(argv[1])
    log_to(
        folder / "worker.log",
        most_bytes=_LOG_BYTES,
        older_files=_LOG_FILES,
        levels={**QUIET_CLIENT, "flwr": logging.WARNING},
        form="%(asctime)s %(levelname)s %(name)s: %(message)s",
        console=False,
    )
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    superlink_address = parse_address(sys.stdin.readline())
    threading.Thread(target=_end_with_input, name="parent", daemon=True).start()
    try:
        return _guarded(folder, superlink_address)
    except StopAsked:
        return DONE


class Worker:
    """Drives one run from the last round in its folder to its end.

    Args:
        run: The open run folder.
        superlink_address: The SuperLink.
        consortium: The consortium's raw public key, 32 bytes.

    Raises:
        RunError: The folder's roster does not verify, or has ended.
    """

    def __init__(
        self, run: RunFolder, superlink_address: SuperLinkAddress, consortium: bytes
    ) -> None:
        self._run = run
        self._superlink_address = superlink_address
        try:
            signed = SignedRoster.from_json(run.roster_json.encode())
            self._roster = signed.verify(consortium, int(time.time()))
        except PeerError as error:
            raise RunError(
                f"{run.path / 'roster.json'}: {error} Then resume the run with --new-roster."
            ) from None
        self._plan = plan_for(run.study, len(self._roster.sites))
        self._plan.check()
        meta = run.meta
        try:
            self._run_id, self._seed = str(meta["run_id"]), int(meta["start_seed"])
        except (KeyError, TypeError, ValueError):
            raise RunError(
                f"{run.path / 'meta.json'}: belongs to no live run; `fedrx coordinator run` makes "
                "one."
            ) from None
        view = RunView.read(run.path)
        self._releases = list(planned_releases(run.study, self._run_id, view.attempts()))
        self._watch = LiveWatch(run.path, self._first_state(), self._spent)

    def go(self) -> None:
        """Run, and leave model, result and report behind."""
        study = self._run.study
        if not RunView.read(self._run.path).finished:
            with live_run(self._superlink_address, study.name) as exchange:
                offers = Offers(
                    run=self._run_id,
                    study=bytes.fromhex(study.digest),
                    roster=self._run.roster_json.encode(),
                    version=version("fedrx"),
                    names=self._names,
                )
                parties = RunParties(
                    self._run_id,
                    self._plan,
                    self._roster,
                    offers,
                    without=absent_sites(self._run.meta, self._roster),
                    witness=Witness(self._run.path.parents[1]),
                )
                model, retry_policy = self._model(), WaitForSites(self._watch)
                StudyRun(
                    parties,
                    exchange,
                    self._run,
                    get_vector(model),
                    self._finished_round,
                    trained=trained_positions(model),
                    retry_policy=retry_policy,
                    watch=self._watch,
                ).run()
        model, checkpoint = self._model(), self._run.latest_checkpoint()
        if checkpoint is None:
            raise RunError(f"{self._run.path}: has no finished round; resume the run.")
        set_vector(model, checkpoint.weights)
        view = RunView.read(self._run.path)
        privacy = run_privacy(view)
        calibration = last_calibration(view.rounds)
        card = model_card(study, privacy, len(self._roster.sites), calibration)
        save_model(self._run.path / MODEL_FILE, model, study.digest, card)
        write_report(self._run.report_path, run_report(view, privacy))
        self._run.write_result(run_result(view, privacy))

    def _names(self) -> dict[int, str]:
        return {site.node: site.name for site in list_sites(self._superlink_address)}

    def _model(self) -> PatientModel:
        return start_model(self._run.study, self._seed, self._run.start_file)

    def _finished_round(self, record: RoundRecord) -> None:
        logger.info(
            "round %d of %d: %d of %d sites in its sum, %.1f s",
            record.round,
            self._run.study.final_round,
            record.survivors,
            record.participants,
            record.seconds,
        )
        self._watch.finished_round(record)

    def _spent(self, round_number: int, attempt: int) -> float:
        """Upper bound on epsilon once this attempt is made too."""
        new = (round_number, attempt, len(self._roster.sites))
        self._releases += planned_releases(self._run.study, self._run_id, [new])
        return spent_at_most(self._run.study, self._releases)

    def _first_state(self) -> LiveState:
        study, rounds = self._run.study, self._run.rounds
        private = study.privacy.mode != "none"
        spent = spent_at_most(study, self._releases)
        first = LiveState(
            name=self._run.path.name,
            run=self._run_id,
            study=study.name,
            of=study.final_round,
            threshold=self._plan.parameters.threshold,
            version=version("fedrx"),
            round=rounds[-1].round if rounds else 0,
            epsilon_spent=spent if math.isfinite(spent) else None,
            epsilon_promised=study.privacy.epsilon if private else None,
            delta=study.privacy.delta if private else None,
            bytes_up=sum(record.bytes_up for record in rounds),
            bytes_down=sum(record.bytes_down for record in rounds),
            unit=study.target.unit,
            tells=measures_of(study.target)[0].tells,
        )
        return with_metrics(first, rounds)


def _guarded(folder: Path, superlink_address: SuperLinkAddress) -> int:
    """Run, and turn what goes wrong into a state of the run and an exit status."""
    try:
        with RunFolder.open(folder) as run:
            about = ConsortiumInfo.read(ConsortiumFiles(folder.parents[1]).about)
            Worker(run, superlink_address, about.consortium).go()
    except StopAsked:
        logger.info("asked to stop")
        _say(folder, "stopped")
        return DONE
    except RunInUse as error:
        logger.warning("%s", error)
        return AGAIN
    except StudyStopped as error:
        return _end(folder, "stopped", str(error))
    except MisuseError as error:
        return _end(folder, "failed", str(error))
    except (FedRxError, OSError) as error:
        # One sentence for the operator; the code is not to blame.
        logger.error("%s", error)  # noqa: TRY400
        _say(folder, "waiting", str(error))
        return AGAIN
    return _end(folder, "finished")


def _end(folder: Path, goal: Ending, sentence: str = "") -> int:
    """Write down why the run is not started again."""
    level = logging.ERROR if goal == "failed" else logging.INFO
    logger.log(level, "%s. %s", goal, sentence)
    write_wanted(folder, DesiredState(goal, sentence))
    _say(folder, goal, sentence)
    return FAILED if goal == "failed" else DONE


def _say(folder: Path, state: State, sentence: str = "") -> None:
    """Write the state for commands to read; it may be this folder that cannot be written."""
    try:
        last = read_live(folder)
        if last is not None:
            write_live(
                folder,
                replace(last, state=state, sentence=sentence, asked=(), waiting_for={}, pid=0),
            )
    except OSError as error:
        logger.warning("the state could not be written down (%s)", error)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the way out is not cut short by a second one
    raise StopAsked


def _end_with_input() -> None:
    """The coordinator holds the other end: whatever ends it, by a signal too, ends this process."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
