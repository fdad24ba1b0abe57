"""The files of a run folder that are written once, and the lock.

Everything that is read here is checked before it is used; a folder is made in one step or not at
all.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import with_config

from fedrx_common import documents
from fedrx_common.documents import STRICT, StateT
from fedrx_common.errors import MisuseError, RunError
from fedrx_common.files import take_lock
from fedrx_protocol.study.study import Study

FORMAT = 1


class RunInUse(RunError):
    """Another process drives the run; two at once would use the same numbers twice."""


def first_files(
    study: Study, roster_json: str, meta: Mapping[str, Any], study_text: str | None
) -> dict[str, str]:
    """Name and text of the files that a new folder starts with."""
    files = {
        "study.json": to_json({"digest": study.digest, "study": study.model_dump(mode="json")}),
        "roster.json": roster_json,
        "meta.json": to_json({"format": FORMAT, "meta": dict(meta)}),
    }
    if study_text is not None:
        files["study.toml"] = study_text
    return files


@with_config(STRICT)
@dataclass(frozen=True)
class Counters:
    """Numbers that must never be used twice, whatever crashes: the last ones that were used."""

    epoch: int
    round: int
    attempt: int


@with_config(STRICT)
@dataclass(frozen=True)
class Era:
    """Attempts under one roster that was replaced.

    Args:
        round: round of the first attempt that is no longer under it.
        attempt: number of that attempt.
        sites: sites on that roster.
    """

    round: int
    attempt: int
    sites: int


@with_config(STRICT)
@dataclass(frozen=True)
class Eras:
    """What `eras.json` holds: the rosters that a run's present one replaced, oldest first."""

    eras: tuple[Era, ...]


@contextmanager
def sibling_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, gone afterwards unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sibling = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        sibling.chmod(0o755)
        yield sibling
    finally:
        shutil.rmtree(sibling, ignore_errors=True)


@contextmanager
def unwritable_named(path: Path) -> Iterator[None]:
    """Turn a failing disk into one sentence about `path`."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: the run folder cannot be made ({error.strerror}); name a folder that can "
            "be written."
        ) from None


def lock_folder(path: Path) -> int:
    """Lock a run folder for this process; the lock ends with the process, however it ends."""
    descriptor = os.open(path / "lock", os.O_CREAT | os.O_RDWR, 0o644)
    if not take_lock(descriptor, wait_s=0):
        os.close(descriptor)
        raise RunInUse(f"{path}: another process is using this run folder; wait for it to end.")
    return descriptor


def stored_study(path: Path) -> Study:
    """The study that a run folder belongs to.

    Raises:
        RunError: no run folder, of another format, damaged, or changed by hand.
    """
    if (path / "comparison.json").is_file():
        raise RunError(
            f"{path}: holds a comparison, which goes on when the same command is given again."
        )
    if not (path / "study.json").is_file() or not (path / "meta.json").is_file():
        raise RunError(f"{path}: is not a run folder (no study.json in it).")
    found = read_json(path / "meta.json").get("format")
    if found != FORMAT:
        raise RunError(
            f"{path / 'meta.json'}: run folder of format {found}, this program knows {FORMAT}."
        )
    document = read_json(path / "study.json")
    try:
        study = Study.from_document(document["study"], source=str(path / "study.json"))
        digest = document["digest"]
    except (KeyError, TypeError, MisuseError):
        raise RunError(f"{path / 'study.json'}: is damaged; restore it from a backup.") from None
    if study.digest != digest:
        raise RunError(
            f"{path / 'study.json'}: was changed, or written by another version of FedRx "
            f"(digest {digest[:16]}…, now {study.digest[:16]}…)."
        )
    return study


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        RunError: it cannot be read, or is no JSON object.
    """
    try:
        document = documents.read_json(path.read_bytes())
    except (OSError, ValueError):
        raise RunError(f"{path}: is damaged; restore it from a backup.") from None
    if not isinstance(document, dict):
        raise RunError(f"{path}: is damaged; restore it from a backup.")
    return document


def to_json(document: Mapping[str, Any]) -> str:
    """JSON that a person can read and a diff can follow."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_eras(path: Path) -> tuple[Era, ...]:
    """Read the rosters that a run's present one replaced, oldest first.

    Raises:
        RunError: the file is damaged.
    """
    file = path / "eras.json"
    return _state(file, Eras).eras if file.exists() else ()


def read_counters(path: Path) -> Counters:
    """Read the last numbers that a run used; no lock is needed.

    Raises:
        RunError: the file is damaged.
    """
    file = path / "counters.json"
    return _state(file, Counters) if file.exists() else Counters(epoch=0, round=0, attempt=-1)


def _state(file: Path, model: type[StateT]) -> StateT:
    try:
        return documents.read(file, model)
    except (documents.DocumentInvalid, OSError):
        raise RunError(f"{file}: is damaged; restore it from a backup.") from None
