"""Requests out, replies in: whatever a node sends or fails to send, the coordinator goes on."""

import numpy as np
import pytest
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrx_server.rounds.exchange import Exchange
from fedrx_simulation.federation.inprocess import InProcessGrid


def app_that(answer) -> ClientApp:
    app = ClientApp()
    app.query("test")(answer)
    return app


def echo(message, context):
    return Message(message.content, reply_to=message)


def replying(records):
    """A node that always sends these records."""
    return lambda message, context: Message(RecordDict(records), reply_to=message)


def exchange_with(answer, nodes=3, grid=InProcessGrid, **clocks) -> Exchange:
    return Exchange(grid(app_that(answer), nodes, 1), **clocks)


def send(exchange, headers=None, **changes):
    chosen = dict.fromkeys(exchange.nodes(), b"hello") if headers is None else headers
    return list(
        exchange.send("query.test", chosen, **{"attempt": "1.0", "deadline_s": 60.0, **changes})
    )


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 100.0
        self.sleeps = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds


class SilentGrid(InProcessGrid):
    """Nodes that are connected and never answer."""

    def pull_messages(self, message_ids):
        return []


def test_every_node_gets_its_header_and_answers():
    exchange = exchange_with(echo)
    headers = {node: b"to %d" % node for node in exchange.nodes()}
    replies = send(exchange, headers)
    assert {reply.node: reply.header for reply in replies} == headers
    assert not any(reply.lost or reply.refusal for reply in replies)


def test_a_vector_travels_as_little_endian_words():
    vector = np.array([1.5, -2.0], dtype=">f4")
    (reply,) = send(exchange_with(echo, nodes=1), payload=vector)
    assert reply.payload == np.array([1.5, -2.0], dtype="<f4").tobytes()


def test_bytes_are_counted_both_ways():
    exchange = exchange_with(echo)
    send(exchange, payload=np.zeros(10, dtype=np.float32))
    assert exchange.traffic.down == exchange.traffic.up == 3 * (5 + 40)


def test_a_node_that_breaks_is_lost_and_the_others_are_not():
    def answer(message, context):
        if context.node_config["partition-id"] == 1:
            return Message(Error(5, "gone"), reply_to=message)
        return echo(message, context)

    replies = send(exchange_with(answer))
    assert [reply.lost for reply in replies] == [False, True, False]


def test_a_silent_node_is_lost_at_the_deadline_and_not_before():
    clock = Clock()
    exchange = exchange_with(echo, grid=SilentGrid, clock=clock, sleep=clock.sleep)
    replies = send(exchange, deadline_s=30.0)
    assert [reply.lost for reply in replies] == [True] * 3
    assert 30.0 <= clock.now - 100.0 < 30.3


def test_waits_are_short_at_first_and_never_long():
    clock = Clock()
    send(exchange_with(echo, grid=SilentGrid, clock=clock, sleep=clock.sleep), deadline_s=5.0)
    assert clock.sleeps[:3] == [0.005, 0.01, 0.02]
    assert max(clock.sleeps) == 0.25


def test_no_waiting_where_all_answer_at_once():
    clock = Clock()
    send(exchange_with(echo, clock=clock, sleep=clock.sleep))
    assert clock.sleeps == []


@pytest.mark.parametrize("ids", [[], ["a", None, "c"]])
def test_messages_that_flower_could_not_push_are_lost(ids):
    class Refusing(InProcessGrid):
        def push_messages(self, messages):
            real = super().push_messages(messages)
            return (
                [known for known, kept in zip(real, ids, strict=False) if kept]
                if not ids
                else [known if kept else None for known, kept in zip(real, ids, strict=True)]
            )

    exchange = exchange_with(echo, grid=Refusing)
    replies = {reply.node: reply.lost for reply in send(exchange)}
    assert replies == {1000: not ids, 1001: True, 1002: not ids}


def test_no_nodes_no_replies():
    assert send(exchange_with(echo), headers={}) == []


@pytest.mark.parametrize(
    "records",
    [
        {"fedrx": ConfigRecord({"header": "text"})},
        {"fedrx": ConfigRecord({"header": 5})},
        {"fedrx": ConfigRecord({"refusal": b"bytes"})},
        {"fedrx": ConfigRecord({"refusal": [1, 2]})},
    ],
)
def test_a_reply_of_the_wrong_types_is_lost(records):
    (reply,) = send(exchange_with(replying(records), nodes=1))
    assert reply.lost
    assert (reply.header, reply.payload, reply.refusal) == (b"", b"", "")


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"other": ConfigRecord({"header": b"x"})},
        {"fedrx": ConfigRecord({})},
        {"payload": ArrayRecord({"another": FlowerArray(np.zeros(2))})},
    ],
)
def test_a_reply_without_our_records_is_empty(records):
    (reply,) = send(exchange_with(replying(records), nodes=1))
    assert (reply.header, reply.payload, reply.refusal, reply.lost) == (b"", b"", "", False)


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("BudgetExhausted", "BudgetExhausted"),
        ("site has 41 patients", "Unreadable"),
        ("Name\nforged log line", "Unreadable"),
        ("A" * 65, "Unreadable"),
        ("Ünread", "Unreadable"),
    ],
)
def test_a_refusal_is_a_name_and_nothing_else(sent, taken):
    records = {"fedrx": ConfigRecord({"refusal": sent})}
    (reply,) = send(exchange_with(replying(records), nodes=1))
    assert reply.refusal == taken
