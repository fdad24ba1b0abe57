"""The patients of an approved study in memory, and a watch over the files they came from.

A table, or a file of a block beside it, may be repaired, replaced or lost while a study runs. Size
and time of each file are compared before every answer, and all are read again at every key epoch;
content that was not approved is refused. The text of a reading error may quote a patient, so this
module passes none on.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedrx_client.approvals.approval import CohortChanged
from fedrx_client.approvals.study_files import KeptStudy
from fedrx_client.data.load import LoadResult, load_cohort
from fedrx_client.data.privacy.pipeline import require_pipeline
from fedrx_common.errors import DataError
from fedrx_models.cohort.cohort import Cohort


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
        read: reads them, where they are not read as a file is.

    Raises:
        CohortChanged: the table cannot be read, or not as it was approved.
        PipelineChanged: the study pins another mapping.
    """

    def __init__(
        self, kept: KeptStudy, site: str, read: Callable[[], LoadResult] | None = None
    ) -> None:
        require_pipeline(kept.study, kept.mapping)
        self._kept, self._site, self._read_source = kept, site, read
        self._look, self._content = self._looks(), self._contents()
        self.cohort = self._read()

    def require_unchanged(self, *, thorough: bool) -> None:
        """Refuse if the files hold other patients than are in memory.

        A file that only looks new, or came back, is read again and compared.

        Args:
            thorough: read the files even if they look the same.

        Raises:
            CohortChanged: they do, or cannot be read.
        """
        look = self._looks()
        if look == self._look and not thorough:
            return
        content = self._contents()
        if content != self._content:
            if self._read().fingerprint != self.cohort.fingerprint:
                changed = [
                    file
                    for file, now, then in zip(self._files(), content, self._content, strict=True)
                    if now != then
                ]
                raise CohortChanged(
                    f"{changed[0]}: holds other patients than study "
                    f"'{self._kept.study.name}' was approved for: put the file back, or look at "
                    "it and approve again."
                )
            self._content = content
        self._look = look

    def _files(self) -> list[Path]:
        """The main table first."""
        table = self._kept.table
        return [table, *(table.parent / name for name in self._kept.mapping.files)]

    def _looks(self) -> list[_Look]:
        looks = []
        for path in self._files():
            try:
                found = path.stat()
            except OSError as error:
                raise _gone(path, error) from None
            looks.append(_Look(found.st_size, found.st_mtime_ns, found.st_ino))
        return looks

    def _contents(self) -> list[bytes]:
        contents = []
        for path in self._files():
            try:
                with path.open("rb") as file:
                    contents.append(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise _gone(path, error) from None
        return contents

    def _read(self) -> Cohort:
        kept = self._kept
        schema = kept.study.feature_schema
        try:
            if self._read_source is not None:
                return self._read_source().cohort
            return load_cohort(kept.table, kept.mapping, schema, site=self._site).cohort
        except DataError:
            raise CohortChanged(
                f"{kept.table}: cannot be read as it was approved; `fedrx site check` says where."
            ) from None


def _gone(path: Path, error: OSError) -> CohortChanged:
    return CohortChanged(
        f"{path}: the patients' table cannot be read ({error.strerror}); put it back where it was "
        "when the study was approved."
    )
