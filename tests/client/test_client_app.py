"""The ClientApp: what goes back is a protocol message or the name of a reason, nothing else."""

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from small_consortium import Stage, small_cohort, small_study, staged

from fedrx_client.app import make_client_app
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.secure_aggregation import AdvertList, AdvertRequest
from fedrx_simulation.federation.inprocess import InProcessGrid


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def ask(grid, content, kind, node=1000):
    """One message to one node; its reply's content."""
    (reply,) = grid.send_and_receive([Message(content, node, kind, group_id="test")])
    return reply.content


def header(data: bytes, payload: bytes | None = None) -> RecordDict:
    content = RecordDict({"fedrx": ConfigRecord({"header": data})})
    if payload is not None:
        array = Array("float32", (len(payload) // 4,), "fedrx.raw", payload)
        content["payload"] = ArrayRecord({"vector": array})
    return content


def refusal(content) -> str:
    """The reason, after checking that it is all there is."""
    assert dict(content.array_records) == {}
    assert dict(content.metric_records) == {}
    assert list(content.config_records) == ["fedrx"]
    assert list(content["fedrx"]) == ["refusal"]
    return content["fedrx"]["refusal"]


def advertise(stage, grid, epoch=1):
    request = AdvertRequest(stage.session, epoch)
    return ask(grid, header(codec.encode(request)), "query.advertise")


def ready(stage):
    """A grid whose sites have accepted each other's keys."""
    stage.new_epoch()
    return stage.grid()


class TestAnswers:
    def test_a_masked_vector_comes_back_as_header_and_raw_words(self, stage):
        grid = ready(stage)
        request = codec.encode(stage.request(1))
        content = ask(grid, header(request, stage.start.tobytes()), "train.masked")
        array = content["payload"]["vector"]
        masked = codec.decode_masked(content["fedrx"]["header"], array.data)
        assert masked.site == "site0"
        assert masked.vector.size == len(stage.start) == array.shape[0]
        assert array.dtype == "uint32"

    def test_nothing_about_the_site_travels_beside_the_message(self, stage):
        grid = ready(stage)
        request = codec.encode(stage.request(1))
        content = ask(grid, header(request, stage.start.tobytes()), "train.masked")
        assert sorted(content) == ["fedrx", "payload"]
        assert list(content["fedrx"]) == ["header"]
        assert list(content["payload"]) == ["vector"]

    def test_the_same_epoch_gives_the_same_advert(self, stage):
        grid = stage.grid()
        first = advertise(stage, grid)["fedrx"]["header"]
        assert advertise(stage, grid)["fedrx"]["header"] == first
        assert advertise(stage, grid, epoch=2)["fedrx"]["header"] != first


class TestRefusals:
    @pytest.mark.parametrize(
        ("kind", "content"),
        [
            ("query.advertise", RecordDict()),
            ("query.advertise", header(b"")),
            ("query.advertise", header(b"{}")),
            ("query.advertise", header(b"\xff\xfe")),
            ("query.advertise", RecordDict({"fedrx": ConfigRecord({"header": "text"})})),
            ("query.advertise", RecordDict({"fedrx": ConfigRecord({"other": b""})})),
            ("query.keys", header(b"[]")),
            ("train.masked", header(b'{"type":"round"}')),
            ("query.resolve", header(b"null")),
            ("query.unmask", header(b"1")),
        ],
    )
    def test_what_cannot_be_read(self, stage, kind, content):
        assert refusal(ask(stage.grid(), content, kind)) == "MalformedMessage"

    def test_a_model_that_is_missing_cut_or_wrong(self, stage):
        grid = ready(stage)
        request, model = codec.encode(stage.request(1)), stage.start.tobytes()
        reasons = [
            refusal(ask(grid, content, "train.masked"))
            for content in (
                header(request),
                header(request, model[:-1]),
                header(request, model[:-4]),
                header(request, bytes(len(model))),
            )
        ]
        malformed, mismatch = ["MalformedMessage"] * 2, ["ModelMismatch"] * 2
        assert reasons == malformed + mismatch
        assert stage.releases("site0") == []

    def test_no_keys_yet(self, stage):
        stage.new_epoch()
        request = header(codec.encode(stage.request(1)), stage.start.tobytes())
        stage.restart("site0")
        assert refusal(ask(stage.grid(), request, "train.masked")) == "OutOfOrder"

    def test_a_reasons_sentence_stays_at_the_site(self, stage, caplog):
        stage.cohorts["site0"] = small_cohort(stage.study, "site0", 7)
        with caplog.at_level(logging.WARNING, "fedrx_client.app"):
            content = advertise(stage, stage.grid())
        assert refusal(content) == "DataError"
        assert "has 7 patients" in caplog.text

    def test_an_unforeseen_error_shows_nothing_of_itself(self, stage, caplog):
        def broken(context):
            raise ZeroDivisionError("patient p17 divides by zero")

        grid = InProcessGrid(make_client_app(broken), 1, 1)
        with caplog.at_level(logging.ERROR, "fedrx_client.app"):
            assert refusal(advertise(stage, grid)) == "InternalError"
        assert "p17" in caplog.text

    def test_a_refusal_changes_nothing(self, stage):
        grid = ready(stage)
        content = header(codec.encode(stage.request(9)), stage.start.tobytes())
        assert refusal(ask(grid, content, "train.masked")) == "StudyError"
        stage.total(1)
        assert len(stage.releases("site0")) == 1


class TestKeysBetweenProcesses:
    """Flower's own SuperNode answers each message in a new process."""

    def test_a_study_runs_with_a_new_process_for_every_message(self, tmp_path):
        study = small_study(training={"rounds": 2}, metrics={"evaluations": 0})
        (tmp_path / "warm").mkdir()
        (tmp_path / "cold").mkdir()
        warm, cold = Stage(tmp_path / "warm", study), Stage(tmp_path / "cold", study)
        opened = []

        def opener(context):
            name = cold.name_of(context)
            if name in cold.sites:
                cold.sites.pop(name).close()
            opened.append(name)
            return cold.opener(context)

        expected, _ = warm.run()
        weights, records = cold.run(cold.grid(opener))
        np.testing.assert_array_equal(weights, expected)
        assert {record.attempt for record in records} == {0}
        assert len(opened) == 4 * (2 + 2 * 3)  # keys in two exchanges, each round in two

    def test_keys_of_another_site_are_refused(self, tmp_path):
        def swap(*, site, kind, context, **_):
            if (site, kind) == ("site1", "query.keys"):
                stage.new_epoch(9)
                context.state["fedrx.keys"] = ConfigRecord(
                    {"keys": stage.site("site2").export_keys()}
                )

        stage, _ = staged(tmp_path, swap)
        content = header(codec.encode(AdvertRequest(stage.session, 1)))
        grid = stage.grid()
        ask(grid, content, "query.advertise", node=1001)
        listed = AdvertList(stage.session, 1, ())
        reply = ask(grid, header(codec.encode(listed)), "query.keys", node=1001)
        assert refusal(reply) == "SessionMismatch"
