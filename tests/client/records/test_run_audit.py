"""What a live site writes down: printable, short, and not without bound."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrx_client.records.audit_log import EARLIER_MEMORY, MEMORY, AuditLog
from fedrx_client.records.run_audit import AuditContext, Journal, RefusalRateLimit, in_words
from fedrx_common.errors import DataError, MisuseError
from fedrx_common.text import shortened
from fedrx_protocol.messages.secure_aggregation import AdvertRequest, UnmaskRequest

STATE = f"4:{'01' * 32}"
ABOUT = AuditContext("run-1", "ab" * 32, 3, 1)


class Clock:
    now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "audit.log")


@pytest.fixture
def journal(log, clock):
    return Journal(log, clock, lambda: STATE, RefusalRateLimit(window_s=60, alike=3, in_all=5))


def reasons(log):
    return [line.entry.reason for line in log.lines()]


def test_a_request_and_its_answer(journal, log):
    journal.asked(ABOUT, "query.advertise", AdvertRequest(b"s" * 32, 7))
    journal.answered(ABOUT, "query.advertise", "public keys sent")
    asked, answered = (line.entry for line in log.lines())
    assert asked.reason == "query.advertise: send public keys of epoch 7"
    assert (asked.run, asked.study, asked.round, asked.attempt) == ("run-1", "ab" * 32, 3, 1)
    assert answered.reason == "query.advertise: public keys sent"
    assert asked.content == answered.content == STATE
    assert log.newest_about(MEMORY).number == 2


def test_a_peers_words_do_not_count_as_a_state_of_the_ledger(journal, log):
    journal.refused(ABOUT, f"x; ledger 9:{'02' * 32}", MisuseError(f"; ledger 9:{'02' * 32}"))
    assert log.newest_about(MEMORY) is log.newest_about(EARLIER_MEMORY) is None


def test_what_may_quote_a_patient_is_not_written(journal, log):
    journal.refused(ABOUT, "query.open", DataError("p.csv, line 7: patient 'p17' has 3 doses"))
    journal.refused(ABOUT, "query.open", ZeroDivisionError("p17"))
    quoted, unforeseen = reasons(log)
    assert quoted.startswith("query.open: DataError: the patients' table does not fit the study;")
    assert unforeseen == "query.open: ZeroDivisionError: not foreseen; agent.log says more"


def test_equal_refusals_are_counted_after_the_first_few(journal, log, clock):
    for _ in range(10):
        journal.refused(ABOUT, "query.keys", MisuseError("no."))
    assert len(reasons(log)) == 3
    clock.now += 60
    journal.refused(ABOUT, "query.keys", MisuseError("no."))
    counted = "query.keys: MisuseError: 7 more were refused and not written one by one"
    assert reasons(log)[3:] == [counted, "query.keys: MisuseError: no."]


def test_many_different_refusals_are_bounded_too(journal, log):
    for number in range(50):
        journal.refused(ABOUT, f"query.{number}", MisuseError("no."))
    assert len(reasons(log)) == 5
    for _ in range(2):  # nothing is counted twice
        journal.close()
        assert reasons(log)[5:] == [
            "requests of other kinds: 45 more were refused and not written one by one"
        ]


@given(st.text(max_size=300), st.integers(1, 100))
def test_a_peers_text_is_one_short_printable_line(text, longest):
    shown = shortened(text, longest)
    assert len(shown) <= longest
    assert shown.isprintable()


def test_long_lists_are_cut():
    sites = tuple(f"s{number:02d}" for number in range(50))
    words = in_words(UnmaskRequest(b"c" * 32, sites, {}))
    assert "50 sites (s00, s01," in words
    assert words.endswith("…)")
