"""The files of a run folder that are written once, and the lock.

Everything that is read here is checked before it is used; a folder is made in one step or not at
all.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrx_common import documents
from fedrx_common.errors import MisuseError, RunError
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
    descriptor = try_lock(path / "lock", mode=0o644)
    if descriptor is None:
        raise RunInUse(f"{path}: another process is using this run folder; wait for it to end.")
    return descriptor


def try_lock(file: Path, *, mode: int, shared: bool = False) -> int | None:
    """Lock a file for as long as the descriptor is open; None if another process holds it.

    Args:
        file: Made if it is not there.
        mode: Its permissions then.
        shared: Whether others may lock it so at the same time.
    """
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR, mode)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
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
    """The rosters that a run's present one replaced, oldest first.

    Raises:
        RunError: the file is damaged.
    """
    file = path / "eras.json"
    if not file.exists():
        return ()
    try:
        return tuple(Era(**era) for era in read_json(file)["eras"])
    except (KeyError, TypeError):
        raise RunError(f"{file}: is damaged; restore it from a backup.") from None
