"""The agent's loop over a wire that misbehaves, and the edges of its door; no network."""

import threading
import time
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from live_consortium import write_certificates

from fedrx_client.connection.agent import Agent, Health, Pace
from fedrx_client.connection.fleet import (
    Endpoint,
    Fleet,
    NotAdmitted,
    Undeliverable,
    Unreachable,
    _Budget,
    _translated,
    check_flower,
    load_transport_key,
)
from fedrx_common.errors import MisuseError
from fedrx_protocol.messages import frames

QUICK = Pace(
    shortest_s=1e-4, active_s=1e-3, idle_s=1e-3, quiet_s=1.0, retry_s=1e-4, retry_longest_s=1e-3
)


class ScriptedWire:
    """Does what a list says, then stops the agent.

    A step is a request to hand out, None for an empty mailbox, or an error to raise.
    """

    def __init__(self, steps, *, connects=(7,), refuse=0):
        self.stop = threading.Event()
        self.steps, self.connects, self.refuse = list(steps), list(connects), refuse
        self.known, self.replies, self.closed = [], [], False

    def connect(self, known_node=0):
        self.known.append(known_node)
        step = self.connects.pop(0) if self.connects else 7
        if isinstance(step, Exception):
            raise step
        return step

    def heartbeat(self):
        raise AssertionError("no test lasts so long")

    def receive(self):
        if not self.steps:
            self.stop.set()
            return None
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def reply(self, message):
        if self.refuse:
            self.refuse -= 1
            raise Undeliverable("the run is over")
        self.replies.append(message)

    def close(self):
        self.closed = True


def request(run=1, kind="query.count"):
    metadata = Metadata(run, "a" * 64, 1, 7, "", "", 1e9, 60.0, kind)
    return make_message(metadata=metadata, content=RecordDict())


def counting_app():
    """Counts a run's messages in its context."""
    app = ClientApp()

    @app.query("count")
    def count(message: Message, context: Context) -> Message:
        seen = context.state.config_records.get("seen") or ConfigRecord({"n": 0})
        context.state["seen"] = ConfigRecord({"n": seen["n"] + 1})
        return Message(RecordDict({"seen": context.state["seen"]}), reply_to=message)

    @app.query("fail")
    def fail(message: Message, context: Context) -> Message:
        raise KeyError("patient 4711")

    return app


def served(tmp_path: Path, wire: ScriptedWire) -> Agent:
    agent = Agent(wire, counting_app(), wire.stop, tmp_path / "node", pace=QUICK)
    agent.run()
    return agent


def counts(wire: ScriptedWire) -> list[int]:
    return [reply.content["seen"]["n"] for reply in wire.replies]


