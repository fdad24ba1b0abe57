"""A run on disk: what was agreed, every finished round, and where to go on after a crash.

The checkpoint is the commit point. A round counts once its checkpoint has been renamed into
place; the line in `rounds.jsonl` and the removal of the pending state follow from it, and are
made good when the folder is opened again. Nothing in here knows rounds, models or Flower.

    study.json  study.toml  roster.json  meta.json     what was agreed; written once
    checkpoints/round-0007.safetensors                 weights and optimizer after round 7
    start.safetensors                                  another study's model, if it starts there
    rounds.jsonl                                       one line for each finished round
    counters.json                                      last key epoch and attempt that were used
    eras.json                                          earlier rosters' sizes, if it was replaced
    pending.bin                                        masked sum that waits for its unmasking
    blame.json                                         which sites spoiled attempts
    result.json  report.html                           at the end
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from fedrx_common.errors import RunError
from fedrx_common.files import (
    append_line,
    release_lock,
    remove_file,
    remove_partial_files,
    sync_folder,
    whole_lines,
    write_file,
)
from fedrx_protocol.study.study import Study
from fedrx_server.runs.blame import Blame, LeftOut, read_blame, write_blame
from fedrx_server.runs.checkpoints import Checkpoint, Checkpoints, RoundRecord
from fedrx_server.runs.files import (
    Counters,
    Era,
    first_files,
    lock_folder,
    read_counters,
    read_eras,
    read_json,
    sibling_folder,
    stored_study,
    to_json,
    unwritable_named,
)
from fedrx_server.runs.pending import pack_pending, unpack_pending

Durability = Literal["power", "process"]
START = "start.safetensors"

__all__ = ["Checkpoint", "RoundRecord", "RunFolder"]


class RunFolder:
    """An open run folder; the lock is held until `close`. Use `create` or `open`.

    Args:
        path: the folder.
        lock: descriptor of the locked file in it.
        study: what the run is about.
        durability: "power" flushes every file; "process" survives a killed process only.
        keep: how many of the newest checkpoints stay.
        keep_rounds: rounds whose checkpoints stay for good, e.g. those that were evaluated.
    """

    def __init__(
        self,
        path: Path,
        lock: int,
        study: Study,
        *,
        durability: Durability,
        keep: int,
        keep_rounds: Collection[int],
    ) -> None:
        self.path = path
        self.study = study
        self._lock: int | None = lock
        self._sync = durability == "power"
        self._checkpoints = Checkpoints(
            path / "checkpoints",
            study.digest,
            keep=keep,
            keep_rounds=frozenset(keep_rounds),
            sync=self._sync,
        )
        remove_partial_files(path)
        self._counters = read_counters(path)
        self._blame = read_blame(path)
        self._rounds = self._repair_rounds()

    @classmethod
    def create(
        cls,
        path: Path | str,
        study: Study,
        roster_json: str,
        meta: Mapping[str, Any],
        *,
        study_text: str | None = None,
        start: Path | None = None,
        durability: Durability = "power",
        keep: int = 3,
        keep_rounds: Collection[int] | None = None,
    ) -> "RunFolder":
        """Make the folder in one step: it is built beside its place and renamed into it.

        Args:
            path: must not exist, or be an empty folder.
            study: as agreed.
            roster_json: the signed roster, as text.
            meta: JSON values that a resumed run needs again (run id, seed, engine).
            study_text: the study file as written, comments included; kept beside the study.
            start: the model file that the run starts from; copied.
            durability: see the class.
            keep: see the class.
            keep_rounds: see the class; the study's evaluation rounds where left out.

        Raises:
            RunError: something is there already, or the place cannot be written.
        """
        path = Path(path)
        with unwritable_named(path):
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RunError(
                    f"{path}: exists already; name a new folder, or resume the run in it."
                )
        files = first_files(study, roster_json, meta, study_text)
        rounds = study.evaluation_rounds if keep_rounds is None else keep_rounds
        with unwritable_named(path), sibling_folder(path) as sibling:
            for name, text in files.items():
                write_file(sibling / name, text.encode(), sync=durability == "power")
            if start is not None:
                content = start.read_bytes()
                write_file(sibling / START, content, sync=durability == "power")
            (sibling / "checkpoints").mkdir()
            lock = lock_folder(sibling)
            try:
                sibling.replace(path)
            except OSError:
                os.close(lock)
                raise
            sync_folder(path.parent)
        return cls(path, lock, study, durability=durability, keep=keep, keep_rounds=rounds)

    @classmethod
    def open(
        cls,
        path: Path | str,
        study: Study | None = None,
        *,
        durability: Durability = "power",
        keep: int = 3,
        keep_rounds: Collection[int] | None = None,
    ) -> "RunFolder":
        """Open a folder to go on with its run, and repair what a crash left half done.

        Args:
            path: the folder.
            study: the study that the caller means; the folder's own where left out.
            durability: see the class.
            keep: see the class.
            keep_rounds: see `create`.

        Raises:
            RunError: no run folder, damaged, of another study, or in use by another process.
        """
        path = Path(path)
        own = stored_study(path)
        if study is not None and study.digest != own.digest:
            raise RunError(
                f"{path}: belongs to study '{own.name}' (digest {own.digest[:16]}…), not to "
                f"'{study.name}' (digest {study.digest[:16]}…); name another run folder, or "
                "resume with the study file that it was started with."
            )
        rounds = own.evaluation_rounds if keep_rounds is None else keep_rounds
        lock = lock_folder(path)
        try:
            return cls(path, lock, own, durability=durability, keep=keep, keep_rounds=rounds)
        except BaseException:
            os.close(lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._lock is not None:
            release_lock(self._lock)
            self._lock = None

    @property
    def roster_json(self) -> str:
        """The signed roster, as stored."""
        return (self.path / "roster.json").read_text(encoding="utf-8")

    def replace_roster(self, roster_json: str, sites_before: int) -> None:
        """Go on under another roster; how many sites the attempts so far had stays on record.

        Args:
            roster_json: the new signed roster, as text.
            sites_before: sites on the old one.

        Raises:
            RunError: a sum of the old roster still waits to be opened.
        """
        if self.load_pending() is not None:
            raise RunError(
                f"{self.path}: a round's sum waits to be opened under the old roster; resume the "
                "run without a new roster until that round is finished, then stop it again."
            )
        ended = Era(self._counters.round, self._counters.attempt + 1, sites_before)
        eras = {"eras": [asdict(era) for era in (*read_eras(self.path), ended)]}
        write_file(self.path / "eras.json", to_json(eras).encode(), sync=self._sync)
        write_file(self.path / "roster.json", roster_json.encode(), sync=self._sync)

    @property
    def meta(self) -> dict[str, Any]:
        """What `create` was given, without the folder's own format number.

        Raises:
            RunError: the file is damaged.
        """
        path = self.path / "meta.json"
        found = read_json(path).get("meta")
        if not isinstance(found, dict):
            raise RunError(f"{path}: is damaged; restore it from a backup.")
        return found

    @property
    def start_file(self) -> Path | None:
        """The model file that the run starts from, if it starts from one."""
        path = self.path / START
        return path if path.is_file() else None

    @property
    def rounds(self) -> tuple[RoundRecord, ...]:
        """Every finished round, oldest first."""
        return tuple(self._rounds)

    @property
    def report_path(self) -> Path:
        """Where the report belongs."""
        return self.path / "report.html"

    @property
    def result_path(self) -> Path:
        """Where the result belongs."""
        return self.path / "result.json"

    def latest_checkpoint(self) -> Checkpoint | None:
        """The state after the last finished round; none before the first.

        Raises:
            RunError: the file is damaged.
        """
        return self._checkpoints.load(self._last_round) if self._rounds else None

    @property
    def kept_rounds(self) -> tuple[int, ...]:
        """Rounds whose checkpoints are still there, ascending."""
        return self._checkpoints.rounds()

    def checkpoint(self, round_number: int) -> Checkpoint:
        """The state after one round that was kept.

        Raises:
            RunError: it was not kept, or is damaged.
        """
        return self._checkpoints.load(round_number)

    def save_round(
        self,
        record: RoundRecord,
        weights: npt.NDArray[np.float32],
        optimizer_state: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        """Commit a finished round.

        Args:
            record: what happened; its round must be above every earlier one.
            weights: the new model as one vector, shape (d,).
            optimizer_state: the coordinator's optimizer, by name.

        Raises:
            RunError: the round, or a later one, was counted already.
        """
        if record.round <= self._last_round:
            raise RunError(
                f"{self.path}: round {record.round} was counted already; the last finished one "
                f"is {self._last_round}."
            )
        self._checkpoints.save(Checkpoint(record, weights, dict(optimizer_state or {})))
        self._add_line(record)
        self.clear_pending()
        self._checkpoints.prune()

    def reserve_epoch(self) -> int:
        """The next key epoch, from 1; stored before it is returned, so never given twice."""
        self._store_counters(replace(self._counters, epoch=self._counters.epoch + 1))
        return self._counters.epoch

    def reserve_attempt(self, round_number: int) -> int:
        """The next attempt of a round, from 0; stored before it is returned, so never given twice.

        Raises:
            RunError: the round is before the one that was last attempted.
        """
        last = self._counters
        if round_number < last.round:
            raise RunError(
                f"{self.path}: round {round_number} cannot be attempted after round {last.round}."
            )
        attempt = last.attempt + 1 if round_number == last.round else 0
        self._store_counters(replace(last, round=round_number, attempt=attempt))
        return attempt

    @property
    def blame(self) -> Blame:
        """Who spoiled attempts so far."""
        return self._blame

    @property
    def left_out(self) -> dict[str, LeftOut]:
        """Sites that take no part in the next attempt, and why."""
        return self._blame.left_out((self._counters.round, self._counters.attempt))

    def save_blame(self, blame: Blame) -> None:
        """Put who spoiled attempts on record."""
        if blame != self._blame:
            write_blame(self.path, blame, sync=self._sync)
            self._blame = blame

    def save_pending(self, round_number: int, state: bytes) -> None:
        """Keep what is needed to finish a round whose unmasking is about to be asked for."""
        write_file(self._pending, pack_pending(round_number, state), sync=self._sync)

    def load_pending(self) -> tuple[int, bytes] | None:
        """Round and state of the unmasking that was under way; none if its round was counted.

        Raises:
            RunError: the file is damaged.
        """
        if not self._pending.exists():
            return None
        round_number, state = unpack_pending(self._pending)
        return (round_number, state) if round_number > self._last_round else None

    def clear_pending(self) -> None:
        """Forget it: the round was counted, or given up."""
        if self._pending.exists():
            remove_file(self._pending, sync=self._sync)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`, all or nothing."""
        write_file(self.result_path, to_json(result).encode(), sync=self._sync)

    @property
    def _pending(self) -> Path:
        return self.path / "pending.bin"

    @property
    def _lines(self) -> Path:
        return self.path / "rounds.jsonl"

    @property
    def _last_round(self) -> int:
        return self._rounds[-1].round if self._rounds else 0

    def _add_line(self, record: RoundRecord) -> None:
        append_line(self._lines, record.to_json().encode(), sync=self._sync)
        self._rounds.append(record)

    def _repair_rounds(self) -> list[RoundRecord]:
        """Read the lines; drop a torn one, and add the one that the last checkpoint committed."""
        lines, torn = whole_lines(self._lines)
        if torn:
            write_file(self._lines, b"".join(line + b"\n" for line in lines), sync=self._sync)
        self._rounds = [RoundRecord.from_json(line, str(self._lines)) for line in lines]
        committed = self._checkpoints.latest_round()
        if committed < self._last_round:
            raise RunError(
                f"{self.path}: round {self._last_round} was counted, but its checkpoint is "
                "missing; restore the folder from a backup or start a new run."
            )
        if committed > self._last_round:
            self._add_line(self._checkpoints.load(committed).record)
        return self._rounds

    def _store_counters(self, counters: Counters) -> None:
        write_file(self.path / "counters.json", to_json(asdict(counters)).encode(), sync=self._sync)
        self._counters = counters
