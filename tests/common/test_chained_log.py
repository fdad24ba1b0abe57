"""Chained logs: every change of the file is found and named; every crash leaves a sound log."""

import errno
import os
import re
from pathlib import Path

import pytest
from apart import start
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_common import chained_log
from fedrx_common.chained_log import ChainFile, LogUnwritable
from fedrx_common.hash_chain import (
    ChainBroken,
    ChainHead,
    ChainHeadMistyped,
    genesis,
    next_line,
    verify_lines,
)


def lines_of(count):
    head, lines = genesis("test"), []
    for number in range(1, count + 1):
        lines.append(next_line(head, {"n": number}))
        head = lines[-1].head
    return [line.to_bytes() for line in lines]


FIVE = lines_of(5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.log"


@pytest.fixture
def log(path):
    log = ChainFile(path, "test")
    for number in range(1, 6):
        log.append({"n": number})
    return log


def rewrite(path: Path, lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def test_the_chain_is_frozen():
    assert (
        genesis("test").hash.hex()
        == "84e0b5f06b8089fee4c5f36f4cf254fa0184a94c63e538803ad21483e9b7f793"
    )
    assert FIVE[0] == (
        b'{"entry":{"n":1},"hash":"f1ec7b538da03a09dd851f8b23915ac6c2fc68ef12f9ec2d72668a435e142010","number":1}'
    )


def test_lines_come_back_and_the_file_is_what_was_computed(log, path):
    assert [line.entry["n"] for line in log.lines()] == [1, 2, 3, 4, 5]
    assert path.read_bytes().split(b"\n")[:-1] == FIVE
    assert log.verify() == ChainFile(path, "test").verify()
    assert log.verify().count == 5


def test_only_the_owner_may_read_it(log, path):
    for each in (path, path.with_name("some.log.head")):
        assert each.stat().st_mode & 0o777 == 0o600


def test_an_empty_log_is_no_file(path):
    log = ChainFile(path, "test")
    assert log.lines() == ()
    assert log.verify() == genesis("test")
    assert not path.exists()


def test_a_log_of_another_kind_does_not_verify(log, path):
    with pytest.raises(ChainBroken, match="line 1 was changed"):
        ChainFile(path, "other")


@pytest.mark.parametrize(
    ("order", "finding"),
    [
        ([1, 2, 4, 5], "line 3 was removed"),
        ([2, 3, 4, 5], "line 1 was removed"),
        ([1, 2, 3, 4], "line 5 was removed from the end"),
        ([], "line 1 was removed from the end"),
        ([1, 3, 2, 4, 5], "line 2 was reordered"),
        ([1, 2, 2, 3, 4, 5], "line 3 was reordered"),
        ([1, 2, 3, 4, 5, 5], "line 6 was changed"),
    ],
)
def test_removed_and_reordered_lines_are_named(log, path, order, finding):
    rewrite(path, [FIVE[number - 1] for number in order])
    for look in (lambda: ChainFile(path, "test"), log.verify, log.lines):
        with pytest.raises(ChainBroken, match=f"some.log: {finding}"):
            look()


@settings(max_examples=150)
@given(where=st.integers(0, sum(map(len, FIVE)) + 4), byte=st.integers(0, 255))
def test_any_changed_byte_is_found_and_its_line_named(where, byte):
    data = bytearray(b"\n".join(FIVE))
    if where >= len(data) or data[where] == byte:
        return
    line = data[:where].count(b"\n") + 1
    data[where] = byte
    with pytest.raises(ChainBroken) as caught:
        list(verify_lines(genesis("test"), bytes(data).split(b"\n")))
    named = int(re.search(r"line (\d)", str(caught.value))[1])
    assert named == line


def test_a_changed_line_with_a_hash_of_its_own(log, path):
    """Recomputing one hash is not enough: the next line holds the old one."""
    forged = next_line(ChainHead(2, bytes.fromhex(hash_of(FIVE[1]))), {"n": 99}).to_bytes()
    rewrite(path, [*FIVE[:2], forged, *FIVE[3:]])
    with pytest.raises(ChainBroken, match="line 4 was changed"):
        log.verify()


def hash_of(line: bytes) -> str:
    return re.search(rb'"hash":"(\w+)"', line)[1].decode()


def test_a_head_that_was_replaced_or_is_unreadable(log, path):
    head = path.with_name("some.log.head")
    good = head.read_text()
    for text, finding in (
        ("nonsense", "head is unreadable"),
        (f"{2:020d} {hash_of(FIVE[1])}", "head was replaced"),
        (f"{5:020d} {'0' * 64}", "head was replaced"),
    ):
        head.write_text(text)
        with pytest.raises(ChainBroken, match=finding):
            log.verify()
    head.unlink()
    with pytest.raises(ChainBroken, match="head was replaced by that of 0 lines"):
        log.verify()
    head.write_text(good)
    assert log.verify().count == 5


def test_a_crash_between_line_and_head(log, path):
    path.with_name("some.log.head").write_text(f"{4:020d} {hash_of(FIVE[3])}")
    assert log.verify().count == 5
    again = ChainFile(path, "test")
    again.append({"n": 6})
    assert again.verify().count == 6


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_line_was_never_acknowledged(log, path, cut):
    sixth = lines_of(6)[5]
    with path.open("ab") as file:
        file.write(sixth[:cut])
    again = ChainFile(path, "test")
    assert again.verify().count == 5
    for writer in (again, log):  # the one that knew the file before, too
        writer.append({"n": 6})
    assert [line.number for line in log.lines()] == [1, 2, 3, 4, 5, 6, 7]


def test_a_lost_line_end_is_no_torn_line(log, path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ChainBroken, match="line 5 was removed"):
        log.verify()


def test_a_full_disk_adds_nothing(log, path, monkeypatch):
    def full(descriptor, data):
        os.write(descriptor, data[:7])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = path.read_bytes()
    monkeypatch.setattr(chained_log, "write_all", full)
    with pytest.raises(LogUnwritable, match="No space left"):
        log.append({"n": 6})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert log.append({"n": 6}).number == 6
    assert log.verify().count == 6


def test_every_line_is_synced_before_append_returns(log, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(chained_log.os, "fsync", lambda fd: (synced.append(fd), real(fd)))
    log.append({"n": 6})
    assert len(synced) == 2  # the line, then the head


def test_a_log_that_is_a_folder_or_cannot_be_made(tmp_path):
    with pytest.raises(LogUnwritable, match="Is a directory"):
        ChainFile(tmp_path, "test").append({})
    with pytest.raises(LogUnwritable, match="No such file"):
        ChainFile(tmp_path / "nowhere" / "x.log", "test").append({})


def write_many(path, who, count):
    log = ChainFile(path, "test")
    for number in range(count):
        log.append({"who": who, "n": number})


def test_processes_write_one_chain(path):
    writers = [start(write_many, path, who, 15) for who in (1, 2, 3)]
    for writer in writers:
        writer.communicate()
    lines = ChainFile(path, "test").lines()
    assert len(lines) == 45
    for who in (1, 2, 3):
        assert [x.entry["n"] for x in lines if x.entry["who"] == who] == list(range(15))


def test_heads_are_copied_by_hand():
    head = genesis("test")
    assert ChainHead.parse(f" {head}\n") == head
    for text in ("", "5", "x:" + "0" * 64, "5:" + "0" * 63):
        with pytest.raises(ChainHeadMistyped, match="COUNT:HASH"):
            ChainHead.parse(text)