class TestLoop:
    def test_answers_each_request_with_one_warm_context_a_run(self, tmp_path):
        wire = ScriptedWire([request(1), None, request(1), request(2), request(1)])
        served(tmp_path, wire)
        assert counts(wire) == [1, 2, 1, 3]
        assert wire.closed

    def test_contexts_of_old_runs_are_forgotten(self, tmp_path):
        wire = ScriptedWire([request(run) for run in (1, 2, 3, 4, 5, 1)])
        served(tmp_path, wire)
        assert counts(wire) == [1] * 6

    def test_survives_a_coordinator_that_goes_and_comes(self, tmp_path):
        away = Unreachable("no connection")
        wire = ScriptedWire([away, request(), away, away, request()], connects=[away, away, 7])
        served(tmp_path, wire)
        assert counts(wire) == [1, 2]
        assert len(wire.known) == 3

    def test_connects_anew_when_shut_out(self, tmp_path):
        wire = ScriptedWire([request(), NotAdmitted("key"), request()], connects=[7, 9])
        served(tmp_path, wire)
        assert wire.known == [0, 7]
        assert (tmp_path / "node").read_text() == "9"
        assert len(wire.replies) == 2

    def test_what_cannot_be_had_or_given_is_dropped(self, tmp_path):
        wire = ScriptedWire([Undeliverable("gone"), request(), request()], refuse=1)
        served(tmp_path, wire)
        assert counts(wire) == [2]

    def test_an_error_leaves_as_its_class_alone(self, tmp_path, caplog):
        wire = ScriptedWire([request(kind="query.fail")])
        served(tmp_path, wire)
        assert wire.replies[0].error.reason == "KeyError"
        assert "patient 4711" in caplog.text

    def test_starts_under_the_node_id_of_last_time(self, tmp_path):
        (tmp_path / "node").write_text("42")
        wire = ScriptedWire([])
        served(tmp_path, wire)
        assert wire.known == [42]

    def test_a_damaged_or_unwritable_node_file_does_not_stop_it(self, tmp_path):
        (tmp_path / "node").write_text("not a number")
        wire = ScriptedWire([request()])
        served(tmp_path, wire)
        nowhere = Agent(
            again := ScriptedWire([request()]),
            counting_app(),
            again.stop,
            tmp_path / "missing" / "node",
            pace=QUICK,
        )
        nowhere.run()
        assert wire.known == again.known == [0]
        assert len(wire.replies) == len(again.replies) == 1

    def test_a_stop_ends_the_wait_for_a_coordinator_that_never_comes(self, tmp_path):
        wire = ScriptedWire([], connects=[Unreachable("no")] * 1000)
        threading.Timer(0.1, wire.stop.set).start()
        served(tmp_path, wire)
        assert wire.replies == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"shortest_s": 0.0},
        {"shortest_s": 1.0, "active_s": 0.5},
        {"active_s": 5.0},
        {"growth": 1.0},
        {"retry_s": 0.0},
        {"retry_s": 20.0},
        {"quiet_s": -1.0},
    ],
)
def test_a_pace_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(MisuseError, match="waits"):
        Pace(**wrong)


def test_a_taken_health_port_is_named():
    with Health().served(0) as port:
        second = Health().served(port)
        with pytest.raises(MisuseError, match=f"{port} is taken"):
            second.__enter__()


@pytest.fixture(scope="module")
def ca(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("tls")
    write_certificates(folder)
    return (folder / "ca.crt").read_bytes()


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class TestDoor:
    @pytest.mark.parametrize("address", ["", "host", ":8443", "host:", "host:0", "host:70000"])
    def test_an_address_without_host_or_port(self, ca, key, address):
        with pytest.raises(MisuseError, match="HOST:PORT"):
            Endpoint(address, ca, key)

    @pytest.mark.parametrize("certificate", [b"", b"hello", b"\xff"])
    def test_a_certificate_that_is_none(self, key, certificate):
        with pytest.raises(MisuseError, match="CA certificate"):
            Endpoint("localhost:8443", certificate, key)

    def test_another_flower_is_named(self):
        with pytest.raises(MisuseError, match=r"1\.41\.0 and found 1\.42\.0"):
            check_flower("1.42.0")

    def test_keys(self, tmp_path, key):
        path = tmp_path / "key"
        with pytest.raises(MisuseError, match="cannot be read"):
            load_transport_key(path)
        write_key(path, key, serialization.BestAvailableEncryption(b"secret"))
        assert load_transport_key(path, b"secret").private_numbers() == key.private_numbers()
        with pytest.raises(MisuseError, match="cannot be read"):
            load_transport_key(path)
        write_key(path, ed25519.Ed25519PrivateKey.generate(), serialization.NoEncryption())
        with pytest.raises(MisuseError, match="no elliptic-curve key"):
            load_transport_key(path)


def write_key(path, private, form):
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(private.private_bytes(pem, pkcs8, form))


class TestFleet:
    def test_nobody_there(self, ca, key):
        fleet = Fleet(Endpoint("127.0.0.1:1", ca, key))
        with pytest.raises(Unreachable, match="no connection"):
            fleet.connect()
        fleet.close()

    @pytest.mark.parametrize(
        ("code", "meaning"),
        [
            (401, NotAdmitted),
            (412, NotAdmitted),
            (403, Undeliverable),
            (404, Undeliverable),
            (413, Undeliverable),
            (500, Unreachable),
            (502, Unreachable),
            (503, Unreachable),
            (504, Unreachable),
        ],
    )
    def test_what_http_says(self, code, meaning):
        answer = httpx.Response(code, request=httpx.Request("POST", "https://localhost"))
        with pytest.raises(meaning), _translated():
            answer.raise_for_status()

    def test_tries_again_until_the_deadline_and_not_longer(self, ca, key):
        now = [1e9 + 50]  # ten seconds before the answer's time is over
        waits = []

        def sleep(seconds):
            waits.append(seconds)
            now[0] += seconds

        fleet = Fleet(Endpoint("127.0.0.1:1", ca, key), clock=lambda: now[0], sleep=sleep)
        with pytest.raises(Unreachable):
            fleet.reply(request())
        assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])
        fleet.close()

    def test_a_stop_ends_the_tries(self, ca, key):
        fleet = Fleet(Endpoint("127.0.0.1:1", ca, key), clock=lambda: 1e9, sleep=lambda _: True)
        with pytest.raises(Unreachable):
            fleet.reply(request())
        fleet.close()

    def test_a_request_longer_than_allowed(self):
        budget = _Budget(10)
        assert budget.spend(b"12345") == b"12345"
        with pytest.raises(Undeliverable, match="longer"):
            budget.spend(b"678901")


