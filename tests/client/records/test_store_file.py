"""The site's SQLite file: durability, foreign and damaged files, locks, full disks, processes."""

import os
import signal
import sqlite3
import stat
import sys
import threading
from pathlib import Path

import pytest
from apart import exit_code, start
from charges import release

from fedrx_client.records.database import (
    SCHEMA_VERSION,
    LedgerDamaged,
    LedgerLocked,
    LedgerUnwritable,
    SiteStore,
)
from fedrx_client.records.ledger import Ledger

ANSWERED = "INSERT INTO guard_answered (model_digest, context) VALUES (?, ?)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site.sqlite"


def answered(store: SiteStore) -> list:
    return store.read("SELECT model_digest FROM guard_answered ORDER BY model_digest")


def test_what_was_written_is_there_after_reopening(path):
    with SiteStore(path) as store:
        store.write(ANSWERED, (b"m", b"c"))
    with SiteStore(path) as store:
        assert answered(store) == [(b"m",)]


def test_power_durability_flushes_every_commit_and_process_does_not(path):
    with SiteStore(path) as store:
        assert store.read("PRAGMA synchronous") == [(2,)]
        assert store.read("PRAGMA journal_mode") == [("wal",)]
    with SiteStore(path, durability="process") as store:
        assert store.read("PRAGMA synchronous") == [(0,)]


