"""Small things a site's folder keeps for its agent: settings, the split's secret, the agent's lock.

The secret that decides which patients are held out is made once, so that a patient stays on one
side of the split through a study and its repeated runs. It must never leave the site.
"""

import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import with_config

from fedrx_client.data.privacy.deidentify import derived_key
from fedrx_client.training.device import CHOICES
from fedrx_common.canonical_json import to_json
from fedrx_common.documents import STRICT, DocumentInvalid, read
from fedrx_common.errors import MisuseError
from fedrx_common.files import FolderDamaged, LockHeld, locked, write_private
from fedrx_common.key_files import read_private
from fedrx_common.text import LONGEST_LINE, fault_in, quoted

_SECRET_BYTES = 32


@with_config(STRICT)
@dataclass(frozen=True)
class SiteSettings:
    """What `fedrx site start` remembers from its last start.

    Attributes:
        coordinator: host and port of the coordinator; empty before the first start.
        device: where to compute: auto, cuda, mps or cpu.
    """

    coordinator: str = ""
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.device not in CHOICES:
            raise MisuseError(f"there is no device '{self.device}': name {', '.join(CHOICES)}.")
        fault = fault_in(self.coordinator, most=LONGEST_LINE)
        if fault is not None:
            raise MisuseError(f"the coordinator's address {quoted(self.coordinator)} {fault}.")

    @classmethod
    def load(cls, folder: Path) -> "SiteSettings":
        """Read what was kept; the defaults where nothing was.

        Raises:
            FolderDamaged: it cannot be read.
        """
        path = folder / "settings.json"
        if not path.is_file():
            return cls()
        try:
            return read(path, cls)
        except (MisuseError, DocumentInvalid, OSError):
            raise FolderDamaged(f"{path}: cannot be read; remove it and start again.") from None

    def keep(self, folder: Path) -> None:
        """Remember for the next time.

        Raises:
            FolderUnusable: the disk does not let us.
        """
        write_private(folder / "settings.json", to_json(asdict(self)))

    def changed(self, coordinator: str | None, device: str | None) -> "SiteSettings":
        """Return a copy with what was given this time."""
        return replace(
            self, coordinator=coordinator or self.coordinator, device=device or self.device
        )


def split_salt(folder: Path, study: str) -> bytes:
    """Derive the key of a study's split into training and held-out patients, 32 bytes.

    Args:
        folder: the site's folder.
        study: digest of the study.

    Raises:
        FolderDamaged: the site's secret is not what was written.
        FolderUnusable: it cannot be read or made.
    """
    return hmac.digest(_secret(folder), b"fedrx/1 split\x00" + study.encode(), "sha256")


def pseudonym_key(folder: Path) -> bytes:
    """Derive the key of patients' pseudonyms, 32 bytes; it outlives a rotation of the site's keys.

    Args:
        folder: the site's folder.

    Raises:
        FolderDamaged: the site's secret is not what was written.
        FolderUnusable: it cannot be read or made.
    """
    return derived_key(_secret(folder), "pseudonyms")


def _secret(folder: Path) -> bytes:
    """Read the secret that is made once for a folder and never leaves it."""
    path = folder / "split.key"
    if not path.exists():
        with locked(folder):
            if not path.exists():
                write_private(path, os.urandom(_SECRET_BYTES))
    secret = read_private(path)
    if len(secret) != _SECRET_BYTES:
        raise FolderDamaged(f"{path}: is not what this site wrote; restore it from a backup.")
    return secret


@contextmanager
def only_agent(folder: Path) -> Iterator[None]:
    """Be the only agent of this folder; the system frees the lock when the process ends.

    Raises:
        LockHeld: another one is.
        FolderUnusable: the disk does not let us.
    """
    running = f"{folder}: an agent of this site is running already; stop it first."
    with locked(folder, "agent.lock", wait_s=0, held=running):
        yield


def agent_runs(folder: Path) -> bool:
    """Whether an agent of this folder is running now."""
    try:
        with only_agent(folder):
            return False
    except LockHeld:
        return True
