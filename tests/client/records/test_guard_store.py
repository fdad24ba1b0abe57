"""The round guard: one contract for every store, and what only the one on disk must do."""

import sqlite3
from dataclasses import replace

import pytest

from fedrx_client.records.database import LedgerDamaged, SiteStore
from fedrx_client.records.ledger import Ledger
from fedrx_client.records.sqlite_guard import SqliteGuard
from fedrx_common.errors import MisuseError
from fedrx_protocol.privacy.events import Release
from fedrx_protocol.secagg.replay_guard import ContextRecord, MemoryGuard

SESSION = b"s" * 32


def record(round_number: int = 1, *, attempt: int = 0, epoch: int = 1, session=SESSION, **changes):
    identity = f"{session[0]}/{epoch}/{round_number}/{attempt}".encode()
    values = {
        "session": session,
        "context": identity.ljust(32, b"."),
        "epoch": epoch,
        "round": round_number,
        "attempt": attempt,
        "model_digest": f"model {round_number}".encode().ljust(32, b"."),
        "participants": ("a", "b", "c"),
        "threshold": 3,
        "kit": b"kit",
    }
    return ContextRecord(**{**values, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "site.sqlite"


@pytest.fixture(params=["memory", "sqlite"])
def guard(request, path):
    if request.param == "memory":
        yield MemoryGuard()
        return
    with SiteStore(path, durability="process") as store:
        yield SqliteGuard(store)


def test_an_empty_guard_knows_nothing(guard):
    assert guard.load(b"c" * 32) is None
    assert guard.latest(SESSION) is None
    assert guard.answered_model(b"m" * 32) is None


def test_a_saved_record_comes_back_unchanged(guard):
    saved = record(
        2,
        revealed_seeds=frozenset({"b"}),
        unmask_survivors=("a", "c"),
        unmask_reply=b"\x00\xff",
    )
    guard.save(saved)
    assert guard.load(saved.context) == saved


def test_a_later_save_replaces_the_record_of_its_context(guard):
    guard.save(record(1))
    changed = replace(record(1), revealed_seeds=frozenset({"c"}))
    guard.save(changed)
    assert guard.load(changed.context) == changed
    assert guard.latest(SESSION) == changed


def test_the_latest_is_by_round_then_epoch_then_attempt(guard):
    newest = record(3, epoch=2, attempt=1)
    for one in (newest, record(3, epoch=2), record(3, epoch=1, attempt=9), record(2, epoch=9)):
        guard.save(one)
    assert guard.latest(SESSION) == newest


def test_sessions_are_apart(guard):
    guard.save(record(5))
    other = record(2, session=b"t" * 32)
    guard.save(other)
    assert guard.latest(b"t" * 32) == other
    assert guard.latest(SESSION) == record(5)


def test_a_model_counts_as_answered_once_its_unmask_was(guard):
    guard.save(record(1))
    assert guard.answered_model(record(1).model_digest) is None
    guard.save(replace(record(1), unmask_survivors=("a", "b", "c"), unmask_reply=b"r"))
    assert guard.answered_model(record(1).model_digest) == record(1).context
    assert guard.answered_model(record(2).model_digest) is None


def test_a_study_keeps_the_list_that_came_first(guard):
    assert guard.opened_list(b"s") is None
    guard.keep_list(b"s", b"a,b")
    guard.keep_list(b"s", b"a")
    guard.keep_list(b"t", b"a")
    assert (guard.opened_list(b"s"), guard.opened_list(b"t")) == (b"a,b", b"a")


def test_an_opened_list_survives_a_restart_and_old_records(path):
    with SiteStore(path) as store:
        guard = SqliteGuard(store, keep=1)
        guard.keep_list(b"s", b"a,b")
        for number in range(1, 4):
            guard.save(record(number))
    with SiteStore(path) as store:
        assert SqliteGuard(store).opened_list(b"s") == b"a,b"


def test_records_survive_a_restart(path):
    saved = record(4, unmask_survivors=("a", "b", "c"), unmask_reply=b"r")
    with SiteStore(path) as store:
        SqliteGuard(store).save(saved)
    with SiteStore(path) as store:
        guard = SqliteGuard(store)
        assert guard.latest(SESSION) == saved
        assert guard.answered_model(saved.model_digest) == saved.context


def test_old_records_go_but_answered_models_stay(path):
    with SiteStore(path, durability="process") as store:
        guard = SqliteGuard(store, keep=3)
        guard.save(record(1, session=b"t" * 32))
        for number in range(1, 11):
            guard.save(record(number, unmask_survivors=("a",), unmask_reply=b"r"))
        left = [number for number in range(1, 11) if guard.load(record(number).context)]
        assert left == [8, 9, 10]
        assert guard.answered_model(record(1).model_digest) == record(1).context
        assert guard.latest(b"t" * 32) is not None


def test_a_guard_must_keep_a_record(path):
    with SiteStore(path) as store, pytest.raises(MisuseError, match="keep is 0"):
        SqliteGuard(store, keep=0)


def test_a_dropped_kit_is_not_left_in_the_file(path):
    kit = b"SECRET-KIT" * 30
    with SiteStore(path) as store:
        guard = SqliteGuard(store)
        guard.save(record(1, kit=kit))
        encoded = record(1, kit=kit).to_bytes()
        guard.save(record(1, kit=b""))
    needle = encoded[encoded.index(b'"kit"') + 8 :][:100]
    assert needle not in path.read_bytes()


def test_a_damaged_record_is_refused(path):
    with SiteStore(path) as store:
        SqliteGuard(store).save(record(1))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE guard_context SET record = x'7b7d'")
    connection.commit()
    connection.close()
    with SiteStore(path) as store, pytest.raises(LedgerDamaged, match="guard record is damaged"):
        SqliteGuard(store).load(record(1).context)


def test_a_blob_of_another_type_is_refused(path):
    with SiteStore(path) as store:
        store.write("INSERT INTO guard_answered VALUES (?, 'text')", (b"m",))
        with pytest.raises(LedgerDamaged, match="holds str where bytes belong"):
            SqliteGuard(store).answered_model(b"m")


def test_a_ledger_line_and_a_guard_record_are_written_together(path):
    release = Release(
        time="2026-11-21T10:00:00Z",
        study="aa" * 32,
        run="run-1",
        round=1,
        attempt=0,
        purpose="training",
        noise_multiplier=20.0,
        sample_rate=1.0,
        clipping_norm=1.0,
        cohort="cc" * 32,
    )
    with SiteStore(path) as store:
        guard, ledger = SqliteGuard(store), Ledger(store)
        with pytest.raises(MisuseError):
            _reply(store, ledger, guard, release, record(1), fails=True)
        assert ledger.entries() == ()
        assert guard.latest(SESSION) is None
        _reply(store, ledger, guard, release, record(1), fails=False)
    with SiteStore(path) as store:
        assert len(Ledger(store).entries()) == 1
        assert SqliteGuard(store).latest(SESSION) == record(1)


def _reply(store, ledger, guard, release, context, *, fails):
    with store.transaction():
        ledger.append(release)
        guard.save(context)
        if fails:
            raise MisuseError
