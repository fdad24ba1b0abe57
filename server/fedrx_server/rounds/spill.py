"""Sites' masked vectors on disk until no site can drop any more, so that memory holds their sum.

The files have no name and are gone with the process; what is in them is masked. They are in the
folder that is given, which belongs on the coordinator's encrypted disk.
"""

import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import IO, Final

import numpy as np

from fedrx_protocol.messages.secure_aggregation import RingVector

# A file costs more than so many bytes of memory.
_KEEP_BYTES: Final = 2**20


class SpilledVectors(MutableMapping[str, RingVector]):
    """A mapping of site to vector (uint32, one row); long vectors are in files.

    Args:
        folder: Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._short: dict[str, RingVector] = {}

    def __getitem__(self, site: str) -> RingVector:
        """The vector.

        Raises:
            KeyError: There is none of this site.
        """
        if site in self._short:
            return self._short[site]
        file = self._files[site]
        file.seek(0)
        return np.fromfile(file, dtype=np.uint32)

    def __setitem__(self, site: str, vector: RingVector) -> None:
        self.pop(site, None)
        if vector.nbytes <= _KEEP_BYTES:
            self._short[site] = vector
            return
        file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - it is kept
        vector.tofile(file)
        self._files[site] = file

    def __delitem__(self, site: str) -> None:
        if site in self._short:
            del self._short[site]
        else:
            self._files.pop(site).close()

    def __iter__(self) -> Iterator[str]:
        yield from list(self._short)
        yield from list(self._files)

    def __len__(self) -> int:
        return len(self._short) + len(self._files)
