"""The fused calls over the real store, without sockets: at least once, whole, and nothing twice."""

import asyncio
import time
from dataclasses import dataclass, replace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.constant import NOOP_FEDERATION_ID, TASK_TOKEN_HEADER, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.superlink.config_loader import (
    get_federation_manager,
    get_objectstore_linkstate_factories,
)
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedrx_protocol.messages import frames
from fedrx_server.gateway.app import Link
from fedrx_server.gateway.limits import GatewayLimits

# Whoever is woken does not wait for so long, on no machine.
LONG_S = 120
TTL_S = 300.0
LIMITS = GatewayLimits(wait_s=LONG_S, grace_s=0.1)


@dataclass
class Site:
    node: int
    key: ec.EllipticCurvePrivateKey


class Stage:
    """One SuperLink's store with two sites and a running run."""

    def __init__(self, path) -> None:
        manager = get_federation_manager()
        _, factory = get_objectstore_linkstate_factories(str(path / "state.db"), manager)
        self.state = factory.state()
        app = FastAPI()
        app.state.linkstate_factory = factory
        self.link = Link(app, self.state, LIMITS)
        self.sites = [self._site(name) for name in ("a", "b")]
        self.run = self.state.create_run(
            "", "", "", {}, NOOP_FEDERATION_ID, None, "", TaskType.SERVER_APP
        )
        [run] = self.state.get_run_info(run_ids=[self.run])
        self.token = self.state.claim_task(run.primary_task_id)
        assert self.state.activate_task(run.primary_task_id)
        self.task = run.primary_task_id

    def _site(self, name: str) -> Site:
        key = ec.generate_private_key(ec.SECP256R1())
        node = self.state.create_node("", "", public_key_to_bytes(key.public_key()), 30, name=name)
        self.state.activate_node(node, 30)
        return Site(node, key)

    async def call(self, path: str, content: bytes, kind: str, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.link)
        async with httpx.AsyncClient(transport=transport, base_url="http://link") as client:
            headers = {key.replace("_", "-"): value for key, value in headers.items()}
            return await client.post(
                path, content=content, headers={"content-type": kind, **headers}
            )

    async def signed(self, site: Site, call: str, content: bytes, **headers) -> httpx.Response:
        request = httpx.Request("POST", "http://link/")
        sign = NodeAuthHttpInterceptor(site.key, site.key.public_key())
        sign.intercept(ProtobufRequestContext(call, Node(), request), lambda _: None)
        proofs = {
            k: v for k, v in request.headers.items() if k.startswith("flwr-") or "flower" in k
        }
        kind = "application/protobuf" if call == "take" else "application/vnd.fedrx.frames"
        return await self.call(f"/v1/fleet/{call}", content, kind, **proofs, **headers)

    async def take(self, site: Site, aside=(), wait="0") -> tuple[Message | None, httpx.Response]:
        asked = PullMessagesRequest(node=Node(node_id=site.node), message_ids=aside)
        answer = await self.signed(site, "take", asked.SerializeToString(), fedrx_wait_s=wait)
        if answer.status_code != 200:
            return None, answer
        [head, *contents] = read(answer.content)
        found = PullMessagesResponse.FromString(head).messages_list
        assert bool(found) == bool(contents)
        return (found[0] if found else None), answer

    async def give(self, site: Site, reply: Message, extra=(), drop=0) -> int:
        head = PushMessagesRequest(
            node=Node(node_id=site.node),
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
        )
        contents = [item.deflate() for item in get_all_nested_objects(reply).values()]
        body = frames.body([head.SerializeToString(), *contents[: len(contents) - drop], *extra])
        return (await self.signed(site, "give", body)).status_code

    async def send(self, messages: list[Message], done=()) -> list[str]:
        head = PushAppMessagesRequest()
        contents: dict[str, bytes] = {}
        for message in messages:
            head.messages_list.append(message_to_proto(remove_content_from_message(message)))
            head.message_object_trees.append(get_object_tree(message))
            contents |= {k: v.deflate() for k, v in get_all_nested_objects(message).items()}
        ended = PullAppMessagesRequest(message_ids=done).SerializeToString()
        body = frames.body([head.SerializeToString(), ended, *contents.values()])
        answer = await self.runtime("send", body)
        assert answer.status_code == 200, answer.text
        return list(PushAppMessagesResponse.FromString(answer.content).message_ids)

    async def collect(self, waiting, done=(), wait="0") -> list:
        body = frames.body(
            PullAppMessagesRequest(message_ids=ids).SerializeToString() for ids in (waiting, done)
        )
        answer = await self.runtime("collect", body, fedrx_wait_s=wait)
        assert answer.status_code == 200, answer.text
        return list(PullAppMessagesResponse.FromString(read(answer.content)[0]).messages_list)

    async def runtime(self, call: str, body: bytes, token=None, **headers) -> httpx.Response:
        headers[TASK_TOKEN_HEADER] = token or self.token
        kind = "application/vnd.fedrx.frames"
        return await self.call(f"/v1/runtime/{call}", body, kind, **headers)

    def request(self, site: Site, text: bytes = b"question", in_s: float = 0.0) -> Message:
        return self._message(1, site.node, "", text, TTL_S, in_s)

    def reply(self, site: Site, request: str, text: bytes = b"answer") -> Message:
        return self._message(site.node, 1, request, text, 20.0)

    def _message(self, source, target, reply_to, text, ttl, in_s=0.0) -> Message:
        made = time.time() + in_s
        meta = Metadata(self.run, "", source, target, reply_to, "1", made, ttl, "query.echo")
        content = RecordDict({"fedrx": ConfigRecord({"header": text})})
        message = make_message(metadata=meta, content=content)
        message.metadata.__dict__["_message_id"] = message.object_id
        return message


