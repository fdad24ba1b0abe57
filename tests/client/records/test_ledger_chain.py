"""The ledger's chain: nothing is lost, repeated, changed, removed or reordered unseen."""

import sqlite3
from pathlib import Path

import pytest
from apart import exit_code
from charges import release
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_client.records.database import LedgerDamaged, SiteStore
from fedrx_client.records.ledger import GENESIS, Ledger, LedgerHead, ReleaseRepeated, chain


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site.sqlite"


@pytest.fixture
def store(path):
    with SiteStore(path, durability="process") as store:
        yield store


def filled(path: Path, count: int = 5) -> None:
    with SiteStore(path, durability="process") as store:
        ledger = Ledger(store)
        for number in range(1, count + 1):
            ledger.append(release(number))


def tamper(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def finding(path: Path) -> str:
    with SiteStore(path, durability="process") as store, pytest.raises(LedgerDamaged) as caught:
        Ledger(store)
    return str(caught.value)


def test_lines_come_back_in_order_with_chained_hashes(store):
    ledger = Ledger(store)
    written = [ledger.append(release(number)) for number in (1, 2, 3)]
    again = Ledger(store).entries()
    assert list(again) == written
    assert [line.sequence for line in again] == [1, 2, 3]
    previous = GENESIS
    for line in again:
        assert line.hash == chain(previous, line.release.to_json())
        previous = line.hash


def test_the_chain_is_frozen():
    assert GENESIS.hex() == "0b25518a97c367d7f53554dba13f8a30b6399a180f464150d9ca709520aacb49"
    assert chain(GENESIS, release().to_json()).hex() == (
        "c42cb5766ca99c14b75670aa7b6e80ddd0df064f930468b87cd8391613606baf"
    )


def test_an_empty_ledger_has_the_genesis_head(store):
    assert Ledger(store).head == LedgerHead(0, GENESIS)
    assert Ledger(store).verify() == LedgerHead(0, GENESIS)


def test_releases_of_one_study_only(store):
    ledger = Ledger(store)
    ledger.append(release(1))
    ledger.append(release(1, study="bb" * 32))
    assert [one.study for one in ledger.releases()] == ["aa" * 32, "bb" * 32]
    assert ledger.releases("bb" * 32) == (release(1, study="bb" * 32),)


def test_the_same_release_cannot_be_charged_twice(store):
    ledger = Ledger(store)
    ledger.append(release(3))
    with pytest.raises(ReleaseRepeated, match=r"run run-1, round 3, attempt 0: its training"):
        ledger.append(release(3))
    with pytest.raises(ReleaseRepeated):
        ledger.append(release(3, time="2026-11-21T11:00:00Z", noise_multiplier=30.0))
    assert len(ledger.entries()) == 1


@pytest.mark.parametrize(
    "change", [{"attempt": 1}, {"purpose": "metrics"}, {"run": "run-2"}, {"study": "bb" * 32}]
)
def test_another_attempt_purpose_run_or_study_is_another_release(store, change):
    ledger = Ledger(store)
    ledger.append(release(3))
    assert not ledger.has(release(3, **change))
    ledger.append(release(3, **change))
    assert ledger.has(release(3, **change))
    assert len(Ledger(store).entries()) == 2


def test_a_rolled_back_line_never_was(store):
    ledger = Ledger(store)
    ledger.append(release(1))
    with pytest.raises(ReleaseRepeated):
        _append_twice(store, ledger)
    assert [line.release.round for line in ledger.entries()] == [1]
    ledger.append(release(3))
    assert [line.release.round for line in Ledger(store).entries()] == [1, 3]


def _append_twice(store: SiteStore, ledger: Ledger) -> None:
    with store.transaction():
        assert ledger.append(release(2)).sequence == 2
        ledger.append(release(2))


def test_lines_of_another_process_are_seen_and_followed(path, store):
    ledger = Ledger(store)
    ledger.append(release(1))
    assert exit_code(_append, path, 2) == 0
    assert ledger.append(release(3)).sequence == 3
    with pytest.raises(ReleaseRepeated):
        ledger.append(release(2))


def _append(path: Path, number: int) -> None:
    with SiteStore(path) as store:
        Ledger(store).append(release(number))


def test_a_changed_line_is_named(path):
    filled(path)
    smaller = release(3, noise_multiplier=2000.0).to_json()
    tamper(path, f"UPDATE ledger SET entry = '{smaller}' WHERE sequence = 3")
    assert "line 3 was changed" in finding(path)


def test_a_changed_last_line_is_named(path):
    filled(path)
    tamper(path, "UPDATE ledger SET hash = zeroblob(32) WHERE sequence = 5")
    assert "line 5 was changed" in finding(path)


def test_a_changed_key_is_named(path):
    filled(path)
    tamper(path, "UPDATE ledger SET key = 'another' WHERE sequence = 4")
    assert "line 4 was changed" in finding(path)


def test_a_removed_line_is_named(path):
    filled(path)
    tamper(path, "DELETE FROM ledger WHERE sequence = 2")
    assert "line 2 was removed" in finding(path)


def test_a_removed_line_with_renumbered_followers_is_named(path):
    filled(path)
    tamper(
        path,
        "DELETE FROM ledger WHERE sequence = 2",
        "UPDATE ledger SET sequence = sequence - 1 WHERE sequence > 2",
    )
    assert "line 2 was changed" in finding(path)


def test_removed_last_lines_are_noticed(path):
    filled(path)
    tamper(path, "DELETE FROM ledger WHERE sequence > 3")
    assert "has 3 lines where 5 were written" in finding(path)


def test_reordered_lines_are_named(path):
    filled(path)
    tamper(
        path,
        "UPDATE ledger SET sequence = 99 WHERE sequence = 2",
        "UPDATE ledger SET sequence = 2 WHERE sequence = 4",
        "UPDATE ledger SET sequence = 4 WHERE sequence = 99",
    )
    assert "line 2 was reordered with line 4" in finding(path)


def test_an_added_line_is_noticed(path):
    filled(path)
    tamper(path, "INSERT INTO ledger SELECT 6, 'new', entry, hash FROM ledger WHERE sequence = 5")
    assert "line 6 was changed" in finding(path)


def test_a_removed_head_is_noticed(path):
    filled(path)
    tamper(path, "DELETE FROM ledger_head")
    assert "has lines but no head" in finding(path)


def test_verify_reads_the_disk_anew(path, store):
    ledger = Ledger(store)
    for number in range(1, 4):
        ledger.append(release(number))
    assert ledger.verify().count == 3
    tamper(path, "UPDATE ledger SET entry = replace(entry, '20.0', '21.0') WHERE sequence = 2")
    with pytest.raises(LedgerDamaged, match="line 2 was changed"):
        ledger.verify()
    with pytest.raises(LedgerDamaged, match="line 2 was changed"):
        ledger.append(release(4))


def test_a_head_written_down_elsewhere_shows_a_swapped_ledger(path, tmp_path):
    filled(path)
    with SiteStore(path) as store:
        head = Ledger(store).head
    other = tmp_path / "other.sqlite"
    with SiteStore(other) as store:
        ledger = Ledger(store)
        for number in range(1, 6):
            ledger.append(release(number, noise_multiplier=99.0))
        assert ledger.head.count == head.count
        assert ledger.head != head


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(2, 6),
    line=st.integers(1, 6),
    column=st.sampled_from(["entry", "hash", "key", "sequence"]),
    position=st.integers(0, 400),
)
def test_no_single_change_goes_unseen(tmp_path_factory, count, line, column, position):
    path = tmp_path_factory.mktemp("ledger") / "site.sqlite"
    filled(path, count)
    line = min(line, count)
    connection = sqlite3.connect(path)
    value = connection.execute(f"SELECT {column} FROM ledger WHERE sequence = {line}").fetchone()[0]
    changed = _one_change(value, position)
    try:
        connection.execute(f"UPDATE ledger SET {column} = ? WHERE sequence = {line}", (changed,))
        connection.commit()
    except sqlite3.IntegrityError:
        return  # It became another line's key, which the file itself does not take.
    finally:
        connection.close()
    finding(path)


def _one_change(value, position):
    if isinstance(value, int):
        return value + 100
    position %= len(value)
    if isinstance(value, bytes):
        return value[:position] + bytes([value[position] ^ 1]) + value[position + 1 :]
    return value[:position] + chr(ord(value[position]) ^ 1) + value[position + 1 :]