def letter(content=None) -> tuple[PullMessagesResponse, list[bytes]]:
    """A request to node 7 as the coordinator hands it out: head and objects."""
    metadata = Metadata(1, "", 1, 7, "", "", time.time(), 60.0, "query.count")
    message = make_message(metadata=metadata, content=content or RecordDict())
    message.metadata.__dict__["_message_id"] = message.object_id
    head = PullMessagesResponse(
        messages_list=[message_to_proto(remove_content_from_message(message))],
        message_object_trees=[get_object_tree(message)],
    )
    return head, [item.deflate() for item in get_all_nested_objects(message).values()]


def array_of(size: int) -> RecordDict:
    array = Array("uint32", (size // 4,), "fedrx.raw", bytes(size))
    return RecordDict({"payload": ArrayRecord({"vector": array})})


class Coordinator:
    """Answers the fused calls with what a test has made up, and notes what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked, self.given = list(answers), [], []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("give"):
            self.given.append(request.read())
            return httpx.Response(self.answers.pop(0))
        self.asked.append(list(PullMessagesRequest.FromString(request.read()).message_ids))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx.Response(answer)
        return httpx.Response(200, stream=Streamed(answer))


class Streamed(httpx.SyncByteStream):
    """A body that comes in small pieces, as from the network."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def __iter__(self):
        for start in range(0, len(self.body), 1000):
            yield self.body[start : start + 1000]


class TestFusedCalls:
    @pytest.fixture
    def connected(self, ca, key):
        fleets = []

        def make(*answers, limit=2**31) -> tuple[Fleet, Coordinator]:
            coordinator = Coordinator(*answers)
            fleet = Fleet(Endpoint("localhost:8443", ca, key), longest_message_bytes=limit)
            fleet._http.close()
            fleet._http = httpx.Client(
                base_url="https://localhost:8443/v1/fleet/",
                transport=httpx.MockTransport(coordinator),
            )
            fleets.append(fleet)
            return fleet, coordinator

        yield make
        for fleet in fleets:
            fleet.close()

    def test_nothing_to_do(self, connected):
        fleet, _ = connected(frames.body([b""]))
        assert fleet.receive() is None

    def test_a_request_with_a_vector(self, connected):
        head, contents = letter(array_of(11_000_000))
        fleet, _ = connected(frames.body([head.SerializeToString(), *contents]))
        message = fleet.receive()
        assert message.content["payload"]["vector"].data == bytes(11_000_000)
        assert message.metadata.message_id == head.messages_list[0].metadata.message_id

    def test_what_cannot_be_used_is_put_aside_once(self, connected):
        head, contents = letter(array_of(4000))
        body = frames.body([head.SerializeToString(), *contents])
        fleet, coordinator = connected(body, frames.body([b""]), frames.body([b""]), limit=3000)
        with pytest.raises(Undeliverable, match="longer than this site takes"):
            fleet.receive()
        assert fleet.receive() is fleet.receive() is None
        name = head.messages_list[0].metadata.message_id
        assert coordinator.asked == [[], [name], []]

    def test_a_part_that_is_repeated_until_memory_is_full(self, connected):
        head, contents = letter(array_of(4000))
        at = next(i for i, one in enumerate(contents) if one.startswith(b"Array "))
        start, _, listing = contents[at].partition(b"\x00")
        many = listing.replace(b"[0]", str([0] * 10_000).encode())
        kind, children, _ = start.split(b" ")
        contents[at] = b" ".join([kind, children, b"%d" % len(many)]) + b"\x00" + many
        body = frames.body([head.SerializeToString(), *contents])
        fleet, _ = connected(body, limit=1_000_000)
        with pytest.raises(Undeliverable, match="parts do not fit"):
            fleet.receive()

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda body: b"\xff" * 100,
            lambda body: b"\x00\x00\x00\x02\xff\xff",
            lambda body: body[:-1],
            lambda body: body[: len(body) // 2],
            lambda body: b"",
            lambda body: body.replace(b"RecordDict", b"SomethingX"),
        ],
    )
    def test_a_request_that_makes_no_sense(self, connected, spoil):
        head, contents = letter()
        fleet, _ = connected(spoil(frames.body([head.SerializeToString(), *contents])))
        with pytest.raises(Undeliverable):
            fleet.receive()

    @pytest.mark.parametrize(
        ("answer", "meaning"),
        [
            (401, NotAdmitted),
            (403, Undeliverable),
            (502, Unreachable),
            (httpx.ReadTimeout("late"), Unreachable),
            (httpx.RemoteProtocolError("cut off"), Unreachable),
        ],
    )
    def test_what_went_wrong(self, connected, answer, meaning):
        fleet, _ = connected(answer)
        with pytest.raises(meaning):
            fleet.receive()

    def test_a_stop_ends_the_wait_and_only_the_wait(self, connected):
        fleet, _ = connected()
        fleet.interrupt()  # it does not wait
        fleet._http = httpx.Client(
            base_url="https://localhost/",
            transport=httpx.MockTransport(lambda _: fleet.interrupt()),
        )
        assert fleet.receive() is None

    def test_a_reply_is_given_again_while_the_coordinator_is_away(self, connected):
        metadata = Metadata(1, "a" * 64, 1, 7, "", "", time.time(), 60.0, "query.count")
        asked = make_message(metadata=metadata, content=RecordDict())
        reply = Message(RecordDict(), reply_to=asked)
        fleet, coordinator = connected(503, 204)
        fleet.reply(reply)
        assert len(coordinator.given) == 2
        assert coordinator.given[0] == coordinator.given[1]

    def test_a_reply_that_is_not_taken_ends_its_request(self, connected):
        asked = request()
        fleet, coordinator = connected(409, frames.body([b""]))
        with pytest.raises(Undeliverable):
            fleet.reply(Message(RecordDict(), reply_to=asked))
        fleet.receive()
        assert coordinator.asked == [[asked.metadata.message_id]]


def test_a_wait_at_the_coordinator_is_not_followed_by_one_here(tmp_path):
    now = [0.0]

    class Slow(ScriptedWire):
        def receive(self):
            now[0] += 240.0
            return super().receive()

    wire = Slow([None, None, request()])
    pace = Pace(shortest_s=60.0, active_s=60.0, idle_s=60.0)
    agent = Agent(
        wire, counting_app(), wire.stop, tmp_path / "node", pace=pace, clock=lambda: now[0]
    )
    began = time.monotonic()
    agent.run()
    assert time.monotonic() - began < 50
    assert counts(wire) == [1]