def test_the_file_is_for_its_owner_only(path):
    with SiteStore(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_transaction_is_all_or_nothing(path):
    with SiteStore(path) as store:
        with pytest.raises(ZeroDivisionError):
            _write_and_fail(store)
        assert answered(store) == []


def _write_and_fail(store: SiteStore) -> None:
    with store.transaction():
        store.write(ANSWERED, (b"m", b"c"))
        raise ZeroDivisionError


def _write_inside_and_fail(store: SiteStore) -> None:
    with store.transaction():
        with store.transaction():
            store.write(ANSWERED, (b"m", b"c"))
        raise ZeroDivisionError


def test_an_inner_transaction_joins_the_outer_one(path):
    with SiteStore(path) as store:
        with pytest.raises(ZeroDivisionError), store.transaction():
            _write_and_fail(store)
        with pytest.raises(ZeroDivisionError):
            _write_inside_and_fail(store)
        assert answered(store) == []
        with store.transaction(), store.transaction():
            store.write(ANSWERED, (b"m", b"c"))
        assert answered(store) == [(b"m",)]


def test_a_killed_process_leaves_whole_transactions_only(path):
    SiteStore(path, durability="process").close()
    assert exit_code(_write_and_die, path) == 9
    with SiteStore(path) as store:
        assert answered(store) == [(b"committed",)]


def _write_and_die(path: Path) -> None:
    store = SiteStore(path, durability="process")
    store.write(ANSWERED, (b"committed", b"c"))
    with store.transaction():
        store.write(ANSWERED, (b"open", b"c"))
        os._exit(9)


def test_a_second_opening_keeps_commits_from_another_process_that_closes(path):
    SiteStore(path).close()
    with start(_open_twice_and_die, path) as other:
        assert other.stdout.readline() == b"opened\n"
        SiteStore(path).close()
        other.communicate(b"closed\n")
    assert other.returncode == -9
    with SiteStore(path) as store:
        assert answered(store) == [(b"after",), (b"before",)]


def _open_twice_and_die(path: Path) -> None:
    store = SiteStore(path)
    store.write(ANSWERED, (b"before", b"c"))
    SiteStore(path).close()
    sys.stdout.write("opened\n")
    sys.stdout.flush()
    assert sys.stdin.readline() == "closed\n"
    store.write(ANSWERED, (b"after", b"c"))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_forked_process_opens_a_connection_of_its_own(path):
    assert exit_code(_write_on_both_sides_of_a_fork, path) == 0


def _write_on_both_sides_of_a_fork(path: Path) -> None:
    with SiteStore(path) as store:
        store.write(ANSWERED, (b"parent", b"c"))
        child = os.fork()
        if child == 0:
            store.write(ANSWERED, (b"child", b"c"))
            os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        store.write(ANSWERED, (b"parent again", b"c"))
        assert len(answered(store)) == 3


def test_another_threads_use_is_allowed(path):
    with SiteStore(path) as store:
        threads = [
            threading.Thread(target=store.write, args=(ANSWERED, (bytes([i]), b"c")))
            for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answered(store)) == 8


def test_a_file_that_another_process_holds_is_refused(path):
    SiteStore(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with SiteStore(path, busy_timeout_s=0.05) as store:
        with pytest.raises(LedgerLocked, match=r"another process has held .* 0\.05 s"):
            store.write(ANSWERED, (b"m", b"c"))
        other.execute("ROLLBACK")
        store.write(ANSWERED, (b"m", b"c"))
    other.close()


def test_another_programs_database_is_refused_and_left_alone(path):
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE patients (name TEXT)")
    other.commit()
    other.close()
    with pytest.raises(LedgerDamaged, match="another program's database"):
        SiteStore(path)
    tables = sqlite3.connect(path).execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("patients",)]


def test_another_schema_version_is_refused(path):
    SiteStore(path).close()
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    other.close()
    with pytest.raises(
        LedgerDamaged, match=f"version {SCHEMA_VERSION + 1}.*version {SCHEMA_VERSION}"
    ):
        SiteStore(path)


def test_a_file_of_an_older_version_gets_what_was_added_since(path):
    SiteStore(path).close()
    older = sqlite3.connect(path)
    older.execute("INSERT INTO ledger_head VALUES (1, 7, x'00')")
    older.execute("DROP TABLE guard_list")
    older.execute("DROP TABLE state")
    older.execute("PRAGMA user_version = 1")
    older.commit()
    older.close()
    for _ in range(2):
        with SiteStore(path) as store:
            assert store.read("SELECT * FROM guard_list") == []
            assert store.states() == ()
            assert store.read("PRAGMA user_version") == [(SCHEMA_VERSION,)]
            assert store.read("SELECT count FROM ledger_head") == [(7,)]


def test_a_file_that_is_no_database_is_refused(path):
    path.write_bytes(b"patients;dose\n" * 500)
    with pytest.raises(LedgerDamaged, match="is damaged"):
        SiteStore(path)
    assert path.read_bytes().startswith(b"patients;dose")


def _write_many(store: SiteStore, count: int) -> None:
    with store.transaction():
        for i in range(count):
            store.write(ANSWERED, (i.to_bytes(32, "big"), bytes(32)))


def test_overwritten_pages_are_found_at_opening(path):
    with SiteStore(path) as store:
        _write_many(store, 500)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    with pytest.raises(LedgerDamaged, match="is damaged"):
        SiteStore(path)


def test_a_full_disk_is_refused_and_nothing_is_kept(path):
    with SiteStore(path) as store:
        pages = store.read("PRAGMA page_count")[0][0]
        store.read(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerUnwritable, match="cannot be written"):
            _write_many(store, 2000)
        assert answered(store) == []
        store.read("PRAGMA max_page_count = 100000")
        store.write(ANSWERED, (b"m", b"c"))


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(LedgerUnwritable, match="cannot be opened for writing"):
        SiteStore(tmp_path / "missing" / "site.sqlite")
    with pytest.raises(LedgerUnwritable, match=r"cannot be written .* repair the permissions"):
        SiteStore(tmp_path)


def test_a_closed_store_refuses_use(path):
    store = SiteStore(path)
    store.close()
    store.close()
    with pytest.raises(LedgerUnwritable, match="was closed"):
        store.write(ANSWERED, (b"m", b"c"))


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE ledger",
        "DROP TABLE ledger_head",
        "DROP TABLE guard_context",
        "ALTER TABLE ledger RENAME COLUMN entry TO record",
        "ALTER TABLE ledger_head DROP COLUMN hash",
    ],
)
def test_a_table_that_is_not_as_it_was_made(path, change):
    with SiteStore(path):
        pass
    changed = sqlite3.connect(path)
    changed.execute(change)
    changed.commit()
    changed.close()
    with pytest.raises(LedgerDamaged, match=r"its table '.*restore it from a backup"):
        SiteStore(path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger_head SET count = 'many'",
        "UPDATE ledger_head SET hash = 7",
        "UPDATE ledger SET hash = 7",
        "UPDATE ledger SET hash = 'text'",
        "UPDATE ledger SET key = 7",
        "UPDATE ledger SET entry = x'ff'",
        "UPDATE ledger SET entry = 7.5",
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = 'CREATE TABLE'",
    ],
)
def test_a_value_that_is_none_of_a_ledger(path, change):
    with SiteStore(path) as store:
        Ledger(store).append(release())
    changed = sqlite3.connect(path)
    for statement in change.split("; "):
        changed.execute(statement)
    changed.commit()
    changed.close()
    with pytest.raises(LedgerDamaged, match="restore it from a backup"), SiteStore(path) as store:
        Ledger(store)


def test_a_value_that_turns_into_none_behind_an_open_ledger(path):
    with SiteStore(path) as store:
        book = Ledger(store)
        book.append(release())
        store.write("UPDATE ledger_head SET count = 'many'")
        with pytest.raises(LedgerDamaged, match="restore it from a backup"):
            book.entries()
