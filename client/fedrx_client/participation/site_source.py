"""A site's way to the patients of a study, the same in check, approval, start and personalising.

A file of patients stays where it is, and is read as it is. The cohort of a database or a server is
de-identified as soon as it is read, so that the same pseudonyms stand in every fingerprint and
every split. An approval keeps it encrypted: neither a start nor a round then needs that server.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrx_client.data.load import LoadResult, load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.privacy.cache import CohortCache, CohortOrigin, read_through
from fedrx_client.data.privacy.deidentify import deidentified
from fedrx_client.data.privacy.pipeline import pipeline_digest
from fedrx_client.data.readers.source import Source
from fedrx_client.participation.settings import pseudonym_key
from fedrx_protocol.study.study import Study


@dataclass(frozen=True)
class SiteSource:
    """Where the patients of one study are, for one site.

    Attributes:
        folder: the site's folder.
        site: the site's id.
        study: the study.
        mapping: how the source becomes its features.
        source: the file, folder, database or server.
        load: reads the source.
    """

    folder: Path
    site: str
    study: Study
    mapping: TableMapping
    source: Source
    load: Callable[..., LoadResult] = load_cohort

    @property
    def is_kept(self) -> bool:
        """Whether the site keeps the cohort; a file's stays in the file alone."""
        return self.source.path is None

    def read(self) -> LoadResult:
        """Read the source; nothing is kept.

        Raises:
            DataError: the source cannot be used.
            SettingsDamaged: the site's secret is not what was written.
        """
        schema = self.study.feature_schema
        loaded = self.load(self.source, self.mapping, schema, site=self.site)
        if not self.is_kept:
            return loaded
        key = pseudonym_key(self.folder)
        cohorts = {site: deidentified(cohort, key) for site, cohort in loaded.cohorts.items()}
        return LoadResult(cohorts, loaded.quality)

    def keep(self, loaded: LoadResult, identity: Ed25519PrivateKey, *, now: int) -> None:
        """Keep what `read` gave, in place of an earlier cohort; nothing for a file.

        Args:
            loaded: the cohort.
            identity: the site's identity key in use.
            now: unix seconds.

        Raises:
            FolderUnusable: the disk does not let us.
        """
        if self.is_kept:
            self._cache(identity).keep(self._origin, loaded, now=now)

    def approved(self, identity: Ed25519PrivateKey, *, now: int) -> LoadResult:
        """Return the cohort as it was kept; where none is, and of a file, read the source.

        Args:
            identity: the site's identity key in use.
            now: unix seconds.

        Raises:
            CacheDamaged: what was kept was changed.
            DataError: the source cannot be used.
        """
        if not self.is_kept:
            return self.read()
        schema = self.study.feature_schema
        return read_through(self._cache(identity), self._origin, schema, self.read, now=now)

    def _cache(self, identity: Ed25519PrivateKey) -> CohortCache:
        return CohortCache(self.folder, identity.private_bytes_raw())

    @property
    def _origin(self) -> CohortOrigin:
        pipeline = pipeline_digest(self.mapping, self.study.feature_schema)
        return CohortOrigin(self.site, self.study.digest, pipeline, self.source.name)
