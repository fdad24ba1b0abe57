"""Checkpoints: the model and the optimizer after a round, as safetensors, never pickle.

The round's record travels inside the file, so that the one rename which puts a checkpoint into
its place commits both.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedrx_common.documents import read_json
from fedrx_common.errors import MisuseError, RunError
from fedrx_common.files import write_file

_OPTIMIZER = "optimizer."


@dataclass(frozen=True)
class RoundRecord:
    """What happened in one finished round; nothing about a single site.

    Args:
        round: from 1.
        attempt: from 0; how often it had to be tried again.
        participants: sites that were asked.
        survivors: sites whose vectors are in the sum.
        dropped: sites that were asked and are not in it.
        metrics: released metrics of the broadcast model, in the study's units; None if the round
            released none.
        bytes_up: from the sites to the coordinator.
        bytes_down: from the coordinator to the sites.
        seconds: wall time.
        calibration: what the round released of the model's intervals, see `card.Calibration`; None
            if it released nothing of them.
    """

    round: int
    attempt: int
    participants: int
    survivors: int
    dropped: int
    metrics: Mapping[str, float] | None
    bytes_up: int
    bytes_down: int
    seconds: float
    calibration: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.round < 1 or self.attempt < 0:
            raise MisuseError(f"round {self.round}, attempt {self.attempt}: no such round.")
        if self.survivors + self.dropped != self.participants:
            raise MisuseError(
                f"round {self.round}: {self.survivors} survivors and {self.dropped} dropped are "
                f"not {self.participants} participants."
            )

    def to_json(self) -> str:
        """One line of canonical JSON."""
        values = asdict(self)
        if self.calibration is None:
            del values["calibration"]
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: bytes | str, source: str) -> "RoundRecord":
        """Read a line; `source` names the file in an error.

        Raises:
            RunError: it is no such line.
        """
        try:
            return cls(**read_json(line))
        except (ValueError, TypeError, MisuseError):
            raise RunError(f"{source}: is damaged; restore it from a backup.") from None


@dataclass(frozen=True)
class Checkpoint:
    """State after a round.

    Args:
        record: the round.
        weights: the model as one vector, shape (d,).
        optimizer_state: arrays by name.
    """

    record: RoundRecord
    weights: npt.NDArray[np.float32]
    optimizer_state: Mapping[str, npt.NDArray[Any]]


class Checkpoints:
    """The checkpoint files of one run.

    Args:
        folder: where they are.
        study_digest: written into each, and checked when it is read.
        keep: how many of the newest stay.
        keep_rounds: rounds that stay for good.
        sync: flush to the disk before a save returns.
    """

    def __init__(
        self, folder: Path, study_digest: str, *, keep: int, keep_rounds: frozenset[int], sync: bool
    ) -> None:
        if keep < 1:
            raise MisuseError(f"keep is {keep}: a run needs at least its newest checkpoint.")
        self._folder = folder
        self._study_digest = study_digest
        self._keep = keep
        self._keep_rounds = keep_rounds
        self._sync = sync

    def latest_round(self) -> int:
        """The newest checkpoint's round; 0 if there is none."""
        return max(self.rounds(), default=0)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; it counts from the moment its file is in place."""
        tensors = {"weights": np.asarray(checkpoint.weights, dtype="<f4", order="C")}
        for name, value in checkpoint.optimizer_state.items():
            tensors[_OPTIMIZER + name] = np.asarray(value, order="C")
        metadata = {"study": self._study_digest, "record": checkpoint.record.to_json()}
        path = self._path(checkpoint.record.round)
        write_file(path, save(tensors, metadata=metadata), sync=self._sync)

    def load(self, round_number: int) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            RunError: it is missing, damaged, or of another study.
        """
        path = self._path(round_number)
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            record = RoundRecord.from_json(metadata["record"], str(path))
            weights = tensors.pop("weights")
        except FileNotFoundError:
            raise RunError(f"{path}: this checkpoint was not kept or is missing.") from None
        except (SafetensorError, OSError, KeyError):
            raise RunError(f"{path}: is damaged; restore it from a backup.") from None
        if metadata.get("study") != self._study_digest or record.round != round_number:
            raise RunError(f"{path}: is a checkpoint of another run; restore the right one.")
        state = {name.removeprefix(_OPTIMIZER): value for name, value in tensors.items()}
        return Checkpoint(record, weights, state)

    def prune(self) -> None:
        """Remove all but the newest and those that stay for good."""
        rounds = self.rounds()
        for number in set(rounds[: -self._keep]) - self._keep_rounds:
            self._path(number).unlink(missing_ok=True)

    def rounds(self) -> tuple[int, ...]:
        """Rounds whose checkpoints are in the folder, ascending."""
        names = (path.stem for path in self._folder.glob("round-*.safetensors"))
        return tuple(sorted(int(name[6:]) for name in names if name[6:].isdigit()))

    def _path(self, round_number: int) -> Path:
        return self._folder / f"round-{round_number:04d}.safetensors"
