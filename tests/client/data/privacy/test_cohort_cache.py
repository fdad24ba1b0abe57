"""The cache on disk: what comes back, what never opens, and what cannot be read in the file."""

import contextlib
import stat
from dataclasses import replace

import numpy as np
import pytest
from flux_cohorts import flux_cohort, flux_schema
from hypothesis import given, settings
from hypothesis import strategies as st
from omics_cohorts import omics_cohort, omics_schema

from fedrx_client.data.load import LoadResult
from fedrx_client.data.privacy.cache import (
    CacheDamaged,
    CohortCache,
    CohortOrigin,
    cached,
    read_through,
    remove,
)
from fedrx_client.data.privacy.deidentify import binned_age, deidentified, derived_key, pseudonym
from fedrx_client.data.quality.account import DataQuality

SECRET = bytes(range(32))
ORIGIN = CohortOrigin("a", "ab" * 32, "cd" * 32, "postgresql://db.example.org/omop")
OMICS, FLUX = omics_schema(), flux_schema()


def loaded(cohort):
    quality = DataQuality("db", 40, len(cohort), {"too young": 2}, {"age": 1}, {}, {}, notes=("n",))
    return LoadResult({"a": cohort}, quality)


COHORTS = {
    "omics": (OMICS, omics_cohort(OMICS, 12)),
    "course": (FLUX, flux_cohort(FLUX, 7, site="a")),
}


@pytest.mark.parametrize("kind", COHORTS)
def test_a_cohort_and_its_account_come_back(tmp_path, kind):
    schema, cohort = COHORTS[kind]
    cache = CohortCache(tmp_path, SECRET)
    assert cache.find(ORIGIN, schema) is None
    path = cache.keep(ORIGIN, loaded(cohort), now=1000)
    found = cache.find(ORIGIN, schema)
    assert found.cohort.fingerprint == cohort.fingerprint
    assert found.cohort.patients == cohort.patients
    assert found.quality.to_dict() == loaded(cohort).quality.to_dict() | {
        "absent": [],
        "notes": ["n"],
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_nothing_of_it_can_be_read_in_the_file(tmp_path):
    cohort = COHORTS["course"][1]
    data = CohortCache(tmp_path, SECRET).keep(ORIGIN, loaded(cohort), now=1000).read_bytes()
    for patient in cohort.patients:
        assert patient.encode() not in data
    assert b"too young" not in data
    assert cohort.visits.tobytes()[:64] not in data


@pytest.mark.parametrize(
    "other",
    [
        replace(ORIGIN, site="b"),
        replace(ORIGIN, study="ef" * 32),
        replace(ORIGIN, pipeline="ef" * 32),
        replace(ORIGIN, source="postgresql://db.example.org/other"),
    ],
)
def test_a_file_that_is_renamed_to_another_origin_does_not_open(tmp_path, other):
    schema, cohort = COHORTS["omics"]
    cache = CohortCache(tmp_path, SECRET)
    path = cache.keep(ORIGIN, loaded(cohort), now=1000)
    assert cache.find(other, schema) is None
    path.rename(path.with_name(other.file_name))
    with pytest.raises(CacheDamaged, match="remove the file, and the source is read again"):
        cache.find(other, schema)


def test_after_new_keys_the_source_is_read_again(tmp_path):
    schema, cohort = COHORTS["omics"]
    CohortCache(tmp_path, SECRET).keep(ORIGIN, loaded(cohort), now=1000)
    reads = []

    def read():
        reads.append(1)
        return loaded(cohort)

    cache = CohortCache(tmp_path, bytes(32))
    assert cache.find(ORIGIN, schema) is None
    for _ in range(2):
        read_through(cache, ORIGIN, schema, read, now=2000)
    assert len(reads) == 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_file_never_opens(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cache")
    schema, cohort = COHORTS["omics"]
    cache = CohortCache(folder, SECRET)
    path = cache.keep(ORIGIN, loaded(cohort), now=1000)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "zero"]))
    changed = {
        "flip": whole[:place]
        + bytes([whole[place] ^ (1 << data.draw(st.integers(0, 7)))])
        + whole[place + 1 :],
        "cut": whole[:place],
        "insert": whole[:place] + data.draw(st.binary(min_size=1, max_size=9)) + whole[place:],
        "zero": whole[:place] + bytes(len(whole) - place) + b"\x00",
    }[kind]
    path.write_bytes(changed)
    # A changed name of the key reads as another key's file.
    with contextlib.suppress(CacheDamaged):
        assert cache.find(ORIGIN, schema) is None


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_in_one_sentence(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cache")
    schema, cohort = COHORTS["omics"]
    cache = CohortCache(folder, SECRET)
    cache.keep(ORIGIN, loaded(cohort), now=1000).write_bytes(data)
    with pytest.raises(CacheDamaged):
        cache.find(ORIGIN, schema)


def test_cached_files_are_listed_without_a_key_and_removed(tmp_path):
    cache = CohortCache(tmp_path, SECRET)
    new, old = replace(ORIGIN, study="01" * 32), ORIGIN
    cache.keep(new, loaded(COHORTS["omics"][1]), now=9000)
    cache.keep(old, loaded(COHORTS["omics"][1]), now=1000)
    assert [(one.study, one.kept_at) for one in cached(tmp_path)] == [
        (old.study, 1000),
        (new.study, 9000),
    ]
    remove(cached(tmp_path)[:1])
    assert [one.study for one in cached(tmp_path)] == [new.study]
    assert cached(tmp_path / "nowhere") == ()


class TestDeidentified:
    def test_ids_are_pseudonyms_that_only_the_key_links(self):
        cohort = COHORTS["omics"][1]
        key = derived_key(SECRET, "pseudonyms")
        found = deidentified(cohort, key)
        assert found.patients == tuple(pseudonym(one, key) for one in cohort.patients)
        assert not set(found.patients) & set(cohort.patients)
        assert len(set(found.patients)) == len(cohort)
        other = deidentified(cohort, derived_key(SECRET, "something else"))
        assert not set(found.patients) & set(other.patients)

    def test_ages_over_89_are_one_group(self):
        cohort = COHORTS["course"][1]
        ages = np.array([20.0, 89.0, 89.5, 90.0, 104.0, np.nan, 3.0])
        cohort = replace(cohort, values={**cohort.values, "age": ages})
        found = deidentified(cohort, SECRET).values["age"]
        np.testing.assert_array_equal(found, [20.0, 89.0, 90.0, 90.0, 90.0, np.nan, 3.0])
        assert [binned_age(age) for age in (89.0, 89.1, 120.0)] == [89.0, 90.0, 90.0]

    def test_times_count_from_the_first_visit_and_outcomes_stay(self):
        cohort = COHORTS["course"][1]
        visits = cohort.visits.copy()
        visits[:, :, 0] += 19000.0  # days since 1970
        moved = replace(cohort, visits=visits, target=np.zeros((len(cohort), 0)))
        found = deidentified(moved, SECRET)
        assert (found.visits[:, 0, 0] == 0).all()
        np.testing.assert_allclose(found.target[..., 0], cohort.target[..., 0])
        assert moved.visits[0, 0, 0] >= 19000  # the given cohort is unchanged