def read(body: bytes) -> list[bytes]:
    reader = frames.FrameReader(2**24)
    found = list(reader.feed(body))
    reader.close()
    return found


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def test_a_request_comes_again_until_it_is_answered(stage):
    async def play():
        site = stage.sites[0]
        [sent] = await stage.send([stage.request(site)])
        for _ in range(2):  # the first answer may have been lost on its way
            request, _ = await stage.take(site)
            assert request.metadata.message_id == sent
        assert await stage.give(site, stage.reply(site, sent)) == 204
        assert (await stage.take(site))[0] is None

    asyncio.run(play())


def test_a_request_that_cannot_be_used_does_not_come_again(stage):
    async def play():
        site, other = stage.sites
        [sent] = await stage.send([stage.request(site)])
        await stage.take(other, aside=[sent])
        assert (await stage.take(site))[0] is not None  # another cannot put it aside
        assert (await stage.take(site, aside=[sent]))[0] is None

    asyncio.run(play())


def test_a_reply_comes_again_until_the_coordinator_has_it(stage):
    async def play():
        site = stage.sites[0]
        [sent] = await stage.send([stage.request(site)])
        reply = stage.reply(site, sent)
        for _ in range(2):  # a second time because the first answer was lost
            assert await stage.give(site, reply) == 204
        for _ in range(2):
            [found] = await stage.collect([sent])
            assert found.metadata.message_id == reply.metadata.message_id
        await stage.send([stage.request(site, b"next")], done=[reply.metadata.message_id])
        assert stage.state.num_message_res() == 0
        assert await stage.give(site, reply) == 409

    asyncio.run(play())


def test_a_reply_counts_only_when_all_of_it_is_there(stage):
    async def play():
        site = stage.sites[0]
        [sent] = await stage.send([stage.request(site)])
        reply = stage.reply(site, sent)
        assert await stage.give(site, reply, drop=1) == 400
        assert await stage.collect([sent]) == []
        assert (await stage.take(site))[0].metadata.message_id == sent
        # An agent that was restarted in between answers with another message.
        again = stage.reply(site, sent, b"the same, later")
        assert await stage.give(site, again) == 204
        [found] = await stage.collect([sent])
        assert found.metadata.message_id == again.metadata.message_id

    asyncio.run(play())


def test_who_waits_is_woken_on_both_sides(stage, monkeypatch):
    monkeypatch.setattr("fedrx_server.gateway.app._LOOK_AGAIN_S", LONG_S)

    async def play():
        site = stage.sites[0]
        began = time.monotonic()
        waiting = asyncio.create_task(stage.take(site, wait=str(LONG_S)))
        await asyncio.sleep(0.1)
        [sent] = await stage.send([stage.request(site)])
        assert (await waiting)[0].metadata.message_id == sent
        collecting = asyncio.create_task(stage.collect([sent], wait=str(LONG_S)))
        await asyncio.sleep(0.1)
        await stage.give(site, stage.reply(site, sent))
        assert len(await collecting) == 1
        assert time.monotonic() - began < LONG_S

    asyncio.run(play())


def test_a_site_that_is_shut_out_while_it_waits_gets_nothing(stage, caplog):
    async def play():
        site = stage.sites[0]
        waiting = asyncio.create_task(stage.take(site, wait=str(LONG_S)))
        await asyncio.sleep(0.1)
        stage.state.delete_node("", site.node)
        stage.link._bell.ring_all()
        _, answer = await waiting
        assert answer.status_code == 401

    asyncio.run(play())
    assert f"says it is node {stage.sites[0].node}: /v1/fleet/take: 401" in caplog.text


def test_a_stop_ends_every_wait(stage):
    async def play():
        began = time.monotonic()
        waiting = asyncio.create_task(stage.take(stage.sites[0], wait=str(LONG_S)))
        await asyncio.sleep(0.1)
        stage.link.stop()
        assert (await waiting)[0] is None
        assert time.monotonic() - began < LONG_S

    asyncio.run(play())


def test_a_site_that_is_gone_is_told_at_once(stage):
    async def play():
        site, other = stage.sites
        sent = await stage.send([stage.request(site), stage.request(other)])
        stage.state.delete_node("", site.node)
        await asyncio.sleep(0.2)
        [lost] = await stage.collect(sent)
        assert lost.HasField("error")
        assert lost.metadata.reply_to_message_id == sent[0]

    asyncio.run(play())


