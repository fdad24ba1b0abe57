"""Forgetting: what is removed, what is not while an approval holds, and what the log says."""

import json
from dataclasses import dataclass

import pytest
from live_hospital import MAPPING, Region

from fedrx_client.approvals.approval import DAY_S
from fedrx_client.approvals.retention import StillApproved, forget, of_study, older_than
from fedrx_client.approvals.store import Approvals
from fedrx_client.data.load import LoadResult, load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.privacy.cache import CacheDamaged, cached
from fedrx_client.data.privacy.deidentify import pseudonym
from fedrx_client.data.readers.source import Source
from fedrx_client.identity.identity import SiteIdentity
from fedrx_client.participation.settings import pseudonym_key
from fedrx_client.participation.site_source import SiteSource
from fedrx_common.errors import DataError


@pytest.fixture
def region(tmp_path):
    made = Region(tmp_path)
    made.approve("site0")
    return made


@dataclass
class Server:
    """A source that counts how often it is read, and may be down."""

    region: Region
    reads: int = 0
    down: bool = False

    def __call__(self, source, mapping, schema, *, site) -> LoadResult:
        self.reads += 1
        if self.down:
            raise DataError(f"{source.name}: does not answer.")
        return load_cohort(self.region.table("site0"), mapping, schema, site=site)

    def way(self) -> SiteSource:
        return SiteSource(
            folder=self.region.home("site0"),
            site="site0",
            study=self.region.study,
            mapping=TableMapping.parse(MAPPING),
            source=Source.parse("https://user:secret@fhir.example.org/r4"),
            load=self,
        )

    def keep(self) -> LoadResult:
        way = self.way()
        loaded = way.read()
        way.keep(loaded, self.key, now=self.region.now)
        return loaded

    def approved(self) -> LoadResult:
        return self.way().approved(self.key, now=self.region.now)

    @property
    def key(self):
        return SiteIdentity(self.region.home("site0")).keys().identity


def test_a_start_does_not_need_the_server_once_it_was_read(region):
    server = Server(region)
    first = server.keep()
    server.down = True
    assert server.approved().cohort.fingerprint == first.cohort.fingerprint
    assert server.reads == 1
    with pytest.raises(DataError, match="does not answer"):
        server.way().read()


def test_without_a_kept_cohort_the_server_is_read_and_kept(region):
    server = Server(region)
    first = server.approved()
    assert server.approved().cohort.fingerprint == first.cohort.fingerprint
    assert server.reads == 1


def test_of_a_file_nothing_is_kept_and_ids_stay(region):
    mapping, source = TableMapping.parse(MAPPING), Source.parse(region.table("site0"))
    home = region.home("site0")
    way = SiteSource(home, "site0", region.study, mapping, source)
    way.keep(way.read(), Server(region).key, now=region.now)
    assert not cached(home)
    schema = region.study.feature_schema
    plain = load_cohort(source, mapping, schema, site="site0").cohort
    approved = way.approved(Server(region).key, now=region.now).cohort
    assert approved.fingerprint == plain.fingerprint


def test_no_id_and_no_password_is_on_the_disk(region):
    loaded = Server(region).keep()
    key = pseudonym_key(region.home("site0"))
    schema = region.study.feature_schema
    mapping = TableMapping.parse(MAPPING)
    clear = load_cohort(region.table("site0"), mapping, schema, site="site0").cohort.patients
    assert loaded.cohort.patients == tuple(pseudonym(one, key) for one in clear)
    for path in region.home("site0").rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert b"secret" not in data
        assert not any(patient.encode() in data for patient in loaded.cohort.patients)


def test_a_changed_cache_stops_the_start(region):
    server = Server(region)
    server.keep()
    (one,) = cached(region.home("site0"))
    data = one.path.read_bytes()
    one.path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CacheDamaged):
        server.approved()


def test_a_study_in_force_is_not_forgotten(region):
    with pytest.raises(StillApproved, match="take it back first"):
        of_study(region.home("site0"), region.study.digest, region.now)
    assert not older_than(region.home("site0"), 0, region.now).studies


def test_what_is_forgotten_is_gone_and_the_log_says_so(region):
    home, digest = region.home("site0"), region.study.digest
    Server(region).keep()
    key = SiteIdentity(home).keys().identity
    Approvals(home).revoke(digest, key, now=region.now, by="DPO")
    found = of_study(home, digest, region.now)
    assert found.text() == "1 cached cohort and 1 study folder"
    forget(home, found, now=region.now, by="DPO")
    assert not cached(home)
    assert not list((home / "studies").iterdir())
    entry = region.audit("site0")[-1]
    assert (entry.kind, entry.study) == ("retention", digest)
    assert entry.reason == "1 cached cohort and 1 study folder removed by DPO"
    assert Approvals(home).kept(digest).revocation is not None
    assert json.loads((home / "approvals" / f"{digest}.json").read_bytes())


def test_age_decides_over_a_cache_and_the_end_of_the_approval_over_a_study(region):
    home, now = region.home("site0"), region.now
    Server(region).keep()
    later = now + 10 * DAY_S
    assert older_than(home, 10, later).text() == "0 cached cohorts and 0 study folders"
    assert older_than(home, 9, later).text() == "1 cached cohort and 0 study folders"
    over = now + 41 * DAY_S  # the approval holds for 30 days
    assert older_than(home, 12, over).text() == "1 cached cohort and 0 study folders"
    assert older_than(home, 10, over).text() == "1 cached cohort and 1 study folder"
