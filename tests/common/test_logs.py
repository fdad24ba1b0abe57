"""Where a process's log lines go: a file of bounded size, for this user alone where asked."""

import logging
import stat

import pytest

from fedrx_common.files import FolderUnusable
from fedrx_common.logs import log_to


@pytest.fixture
def loggers():
    root, ours = logging.getLogger(), logging.getLogger("fedrx_tested")
    handlers, levels, raising = (
        list(root.handlers),
        (root.level, ours.level),
        logging.raiseExceptions,
    )
    yield ours
    for handler in [one for one in root.handlers if one not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.raiseExceptions = raising


def test_lines_of_the_wanted_level_reach_the_file_and_the_console(tmp_path, loggers, capsys):
    log = tmp_path / "one.log"
    levels = {"": logging.WARNING, "fedrx_tested": "INFO"}
    log_to(log, most_bytes=10_000, older_files=1, levels=levels, form="%(levelname)s %(message)s")
    loggers.info("seen")
    loggers.debug("too little")
    logging.getLogger("another").info("another's")
    assert log.read_text() == "INFO seen\n"
    assert capsys.readouterr().err == "INFO seen\n"


def test_a_process_without_a_console_writes_to_the_file_only(tmp_path, loggers, capsys):
    log_to(tmp_path / "one.log", most_bytes=10_000, older_files=1, console=False)
    loggers.warning("seen")
    assert (tmp_path / "one.log").read_text().endswith("WARNING seen\n")
    assert capsys.readouterr().err == ""


def test_a_full_file_is_put_aside_and_the_oldest_is_dropped(tmp_path, loggers):
    log_to(tmp_path / "one.log", most_bytes=100, older_files=2, console=False)
    for number in range(50):
        loggers.warning("line %d of fifty", number)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["one.log", "one.log.1", "one.log.2"]
    assert all(one.stat().st_size <= 100 for one in tmp_path.iterdir())


def test_a_private_log_is_readable_by_this_user_alone_in_each_of_its_files(tmp_path, loggers):
    log_to(tmp_path / "one.log", most_bytes=60, older_files=1, private=True, console=False)
    for _ in range(5):
        loggers.warning("a trace could quote a patient")
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
    assert modes == {"one.log": 0o600, "one.log.1": 0o600}


def test_a_log_that_cannot_be_written_is_named(tmp_path, loggers):
    with pytest.raises(FolderUnusable, match=r"gone/one\.log: cannot be written"):
        log_to(tmp_path / "gone" / "one.log", most_bytes=100, older_files=1)
