"""The patients of an approved study in memory, and a watch over the table they came from.

The table may be mended, replaced or lost while a study runs. It is looked at before every answer
(size and time) and read again at every key epoch; other content than was approved is refused. The
text of a reading error may quote a patient, so none is handed on from here.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fedrx_client.approval import CohortChanged
from fedrx_client.data.load import load_cohort
from fedrx_client.study_files import KeptStudy
from fedrx_models.cohort import Cohort
from fedrx_protocol.errors import DataError


@dataclass(frozen=True)
class _Look:
    """What a file looks like without being read."""

    size: int
    modified_ns: int
    inode: int


class Patients:
    """A study's cohort, read once and watched.

    Args:
        kept: study, mapping and table.
        site: the site's id.

    Raises:
        CohortChanged: the table cannot be read, or not as it was approved.
    """

    def __init__(self, kept: KeptStudy, site: str) -> None:
        self._kept, self._site = kept, site
        self._look = _looks(kept.table)
        self._content = _content(kept.table)
        self.cohort = self._read()

    def require_unchanged(self, *, thorough: bool) -> None:
        """Refuse if the table holds other patients than are in memory.

        A file that only looks new, or came back, is read again and compared.

        Args:
            thorough: read the file even if it looks the same.

        Raises:
            CohortChanged: it does, or cannot be read.
        """
        look = _looks(self._kept.table)
        if look == self._look and not thorough:
            return
        content = _content(self._kept.table)
        if content != self._content:
            if self._read().fingerprint != self.cohort.fingerprint:
                raise CohortChanged(
                    f"{self._kept.table}: holds other patients than study "
                    f"'{self._kept.study.name}' was approved for: put the file back, or look at "
                    "it and approve again."
                )
            self._content = content
        self._look = look

    def _read(self) -> Cohort:
        kept = self._kept
        schema = kept.study.feature_schema
        try:
            return load_cohort(kept.table, kept.mapping, schema, site=self._site).cohort
        except DataError:
            raise CohortChanged(
                f"{kept.table}: cannot be read as it was approved; `fedrx site check` says where."
            ) from None


def _looks(path: Path) -> _Look:
    try:
        found = path.stat()
    except OSError as error:
        raise _gone(path, error) from None
    return _Look(found.st_size, found.st_mtime_ns, found.st_ino)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise _gone(path, error) from None


def _gone(path: Path, error: OSError) -> CohortChanged:
    return CohortChanged(
        f"{path}: the patients' table cannot be read ({error.strerror}); put it back where it was "
        "when the study was approved."
    )
