"""The site's audit log: what it holds, that it is on disk at once, and that changes are found."""

import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_client.records.audit_log import AuditDamaged, AuditEntry, AuditEntryInvalid, AuditLog
from fedrx_common.chained_log import ChainFile, LogUnwritable
from fedrx_common.hash_chain import ChainHead

NOW = 1_800_000_000


def entry(**changes):
    values = {
        "time": NOW,
        "kind": "request",
        "reason": "TRAIN asked for by the coordinator",
        "study": "ab" * 32,
        "run": "run-7",
        "round": 3,
        "attempt": 0,
    }
    return AuditEntry(**(values | changes))


SOME = [
    entry(kind="start", study="", run="", round=None, attempt=None, reason="agent started"),
    entry(),
    entry(kind="refusal", reason="the study was not approved here; 'ε' über 2"),
    entry(kind="answer", time=NOW + 1, reason="masked vector of 40 numbers"),
    entry(kind="stop", reason="agent stopped"),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.log"


@pytest.fixture
def log(path):
    log = AuditLog(path)
    for each in SOME:
        log.record(each)
    return log


def test_entries_come_back_in_order(log, path):
    for each in (log, AuditLog(path)):
        assert [line.entry for line in each.lines()] == SOME
        assert [line.number for line in each.lines()] == [1, 2, 3, 4, 5]
        assert each.verify().count == 5


def test_a_recorded_line_is_on_disk(path):
    log = AuditLog(path)
    line = log.record(entry())
    (written,) = path.read_text().splitlines()
    assert json.loads(written)["entry"]["reason"] == "TRAIN asked for by the coordinator"
    assert json.loads(written)["hash"] == line.hash.hex()


def test_a_line_for_people():
    assert str(entry()) == (
        "2027-01-15 08:00:00Z  request  study abababababab, run-7  round 3, attempt 0  "
        "TRAIN asked for by the coordinator"
    )
    assert str(SOME[0]) == "2027-01-15 08:00:00Z  start  agent started"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "gossip"}, "one of start, stop"),
        ({"reason": ""}, "its reason"),
        ({"reason": "  "}, "its reason"),
        ({"reason": "x" * 1001}, "1 to 1000"),
        ({"study": "x" * 201}, "too long"),
        ({"run": "x" * 201}, "too long"),
        ({"round": -1}, "whole numbers"),
        ({"attempt": 1.5}, "whole numbers"),
        ({"time": -1}, "whole numbers"),
        ({"time": float(NOW)}, "whole numbers"),
    ],
)
def test_entries_that_say_nothing(change, says):
    with pytest.raises(AuditEntryInvalid, match=says):
        entry(**change)


def test_any_text_a_peer_may_send_is_one_line(tmp_path_factory):
    @settings(deadline=None)
    @given(st.text(min_size=1, max_size=50).filter(str.strip))
    def check(text):
        path = tmp_path_factory.mktemp("log") / "audit.log"
        log = AuditLog(path)
        log.record(entry(reason=text, run=text[:200]))
        assert path.read_bytes().count(b"\n") == 1
        assert AuditLog(path).lines()[0].entry.reason == text

    check()


