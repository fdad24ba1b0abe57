"""The run folder: made in one step, bound to its study, refused wherever it cannot be trusted."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fedrx_common.errors import MisuseError, RunError
from fedrx_protocol.study.study import Study
from fedrx_server.runs.folder import RoundRecord, RunFolder

STUDY = Study.parse(
    """
    name = "dose"
    title = "Café study"
    [cohort]
    patients = 100
    largest_site = 50
    [model]
    name = "linear"
    [training]
    rounds = 20
    [metrics]
    evaluations = 2
    [[features]]
    name = "age"
    kind = "number"
    unit = "years"
    minimum = 0
    maximum = 100
    mean = 60
    scale = 15
    [target]
    name = "dose"
    unit = "mg/week"
    minimum = 1
    maximum = 200
    mean = 35
    scale = 15
    """
)


def record(number: int, **changes) -> RoundRecord:
    values = {
        "round": number,
        "attempt": 0,
        "participants": 5,
        "survivors": 4,
        "dropped": 1,
        "metrics": None,
        "bytes_up": 100,
        "bytes_down": 200,
        "seconds": 0.5,
    }
    return RoundRecord(**{**values, **changes})


def weights(number: int) -> np.ndarray:
    return np.arange(4, dtype=np.float32) + np.float32(number)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "one"


@pytest.fixture
def folder(path):
    with RunFolder.create(path, STUDY, '{"sites":[]}', {"seed": 3}) as folder:
        yield folder


def reopened(path, **options) -> RunFolder:
    return RunFolder.open(path, STUDY, **options)


def test_a_new_folder_holds_what_was_agreed(path, folder):
    assert folder.roster_json == '{"sites":[]}'
    assert folder.meta == {"seed": 3}
    assert folder.latest_checkpoint() is None
    assert folder.load_pending() is None
    assert folder.rounds == ()
    assert [entry.name for entry in path.parent.iterdir()] == ["one"]
    folder.close()
    with RunFolder.open(path) as again:
        assert again.study == STUDY


def test_the_study_file_is_kept_as_it_was_written(path):
    text = "# ours\nname = 'dose'\n"
    with RunFolder.create(path, STUDY, "{}", {}, study_text=text):
        assert (path / "study.toml").read_text() == text


def test_an_empty_folder_may_become_a_run_folder(path):
    path.mkdir(parents=True)
    RunFolder.create(path, STUDY, "{}", {}).close()
    reopened(path).close()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_already_is_left_alone(path, kind):
    path.parent.mkdir(parents=True)
    if kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="exists already; name a new folder"):
        RunFolder.create(path, STUDY, "{}", {})
    assert path.read_text() == "mine" if kind == "file" else (path / "notes.txt").exists()


def test_meta_that_is_no_json_leaves_no_folder(path):
    with pytest.raises(TypeError):
        RunFolder.create(path, STUDY, "{}", {"when": object()})
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be made .*name a folder that can be written"):
        RunFolder.create(tmp_path / "file" / "run", STUDY, "{}", {})


def test_a_failed_rename_leaves_nothing(path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(RunError, match="No space left"):
        RunFolder.create(path, STUDY, "{}", {})
    assert list(path.parent.iterdir()) == []


def test_a_folder_of_another_study_is_refused_with_both_digests(path, folder):
    folder.close()
    other = STUDY.with_(privacy={"epsilon": 3.0})
    with pytest.raises(RunError) as caught:
        RunFolder.open(path, other)
    assert STUDY.digest[:16] in str(caught.value)
    assert other.digest[:16] in str(caught.value)


def test_what_is_no_run_folder_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run folder"):
        reopened(tmp_path / "nowhere")
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(RunError, match="is not a run folder"):
        reopened(tmp_path)


def test_a_folder_in_use_is_refused(path, folder):
    with pytest.raises(RunError, match="another process is using this run folder"):
        reopened(path)
    folder.close()
    folder.close()
    reopened(path).close()


def test_a_closed_folder_is_free_though_a_forked_process_kept_its_descriptors(path, folder):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(0)
    try:
        folder.close()
        reopened(path).close()
    finally:
        os.write(writer, b"x")
        os.waitpid(child, 0)


def test_the_lock_of_a_killed_process_is_gone(path, folder):
    folder.close()
    code = (
        "import os, sys; from fedrx_server.runs.folder import RunFolder; "
        "RunFolder.open(sys.argv[1]); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert done.returncode == -9
    reopened(path).close()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("study.json", "{", "study.json: is damaged"),
        ("study.json", "[]", "study.json: is damaged"),
        ("study.json", '{"digest": "00", "study": {}}', "study.json: is damaged"),
        ("meta.json", "{}", "run folder of format None, this program knows 1"),
        ("counters.json", '{"epoch": 1, "other": 2}', "counters.json: is damaged"),
        ("rounds.jsonl", "{}\n", "rounds.jsonl: is damaged"),
        ("rounds.jsonl", "no json\n", "rounds.jsonl: is damaged"),
    ],
)
def test_a_damaged_file_is_named(path, folder, name, content, sentence):
    folder.close()
    (path / name).write_text(content)
    with pytest.raises(RunError, match=sentence):
        reopened(path)
    with pytest.raises(RunError, match=sentence):  # and the lock was let go
        reopened(path)


def test_a_changed_study_is_noticed(path, folder):
    folder.close()
    document = json.loads((path / "study.json").read_text())
    document["study"]["privacy"]["epsilon"] = 100.0
    (path / "study.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match="was changed, or written by another version"):
        RunFolder.open(path)


def test_a_saved_round_comes_back_after_reopening(path, folder):
    state = {"momentum": np.full(4, 0.5), "step": np.array(7)}
    finished = record(1, metrics={"mae": 8.25})
    folder.save_round(finished, weights(1), state)
    folder.close()
    with reopened(path) as again:
        checkpoint = again.latest_checkpoint()
        assert again.rounds == (finished,) == (checkpoint.record,)
    assert checkpoint.weights.dtype == np.float32
    np.testing.assert_array_equal(checkpoint.weights, weights(1))
    assert checkpoint.optimizer_state.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(checkpoint.optimizer_state[name], value)
        assert checkpoint.optimizer_state[name].shape == value.shape


@pytest.mark.parametrize("number", [1, 2])
def test_a_round_is_counted_once(folder, number):
    folder.save_round(record(2), weights(2))
    with pytest.raises(RunError, match=rf"round {number} was counted already; .* is 2\."):
        folder.save_round(record(number), weights(9))
    np.testing.assert_array_equal(folder.latest_checkpoint().weights, weights(2))


def test_the_newest_and_the_evaluated_checkpoints_are_kept(path):
    with RunFolder.create(path, STUDY, "{}", {}, keep=2, durability="process") as folder:
        for number in range(1, 22):
            folder.save_round(record(number), weights(number))
        kept_round = STUDY.evaluation_rounds[1]
        kept = sorted(entry.name for entry in (path / "checkpoints").iterdir())
        expected = sorted({*STUDY.evaluation_rounds, 20, 21})
        assert kept == [f"round-{number:04d}.safetensors" for number in expected]
        np.testing.assert_array_equal(folder.checkpoint(kept_round).weights, weights(kept_round))
        with pytest.raises(RunError, match=r"round-0019.* was not kept or is missing"):
            folder.checkpoint(19)


def test_at_least_one_checkpoint_must_be_kept(path):
    with pytest.raises(MisuseError, match="keep is 0"):
        RunFolder.create(path, STUDY, "{}", {}, keep=0)


def test_a_damaged_checkpoint_is_named(path, folder):
    folder.save_round(record(1), weights(1))
    file = path / "checkpoints" / "round-0001.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(RunError, match=r"round-0001\.safetensors: is damaged"):
        folder.latest_checkpoint()


def test_a_missing_checkpoint_is_noticed(path, folder):
    for number in (1, 2):
        folder.save_round(record(number), weights(number))
    folder.close()
    (path / "checkpoints" / "round-0002.safetensors").unlink()
    with pytest.raises(RunError, match="round 2 was counted, but its checkpoint is missing"):
        reopened(path)


def test_a_checkpoint_of_another_run_is_refused(path, folder, tmp_path):
    folder.save_round(record(1), weights(1))
    other = tmp_path / "other"
    study = STUDY.with_(privacy={"epsilon": 2.0})
    with RunFolder.create(other, study, "{}", {}) as another:
        another.save_round(record(1), weights(5))
    name = "checkpoints/round-0001.safetensors"
    (path / name).write_bytes((other / name).read_bytes())
    with pytest.raises(RunError, match="is a checkpoint of another run"):
        folder.latest_checkpoint()


def test_a_torn_last_line_is_repaired(path, folder):
    for number in (1, 2):
        folder.save_round(record(number), weights(number))
    folder.close()
    lines = (path / "rounds.jsonl").read_bytes()
    (path / "rounds.jsonl").write_bytes(lines[:-20])
    with reopened(path) as again:
        assert again.rounds == (record(1), record(2))
    assert (path / "rounds.jsonl").read_bytes() == lines


def test_what_an_interrupted_write_left_is_removed(path, folder):
    folder.close()
    left = path / "checkpoints" / "round-0001.safetensors.partial"
    left.write_bytes(b"half")
    with reopened(path) as again:
        assert again.latest_checkpoint() is None
    assert not left.exists()


def test_pending_state_survives_and_ends_with_its_round(path, folder):
    folder.save_pending(1, b"\x00state")
    folder.close()
    with reopened(path) as again:
        assert again.load_pending() == (1, b"\x00state")
        again.save_round(record(1), weights(1))
        assert again.load_pending() is None
        again.save_pending(2, b"next")
        again.clear_pending()
        again.clear_pending()
        assert again.load_pending() is None


def test_pending_state_of_a_counted_round_is_not_believed(path, folder):
    folder.save_pending(1, b"state")
    stale = (path / "pending.bin").read_bytes()
    folder.save_round(record(1), weights(1))
    (path / "pending.bin").write_bytes(stale)
    assert folder.load_pending() is None


@pytest.mark.parametrize("change", ["short", "flipped", "magic"])
def test_damaged_pending_state_is_refused(path, folder, change):
    folder.save_pending(1, b"state" * 10)
    data = bytearray((path / "pending.bin").read_bytes())
    if change == "flipped":
        data[-1] ^= 1
    elif change == "magic":
        data[0] ^= 1
    (path / "pending.bin").write_bytes(data[:20] if change == "short" else data)
    with pytest.raises(RunError, match=r"pending\.bin: is damaged"):
        folder.load_pending()


def test_epochs_and_attempts_are_never_given_twice(path, folder):
    assert [folder.reserve_epoch(), folder.reserve_epoch()] == [1, 2]
    assert [folder.reserve_attempt(1), folder.reserve_attempt(1)] == [0, 1]
    folder.close()
    with reopened(path) as again:
        assert again.reserve_epoch() == 3
        assert [again.reserve_attempt(1), again.reserve_attempt(2)] == [2, 0]
        with pytest.raises(RunError, match="round 1 cannot be attempted after round 2"):
            again.reserve_attempt(1)


def test_the_result_is_json(folder):
    folder.write_result({"metrics": {"mae": 8.3}, "title": "Café"})
    assert json.loads(folder.result_path.read_text(encoding="utf-8"))["title"] == "Café"
    assert folder.report_path.parent == folder.path


@pytest.mark.parametrize(
    "change", [{"round": 0}, {"attempt": -1}, {"survivors": 5}, {"participants": 6}]
)
def test_an_impossible_record_is_refused(change):
    with pytest.raises(MisuseError, match=r"no such round|are not"):
        replace(record(1), **change)
