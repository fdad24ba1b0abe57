"""What a site keeps of a study it approved: the study, how to read the patients, and where.

With these `fedrx site start` needs no argument, and takes nothing of a study from the wire. A copy
of the mapping is kept; the patients stay where they are, in a file, a database or on a server. An
address is kept without its password. None of it is signed: the study is known by its digest, and a
changed mapping shows in the cohort's fingerprint.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from fedrx_client.approvals.approval import DIGEST, NotApproved, nothing_for
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.source import Source
from fedrx_client.identity.pins import read_file
from fedrx_common.canonical_json import from_json, to_json
from fedrx_common.documents import read_json
from fedrx_common.errors import FedRxError
from fedrx_common.files import FolderDamaged, sync_folder, unusable, write_private
from fedrx_protocol.study.study import Study

STUDY = "study.json"
MAPPING = "mapping.toml"
TABLE = "table.json"


@dataclass(frozen=True)
class KeptStudy:
    """What is needed to take part.

    Attributes:
        study: the study.
        mapping: how the columns of the table become its features.
        table: the patients: an absolute path, or the address of a database or a server.
    """

    study: Study
    mapping: TableMapping
    table: Path | str

    @property
    def source(self) -> Source:
        """Where the patients are.

        Raises:
            DataError: the file is gone.
        """
        return Source.parse(self.table)


class StudyFiles:
    """The studies kept in a site's folder.

    Args:
        folder: the site's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "studies"

    def keep(self, study: Study, mapping: str, table: Path | str) -> None:
        """Keep what `load` gives back, in place of what was kept for the same study.

        Args:
            study: the study.
            mapping: text of the mapping file.
            table: the patients: a file, a folder, a database or a server.

        Raises:
            FolderUnusable: the disk does not let us.
        """
        folder = self._of(study.digest)
        with unusable(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        document = json.dumps(study.model_dump(mode="json"), sort_keys=True, indent=1)
        write_private(folder / STUDY, document.encode())
        write_private(folder / MAPPING, mapping.encode())
        write_private(folder / TABLE, to_json(_document(table)))
        with unusable(self._folder):
            sync_folder(self._folder)

    def load(self, digest: str) -> KeptStudy:
        """Read what was kept of a study.

        Args:
            digest: of the study, 64 hexadecimal digits.

        Raises:
            NotApproved: nothing was kept, so it was never approved here.
            FolderDamaged: it is not what was kept.
        """
        folder = self._of(digest)
        if not folder.is_dir():
            raise NotApproved(nothing_for(digest))
        try:
            study = Study.from_document(read_json(read_file(folder / STUDY)), source=STUDY)
            mapping = TableMapping.load(folder / MAPPING)
            document = from_json(read_file(folder / TABLE), source=TABLE)
            table = str(document["source"]) if "source" in document else Path(document["path"])
        except (FedRxError, KeyError, TypeError, ValueError):
            raise _damaged(folder) from None
        if study.digest != digest:
            raise _damaged(folder)
        return KeptStudy(study, mapping, table)

    def study(self, digest: str) -> Study | None:
        """The study alone, to be shown; None where it was not kept, or is damaged."""
        try:
            study = Study.from_document(
                json.loads(read_file(self._of(digest) / STUDY)), source=STUDY
            )
        except (FedRxError, ValueError):
            return None
        return study if study.digest == digest else None

    def folders(self, digest: str) -> tuple[Path, ...]:
        """Name the folder of a study, if one was kept."""
        folder = self._of(digest)
        return (folder,) if folder.is_dir() else ()

    def _of(self, digest: str) -> Path:
        # The digest may come from the wire: it must not name a folder elsewhere.
        if not DIGEST.fullmatch(digest):
            raise NotApproved(f"{digest[:80]!r} is no study digest of 64 hexadecimal digits.")
        return self._folder / digest


def _document(table: Path | str) -> dict[str, str]:
    source = Source.parse(table)
    return {"source" if source.path is None else "path": source.kept}


def _damaged(folder: Path) -> FolderDamaged:
    return FolderDamaged(
        f"{folder}: is not what was kept when the study was approved; approve it again with "
        "`fedrx site approve`."
    )