@pytest.mark.parametrize(
    ("edit", "finding"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"run-7", b"run-8"), *lines[2:]],
         "line 2 was changed"),
        (lambda lines: [*lines[:2], lines[2].replace(b"refusal", b"answer"), *lines[3:]],
         "line 3 was changed"),
        (lambda lines: lines[:2] + lines[3:], "line 3 was removed"),
        (lambda lines: lines[:4], "line 5 was removed from the end"),
        (lambda lines: [*lines[:3], lines[4], lines[3]], "line 4 was reordered"),
    ],
)  # fmt: skip
def test_tampering_is_named(log, path, edit, finding):
    path.write_bytes(b"".join(edit(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(AuditDamaged, match=finding):
        log.verify()
    with pytest.raises(AuditDamaged, match=finding):
        AuditLog(path)


def test_a_log_that_was_shortened_takes_no_new_line(log, path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(AuditDamaged, match="line 4 was removed"):
        log.record(entry())


def test_a_log_replaced_whole_is_found_by_a_noted_head(log, path):
    noted = log.verify()
    log.record(entry(reason="more"))
    assert log.verify(noted).count == 6
    assert log.verify(ChainHead(0, bytes(32))).count == 6
    path.unlink()
    path.with_name("audit.log.head").unlink()
    replaced = AuditLog(path)
    with pytest.raises(AuditDamaged, match="line 5 is not the one that was noted"):
        replaced.verify(noted)
    for number in range(6):
        replaced.record(entry(round=number))
    assert replaced.verify().count == 6
    with pytest.raises(AuditDamaged, match="replaced"):
        replaced.verify(noted)


def test_a_line_of_another_release(path):
    ChainFile(path, "site audit").append({"kind": "request", "mood": "good"})
    with pytest.raises(AuditDamaged, match=r"line 1 .*the release that wrote it"):
        AuditLog(path).lines()


def test_a_log_that_cannot_be_written(tmp_path):
    with pytest.raises(LogUnwritable, match="cannot be read or written"):
        AuditLog(tmp_path / "missing" / "audit.log").record(entry())


def test_threads_write_one_chain(path):
    log, other = AuditLog(path), AuditLog(path)

    def write(which):
        for number in range(20):
            which.record(entry(round=number))

    threads = [threading.Thread(target=write, args=(each,)) for each in (log, log, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert AuditLog(path).verify().count == 60


# --- files put aside ---


@pytest.fixture
def turned(path):
    """A log of twelve lines in several files."""
    log = AuditLog(path, longest_bytes=800)
    for number in range(12):
        log.record(entry(round=number))
    assert len(list(path.parent.glob("audit.log.000?"))) >= 3
    return log


def test_a_long_file_is_put_aside_and_the_chain_goes_on(turned, path):
    for log in (turned, AuditLog(path), AuditLog(path, longest_bytes=800)):
        assert [line.entry.round for line in log.lines()] == list(range(12))
        assert [line.number for line in log.lines()] == list(range(1, 13))
        head = log.verify()
        assert head.count == 12
    seventh = turned.lines()[6]
    AuditLog(path).record(entry(round=12))
    assert AuditLog(path).verify(ChainHead(7, seventh.hash)).count == 13
    with pytest.raises(AuditDamaged, match="line 7 is not the one"):
        AuditLog(path).verify(ChainHead(7, head.hash))


def test_a_changed_lost_or_exchanged_file_is_found(turned, path):
    aside = sorted(path.parent.glob("audit.log.000?"))
    kept = {one: one.read_bytes() for one in path.parent.iterdir()}
    aside[0].write_bytes(kept[aside[0]].replace(b"run-7", b"run-8"))
    with pytest.raises(AuditDamaged, match="changed"):
        AuditLog(path).lines()
    aside[0].write_bytes(kept[aside[0]])
    for first, second in ((aside[0], aside[1]), (aside[1], aside[0])):
        first.write_bytes(kept[second])
        head = second.with_name(second.name + ".head")
        first.with_name(first.name + ".head").write_bytes(kept[head])
    with pytest.raises(AuditDamaged):
        AuditLog(path).lines()
    for one, data in kept.items():
        one.write_bytes(data)
    assert AuditLog(path).verify().count == 12
    aside[1].unlink()
    with pytest.raises(AuditDamaged):
        AuditLog(path).lines()


def test_a_head_that_is_missing_is_named(turned, path):
    path.with_name("audit.log.0001.head").unlink()
    with pytest.raises(AuditDamaged, match=r"audit.log.0001.head: is missing"):
        AuditLog(path)


def test_a_crash_while_a_file_is_put_aside(turned, path):
    while path.exists():  # until the last line has filled a file
        turned.record(entry(round=99))
    aside = max(path.parent.glob("audit.log.000?"))
    aside.with_name(aside.name + ".head").rename(path.with_name("audit.log.head"))
    count = AuditLog(path).verify().count
    AuditLog(path).record(entry(round=100))
    assert AuditLog(path).verify().count == count + 1


def test_two_writers_put_files_aside_together(path):
    writers = [AuditLog(path, longest_bytes=800), AuditLog(path, longest_bytes=800)]
    for number in range(20):
        writers[number % 2].record(entry(round=number))
    assert [line.entry.round for line in AuditLog(path).lines()] == list(range(20))
