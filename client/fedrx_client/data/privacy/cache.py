"""The cohort cache: what a site read from a database or a server, encrypted on its own disk.

With it `fedrx site start` need not read the server again. A file holds a de-identified cohort as
safetensors, sealed with AES-256-GCM. The seal covers what the cohort was made from (site, study,
pipeline, source), so that a file that was exchanged, renamed or changed does not open. Clear rows
are never written, not even for a moment; nothing here is unpickled.
"""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from safetensors import SafetensorError
from safetensors.numpy import load as tensors_in
from safetensors.numpy import save as tensors_as_bytes

from fedrx_client.data.load import LoadResult
from fedrx_client.data.privacy.deidentify import derived_key
from fedrx_client.data.quality.account import DataQuality
from fedrx_common.canonical_json import packed
from fedrx_common.documents import read_json
from fedrx_common.errors import FedRxError, MisuseError
from fedrx_common.files import remove_file, sync_folder, unusable, write_private
from fedrx_models.cohort.cohort import Cohort
from fedrx_protocol.study.schema import FeatureSchema

CACHE = "cohorts"
MAGIC = b"fedrx/1 cohort cache\x00"
LARGEST_BYTES = 2**31 - 1  # what one AES-GCM message may hold here
_SUFFIX = ".cohort"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_KEY_NAME_BYTES = 8
_HEADER = struct.Struct(f">{len(MAGIC)}sQ{_KEY_NAME_BYTES}s{_NONCE_BYTES}s")
_TEXTS = "texts"  # ids and account as JSON, as bytes beside the arrays


class CacheDamaged(MisuseError):
    """A cached cohort is not what this site kept: changed, cut off, or exchanged for another."""


class CohortTooLarge(MisuseError):
    """A cohort that no cache holds."""


@dataclass(frozen=True)
class CohortOrigin:
    """What a cached cohort was made from; another one never opens it.

    Attributes:
        site: the site's id.
        study: the study's digest, 64 hexadecimal digits.
        pipeline: see `pipeline_digest`.
        source: the source in words, without a password.
    """

    site: str
    study: str
    pipeline: str
    source: str

    @property
    def file_name(self) -> str:
        """Name its file: the study in clear, so that it can be forgotten; of the rest a hash."""
        rest = packed("fedrx/1 cohort origin", self.site, self.pipeline, self.source)
        return f"{self.study}.{hashlib.sha256(rest).hexdigest()[:16]}{_SUFFIX}"


