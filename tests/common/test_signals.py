"""A process that is told to end twice ends once."""

import os
import signal
import threading

import pytest

from fedrx_common.signals import ENDINGS, on_ending


@pytest.fixture(autouse=True)
def handlers():
    before = [signal.getsignal(number) for number in ENDINGS]
    yield
    for number, handler in zip(ENDINGS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("first", ENDINGS)
@pytest.mark.parametrize("second", ENDINGS)
def test_a_second_signal_does_not_run_within_the_first(first, second):
    lock, acted = threading.Lock(), []

    def act() -> None:
        assert lock.acquire(timeout=1)
        os.kill(os.getpid(), second)
        acted.append(first)
        lock.release()

    on_ending(act)
    os.kill(os.getpid(), first)
    assert acted == [first]


def test_what_it_raises_comes_out_where_the_signal_came():
    def act() -> None:
        raise InterruptedError

    on_ending(act)
    with pytest.raises(InterruptedError):
        os.kill(os.getpid(), signal.SIGTERM)
