"""The patients of an approved study in memory, and a watch over the files they came from.

A table, or a file of a block beside it, may be repaired, replaced or lost while a study runs. Size
and time of each file are compared before every answer, and all are read again at every key epoch;
content that was not approved is refused. A database's own file does not tell of a change until it
is closed: it is read again at every key epoch only. Of a database or a server elsewhere the cohort
is the one that the approval kept, encrypted: nobody asks it again. The text of a reading error may
quote a patient, so this module passes none on.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedrx_client.approvals.approval import CohortChanged
from fedrx_client.approvals.study_files import KeptStudy
from fedrx_client.data.load import LoadResult, load_cohort
from fedrx_client.data.privacy.pipeline import require_pipeline
from fedrx_client.data.readers.source import Source
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
        CohortChanged: the source cannot be read, or not as it was approved.
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
        if content != self._content or (thorough and self._is_read_anew):
            if self._read().fingerprint != self.cohort.fingerprint:
                changed = sorted(
                    path
                    for path in content.keys() | self._content.keys()
                    if content.get(path) != self._content.get(path)
                )
                raise CohortChanged(
                    f"{changed[0] if changed else self._name}: holds other patients than study "
                    f"'{self._kept.study.name}' was approved for: put the file back, or look at "
                    "it and approve again."
                )
            self._content = content
        self._look = look

    @property
    def _name(self) -> str:
        table = self._kept.table
        return str(table) if isinstance(table, Path) else Source.parse(table).name

    @property
    def _is_read_anew(self) -> bool:
        """Whether no file tells that the patients changed."""
        return not self._kept.source.watchable

    def _files(self) -> list[Path]:
        """Name every file that is read: the main table, or those of its folder, first."""
        table, names = self._kept.table, self._kept.mapping.files
        if not isinstance(table, Path):
            return [self._kept.source.beside(name) for name in names]
        beside = [table.parent / name for name in names]
        inside = sorted(one for one in table.rglob("*") if one.is_file()) if table.is_dir() else []
        return [*(inside or [table]), *beside]

    def _looks(self) -> dict[Path, _Look]:
        looks = {}
        for path in self._files():
            try:
                found = path.stat()
            except OSError as error:
                raise _gone(path, error.strerror) from None
            looks[path] = _Look(found.st_size, found.st_mtime_ns, found.st_ino)
        return looks

    def _contents(self) -> dict[Path, bytes]:
        contents = {}
        for path in self._files():
            try:
                with path.open("rb") as file:
                    contents[path] = hashlib.file_digest(file, "sha256").digest()
            except OSError as error:
                raise _gone(path, error.strerror) from None
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
                f"{self._name}: cannot be read as it was approved; `fedrx site check` says where."
            ) from None


def _gone(path: Path, why: str | None) -> CohortChanged:
    return CohortChanged(
        f"{path}: the patients' table cannot be read ({why}); put it back where it was "
        "when the study was approved."
    )