class CohortCache:
    """The cached cohorts of one site.

    Args:
        folder: the site's folder; the cache is a folder in it.
        secret: at least 32 secret bytes of the site's key store; the key is derived from them.
    """

    def __init__(self, folder: Path, secret: bytes) -> None:
        self._folder = folder / CACHE
        key = derived_key(secret, "cohort cache")
        self._key_name = hashlib.sha256(b"fedrx/1 key name\x00" + key).digest()[:_KEY_NAME_BYTES]
        self._sealer = AESGCM(key)

    def keep(self, origin: CohortOrigin, loaded: LoadResult, *, now: int) -> Path:
        """Write a cohort, in place of an earlier one of the same origin; whole or not at all.

        Args:
            origin: what it was made from.
            loaded: a de-identified cohort and its account.
            now: unix seconds.

        Raises:
            CohortTooLarge: it does not fit one sealed file.
            FolderUnusable: the disk does not let us.
        """
        nonce = os.urandom(_NONCE_BYTES)
        header = _HEADER.pack(MAGIC, now, self._key_name, nonce)
        content = _content(loaded)
        if len(content) > LARGEST_BYTES - _HEADER.size - _TAG_BYTES:
            raise CohortTooLarge(
                f"{origin.source}: the cohort is larger than {LARGEST_BYTES:,} bytes, which no "
                "cache holds; give the site a file of it instead."
            )
        sealed = self._sealer.encrypt(nonce, content, _bound(header, origin))
        path = self._folder / origin.file_name
        with unusable(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        write_private(path, header + sealed)
        return path

    def find(self, origin: CohortOrigin, schema: FeatureSchema) -> LoadResult | None:
        """Read the cohort of an origin; None if there is none, or it was kept under another key.

        Args:
            origin: what it must have been made from.
            schema: the study's features and target.

        Raises:
            CacheDamaged: the file is not what this site kept.
            FolderUnusable: it cannot be read.
        """
        path = self._folder / origin.file_name
        with unusable(path):
            if not path.is_file():
                return None
            if path.stat().st_size > LARGEST_BYTES:
                raise _damaged(path)
            data = path.read_bytes()
        header, sealed = data[: _HEADER.size], data[_HEADER.size :]
        if len(header) < _HEADER.size or not header.startswith(MAGIC):
            raise _damaged(path)
        _, _, key_name, nonce = _HEADER.unpack(header)
        if key_name != self._key_name:  # the site's keys were rotated since
            return None
        try:
            content = self._sealer.decrypt(nonce, sealed, _bound(header, origin))
            return _loaded(content, origin.site, schema)
        except (InvalidTag, FedRxError, SafetensorError, KeyError, TypeError, ValueError):
            raise _damaged(path) from None  # changed; or sealed by us, but by another release


@dataclass(frozen=True)
class CachedFile:
    """A cached cohort on the disk.

    Attributes:
        path: the file.
        study: the study's digest, as the file's name says.
        kept_at: unix seconds, as the file says.
    """

    path: Path
    study: str
    kept_at: int


def cached(folder: Path) -> tuple[CachedFile, ...]:
    """List a site's cached cohorts, oldest first; no key is needed.

    Raises:
        FolderUnusable: they cannot be read.
    """
    found = []
    with unusable(folder):
        for path in sorted((folder / CACHE).glob(f"*{_SUFFIX}")):
            with path.open("rb") as file:
                header = file.read(_HEADER.size)
            whole = len(header) == _HEADER.size and header.startswith(MAGIC)
            kept_at = _HEADER.unpack(header)[1] if whole else int(path.stat().st_mtime)
            found.append(CachedFile(path, path.name.partition(".")[0], kept_at))
    return tuple(sorted(found, key=lambda one: (one.kept_at, one.path)))


def remove(files: Iterable[CachedFile]) -> None:
    """Remove cached cohorts from the disk.

    Raises:
        FolderUnusable: one cannot be removed.
    """
    for one in files:
        with unusable(one.path):
            remove_file(one.path, sync=False)
            sync_folder(one.path.parent)


def read_through(
    cache: CohortCache,
    origin: CohortOrigin,
    schema: FeatureSchema,
    read: Callable[[], LoadResult],
    *,
    now: int,
) -> LoadResult:
    """Give the cached cohort of an origin; where there is none, read the source and keep it.

    Args:
        cache: the site's.
        origin: what the cohort is made from.
        schema: the study's features and target.
        read: reads the source and de-identifies what it gave.
        now: unix seconds.

    Raises:
        CacheDamaged: the file is not what this site kept.
        DataError: the source cannot be used.
    """
    found = cache.find(origin, schema)
    if found is None:
        found = read()
        cache.keep(origin, found, now=now)
    return found


def _bound(header: bytes, origin: CohortOrigin) -> bytes:
    """Return what the seal covers beside the content."""
    return packed(
        "fedrx/1 cached cohort",
        header,
        origin.site,
        origin.study,
        origin.pipeline,
        origin.source,
    )


def _content(loaded: LoadResult) -> bytes:
    cohort = loaded.cohort
    texts = {"patients": cohort.patients, "account": loaded.quality.to_dict()}
    tensors: dict[str, Any] = {
        f"values.{name}": np.ascontiguousarray(column) for name, column in cohort.values.items()
    }
    tensors |= {
        f"blocks.{name}": np.ascontiguousarray(block) for name, block in cohort.blocks.items()
    }
    tensors["target"] = np.ascontiguousarray(cohort.target)
    tensors["visits"] = np.ascontiguousarray(cohort.visits)
    tensors[_TEXTS] = np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8)
    return bytes(tensors_as_bytes(tensors))


def _loaded(content: bytes, site: str, schema: FeatureSchema) -> LoadResult:
    tensors = tensors_in(content)
    texts = read_json(tensors.pop(_TEXTS).tobytes())
    cohort = Cohort(
        site=site,
        schema=schema,
        patients=tuple(texts["patients"]),
        values={feature.name: tensors[f"values.{feature.name}"] for feature in schema.features},
        target=tensors["target"],
        blocks={block.name: tensors[f"blocks.{block.name}"] for block in schema.blocks},
        visits=tensors["visits"],
    )
    return LoadResult({site: cohort}, DataQuality(**texts["account"]))


def _damaged(path: Path) -> CacheDamaged:
    return CacheDamaged(
        f"{path}: is not the cohort that this site kept: it was changed, or comes from another "
        "release; remove the file, and the source is read again."
    )
