"""Patients of a database or a server: read once, de-identified, and kept encrypted at the site.

A file of patients stays where it is, and is read and watched as it is (`patients`). Of another
source the site keeps its cohort, so that neither a start nor a round depends on that server.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrx_client.data.load import LoadResult
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.privacy.cache import CohortCache, CohortOrigin, read_through
from fedrx_client.data.privacy.deidentify import deidentified
from fedrx_client.data.privacy.pipeline import pipeline_digest
from fedrx_client.data.readers.source import Source
from fedrx_client.participation.settings import pseudonym_key
from fedrx_protocol.study.study import Study


@dataclass(frozen=True)
class CachedSource:
    """A site's way to the patients of one study in a database or on a server.

    Attributes:
        folder: the site's folder.
        site: the site's id.
        study: the study.
        mapping: how the source becomes its features.
        source: the database or server.
        read: reads the source, as `load_cohort` does.
        identity: the site's identity key in use, from which the cache's key is derived.
    """

    folder: Path
    site: str
    study: Study
    mapping: TableMapping
    source: Source
    read: Callable[[], LoadResult]
    identity: Ed25519PrivateKey

    def fresh(self, *, now: int) -> LoadResult:
        """Read the source, and keep its cohort in place of an earlier one.

        Args:
            now: unix seconds.

        Raises:
            DataError: the source cannot be used.
            FolderUnusable: the disk does not let us.
        """
        loaded = self.without_names()
        self._cache.keep(self._origin, loaded, now=now)
        return loaded

    def kept(self, *, now: int) -> LoadResult:
        """Return the cohort as it was kept; where none is, read the source.

        Args:
            now: unix seconds.

        Raises:
            CacheDamaged: what was kept was changed.
            DataError: the source cannot be used.
        """
        schema = self.study.feature_schema
        return read_through(self._cache, self._origin, schema, self.without_names, now=now)

    def without_names(self) -> LoadResult:
        """Read the source and de-identify it; nothing is kept.

        Raises:
            DataError: the source cannot be used.
        """
        loaded, key = self.read(), pseudonym_key(self.folder)
        cohorts = {site: deidentified(cohort, key) for site, cohort in loaded.cohorts.items()}
        return LoadResult(cohorts, loaded.quality)

    @property
    def _cache(self) -> CohortCache:
        return CohortCache(self.folder, self.identity.private_bytes_raw())

    @property
    def _origin(self) -> CohortOrigin:
        pipeline = pipeline_digest(self.mapping, self.study.feature_schema)
        return CohortOrigin(self.site, self.study.digest, pipeline, self.source.name)