def test_what_expired_is_swept_and_leaves_no_object(stage):
    async def play():
        site = stage.sites[0]
        [old] = await stage.send([stage.request(site, b"old")])
        stage.link._mailbox._clock = lambda: time.time() + TTL_S
        assert (await stage.take(site))[0] is None
        [new] = await stage.send([stage.request(site, b"new", in_s=TTL_S)])
        [lost] = await stage.collect([old])
        assert lost.HasField("error")
        assert old not in stage.state.object_store
        assert new in stage.state.object_store
        assert await stage.give(site, stage.reply(site, old)) == 409

    asyncio.run(play())


def test_a_request_of_a_finished_run_is_not_handed_out(stage):
    async def play():
        site = stage.sites[0]
        await stage.send([stage.request(site)])
        stage.state.finish_task(stage.task, "completed", "")
        assert (await stage.take(site))[0] is None

    asyncio.run(play())


@pytest.mark.parametrize("call", ["send", "collect"])
def test_the_coordinators_calls_need_its_token(stage, call):
    body = frames.body([b"", b""])
    answer = asyncio.run(stage.runtime(call, body, token="a" * 32))
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/fleet/register-node", 404),
        ("/v1/fleet/nothing", 404),
        ("/v1/fleet/pull-messages", 401),
        ("/v1/fleet/take", 401),
        ("/v1/fleet/give", 401),
        ("/v1/fleet/activate-node", 401),
        ("/v1/runtime/send", 401),
    ],
)
def test_calls_by_nobody_are_refused_and_logged(stage, path, status, caplog):
    answer = asyncio.run(stage.call(path, b"", "application/protobuf", fedrx_address="192.0.2.7"))
    assert answer.status_code == status
    assert f"refused 192.0.2.7: {path}: {status}" in caplog.text


def test_a_request_to_another_run_is_refused(stage):
    async def play():
        message = stage.request(stage.sites[0])
        message.metadata.__dict__["_run_id"] = stage.run + 1
        message.metadata.__dict__["_message_id"] = message.object_id
        with pytest.raises(AssertionError, match="another run"):
            await stage.send([message])

    asyncio.run(play())


def test_a_long_body_without_a_head_is_cut_off(stage):
    site = stage.sites[0]
    body = bytes(LIMITS.object_bytes + LIMITS.head_bytes + 1)
    assert asyncio.run(stage.signed(site, "take", body)).status_code == 413


def test_who_does_not_take_its_answer_is_given_up(stage, caplog):
    stage.link._limits = replace(LIMITS, send_within_s=0.05)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        await asyncio.sleep(LONG_S)

    scope = {"type": "http", "method": "POST", "path": "/v1/fleet/take", "headers": []}
    scope |= {"query_string": b"", "server": ("link", 80), "scheme": "http"}
    start = time.monotonic()
    asyncio.run(stage.link(scope, receive, send))
    assert time.monotonic() - start < LONG_S
    assert "/v1/fleet/take: its taker is too slow" in caplog.text


def proofs(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The headers that show a key, signed now."""
    request = httpx.Request("POST", "http://link/")
    sign = NodeAuthHttpInterceptor(key, key.public_key())
    sign.intercept(ProtobufRequestContext("", Node(), request), lambda _: None)
    return {name: value for name, value in request.headers.items() if name.startswith("flwr-")}


async def unread(stage: Stage, call: str, headers: dict[str, str]) -> int:
    """The status of a call whose body never comes; whoever waits for it fails."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/v1/fleet/{call}",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    sent = []

    async def receive():
        raise AssertionError("the body of a stranger is read")

    async def send(message):
        sent.append(message)

    await stage.link(scope, receive, send)
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("call", "status"), [("take", 401), ("give", 401), ("push-object", 401), ("activate-node", 412)]
)
def test_nothing_of_a_strangers_body_is_read(stage, call, status):
    strange = proofs(ec.generate_private_key(ec.SECP256R1()))
    known = proofs(stage.sites[0].key)
    stolen = {**strange, **{name: known[name] for name in known if "public-key" in name}}
    assert asyncio.run(unread(stage, call, strange)) == status
    for wrong in ({}, stolen, {**known, "flwr-public-key": "no Base64", "flwr-timestamp": "?"}):
        assert asyncio.run(unread(stage, call, wrong)) == 401


def test_a_key_has_so_many_calls_under_way_and_no_more(stage):
    """A stolen key can make the SuperLink hold no more than an agent's share."""

    async def play():
        first, second = stage.sites
        waiting = [
            asyncio.ensure_future(stage.take(first, wait=str(LONG_S)))
            for _ in range(LIMITS.calls_of_a_site)
        ]
        while stage.link._callers._under_way[first.node] < LIMITS.calls_of_a_site:
            await asyncio.sleep(0.01)
        assert (await stage.take(first))[1].status_code == 503
        assert (await stage.take(second))[1].status_code == 200
        stage.link.stop()
        assert {answer.status_code for _, answer in await asyncio.gather(*waiting)} == {200}
        assert not stage.link._callers._under_way

    asyncio.run(play())
