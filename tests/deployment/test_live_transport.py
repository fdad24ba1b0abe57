"""The live transport as real processes: SuperLink, proxy and three agents, with TLS."""

import datetime as dt
import hashlib
import os
import secrets
import signal
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass

import grpc
import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from live_consortium import SiteProcess, wait_until, write_certificates, write_site_key
from spare_ports import free_ports

from fedrx_client.connection.fleet import load_transport_key
from fedrx_common.errors import MisuseError
from fedrx_common.tls import trusting
from fedrx_protocol.messages import frames
from fedrx_server.gateway.control import (
    SuperLinkUnusable,
    list_sites,
    register_site,
    unregister_site,
)
from fedrx_server.gateway.limits import DEFAULT_LIMITS
from fedrx_server.rounds.exchange import Exchange
from fedrx_server.service.grid import empty_bundle, live_run
from fedrx_server.service.proxy import Tls
from fedrx_server.service.superlink import Ports, SuperLink

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nginx")]

SITES = 3


@dataclass
class Live:
    """What the tests share."""

    link: SuperLink
    sites: list[SiteProcess]
    nodes: list[int]
    public: int
    probe: int

    @property
    def door(self) -> str:
        return f"localhost:{self.public}"

    @property
    def ca(self) -> bytes:
        return self.link.superlink_address.ca_certificate

    def key(self, site: int) -> ec.EllipticCurvePrivateKey:
        return load_transport_key(self.sites[site].folder / "transport.key")

    def online(self) -> set[int]:
        return {site.node for site in list_sites(self.link.superlink_address) if site.online}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    folder = tmp_path_factory.mktemp("consortium")
    write_certificates(folder / "tls")
    tls = Tls(*(folder / "tls" / name for name in ("ca.crt", "server.crt", "server.key")))
    public, inner, probe, *probes = free_ports(3 + SITES)
    link = SuperLink(folder / "coordinator", tls, Ports(public, inner, probe, host="127.0.0.1"))
    stop = threading.Event()
    watch = threading.Thread(target=link.supervise, args=(stop,))
    with link.running():
        watch.start()
        sites, nodes = [], []
        for index, port in enumerate(probes):
            home = folder / f"site{index}"
            nodes.append(register_site(link.superlink_address, write_site_key(home), home.name))
            (home / "ca.crt").write_bytes(tls.ca_certificate.read_bytes())
            sites.append(SiteProcess(home, f"localhost:{public}", port))
        for site in sites:
            site.start()
        shared = Live(link, sites, nodes, public, probe)
        try:
            wait_until(lambda: shared.online() == set(nodes), 40, "all sites online")
            yield shared
        finally:
            for site in sites:
                site.stop()
            stop.set()
            watch.join()


def echo(exchange: Exchange, nodes, *, payload=None, deadline_s=60.0):
    headers = {node: f"for {node}".encode() for node in nodes}
    replies = exchange.send(
        "query.echo", headers, attempt="1", deadline_s=deadline_s, payload=payload
    )
    return {reply.node: reply for reply in replies}


def answered(replies) -> set[int]:
    return {
        node
        for node, reply in replies.items()
        if not reply.lost and reply.header == f"for {node}".encode()
    }


def probe_state(port: int) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest()
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=30).status


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class TestExchange:
    def test_every_site_gets_its_own_message_and_a_large_model(self, live):
        model = np.random.default_rng(1).standard_normal(1_600_000, dtype=np.float32)
        with live_run(live.link.superlink_address, "echo") as exchange:
            assert set(exchange.nodes()) == set(live.nodes)
            assert answered(echo(exchange, live.nodes)) == set(live.nodes)
            replies = echo(exchange, live.nodes, payload=model)
        assert answered(replies) == set(live.nodes)
        assert {reply.payload for reply in replies.values()} == {model.tobytes()}

    def test_a_broken_app_tells_the_class_of_its_error_and_no_more(self, live):
        with live_run(live.link.superlink_address, "broken") as exchange:
            grid, content = exchange._grid, RecordDict()
            [sent] = grid.push_messages([Message(content, live.nodes[0], "query.fail", ttl=300.0)])
            got = []
            wait_until(lambda: got.extend(grid.pull_messages([sent])) or got, 60, "a reply")
        assert got[0].error.reason == "ValueError"
        assert "patient 4711" in live.sites[0].log

    def test_an_error_in_a_run_ends_it_as_failed_and_the_next_begins(self, live):
        runs = []

        def fail():
            with live_run(live.link.superlink_address, "bad") as exchange:
                runs.append(exchange._grid.run.run_id)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        [failed] = runs
        with backstage_control(live) as control:
            status = control.ListRuns(ListRunsRequest(run_id=failed)).run_dict[failed].status
        assert (status.status, status.sub_status) == ("finished", "failed")

    def test_probes_see_both_sides_serving(self, live):
        assert [probe_state(live.probe), *(probe_state(s.health_port) for s in live.sites)] == [
            SERVING
        ] * (1 + SITES)

    def test_a_run_that_nobody_began_does_not_block_the_next(self, live):
        with backstage_control(live) as control:
            bundle = empty_bundle()
            control.StartRun(StartRunRequest(fab=Fab(hash_str="", content=bundle)))
        with live_run(live.link.superlink_address, "after a crash") as exchange:
            assert answered(echo(exchange, live.nodes)) == set(live.nodes)

    def test_ports_in_use_are_named(self, live, tmp_path):
        ports = Ports(live.public, *free_ports(2), host="127.0.0.1")
        second = SuperLink(tmp_path, live.link._tls, ports)
        with pytest.raises(MisuseError, match=f"port {live.public} is taken"), second.running():
            pass


@contextmanager
def backstage_control(live: Live):
    stage = live.link.superlink_address
    with ControlHttpClient.from_server_address(
        stage.address, insecure=False, root_certificates=live.ca, interceptors=[]
    ) as client:
        yield client


def refused_with(call) -> int:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        call()
    return caught.value.response.status_code


class TestAttackThroughTheProxy:
    """Somebody with the CA certificate and the key of site 0."""

    @pytest.fixture
    def fleet(self, live):
        key = live.key(0)
        with FleetHttpClient.from_server_address(
            live.door,
            insecure=False,
            root_certificates=live.ca,
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        ) as client:
            yield client

    def test_registering_a_node_listing_nodes_and_submitting_a_run(self, live):
        public = public_key_to_bytes(ec.generate_private_key(ec.SECP256R1()).public_key())
        before = live.online()
        with ControlHttpClient.from_server_address(
            live.door, insecure=False, root_certificates=live.ca, interceptors=[]
        ) as control:
            run = StartRunRequest(fab=Fab(hash_str="", content=empty_bundle()))
            tries = [
                lambda: control.RegisterNode(RegisterNodeRequest(public_key=public)),
                lambda: control.ListNodes(ListNodesRequest()),
                lambda: control.StartRun(run),
            ]
            assert [refused_with(attempt) for attempt in tries] == [404] * 3
        assert live.online() == before

    def test_taking_a_task(self, live):
        request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        with RuntimeHttpClient.from_server_address(
            live.door, insecure=False, root_certificates=live.ca, interceptors=[]
        ) as client:
            assert refused_with(lambda: client.AcquireTask(request)) == 404

    def test_taking_a_task_from_the_coordinators_own_host_without_the_secret(self, live):
        request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        guess = SuperExecAuthHttpInterceptor(
            master_secret=secrets.token_bytes(32),
            protected_methods={"/flwr.proto.Runtime/AcquireTask"},
        )
        for interceptors in ([], [guess]):
            with RuntimeHttpClient.from_server_address(
                live.link.superlink_address.address,
                insecure=False,
                root_certificates=live.ca,
                interceptors=interceptors,
            ) as client:
                assert refused_with(lambda c=client: c.AcquireTask(request)) == 401

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/control/start-run",
            "/v1/runtime/acquire-task",
            "/v1/fleet/register-node",
            "/v1/fleet/unregister-node",
            "/v1/fleet/../control/start-run",
            "/v1/fleet/%2e%2e/control/start-run",
            "/v1/fleet/pull-messages/../../control/start-run",
            "/v1/fleet/pull-messages%0a/v1/control/start-run",
            "/v1//control/start-run",
            "//v1/control/start-run",
            "/v1/fleet/pull-messages/",
            "/docs",
            "/openapi.json",
            "/health",
            "/",
        ],
    )
    def test_no_other_path_passes(self, live, path):
        status = raw_post(live, path)
        assert status in {400, 404}

    def test_a_path_that_folds_into_a_fleet_call_stays_one(self, live):
        # nginx compares the folded path and must not send the other one on.
        assert raw_post(live, "/v1/control/start-run/../../fleet/pull-messages") == 401

    def test_only_post_passes(self, live):
        with httpx.Client(verify=trusting(live.ca), trust_env=False) as client:
            url = f"https://{live.door}/v1/fleet/pull-messages"
            assert client.get(url).status_code == 403

    def test_speaking_for_another_site(self, live, fleet):
        other = Node(node_id=live.nodes[1])
        tries = [
            lambda: fleet.PullMessages(PullMessagesRequest(node=other)),
            lambda: fleet.PushMessages(PushMessagesRequest(node=other)),
            lambda: fleet.PullObject(
                PullObjectRequest(node=other, run_id=1, object_id=secrets.token_hex(32))
            ),
        ]
        assert [refused_with(attempt) for attempt in tries] == [401] * 3

    def test_guessing_objects(self, live, fleet):
        own = Node(node_id=live.nodes[0])
        with live_run(live.link.superlink_address, "guess") as exchange:
            run = exchange._grid.run.run_id
            request = PullObjectRequest(node=own, run_id=run, object_id=secrets.token_hex(32))
            assert refused_with(lambda: fleet.PullObject(request)) == 403

    def test_admitting_oneself_by_the_fleet_api(self, live, fleet):
        stranger = ec.generate_private_key(ec.SECP256R1())
        public = public_key_to_bytes(stranger.public_key())
        with FleetHttpClient.from_server_address(
            live.door,
            insecure=False,
            root_certificates=live.ca,
            interceptors=[NodeAuthHttpInterceptor(stranger, stranger.public_key())],
        ) as client:
            register = RegisterNodeFleetRequest(public_key=public)
            activate = ActivateNodeRequest(public_key=public, heartbeat_interval=30)
            assert refused_with(lambda: client.RegisterNode(register)) == 404
            assert refused_with(lambda: client.ActivateNode(activate)) == 412

    def test_the_same_key_twice(self, live):
        public = public_key_to_bytes(live.key(0).public_key())
        with pytest.raises(SuperLinkUnusable, match="register-node"):
            register_site(live.link.superlink_address, public, "twice")


def raw_post(live: Live, path: str) -> int:
    """A POST whose path no client library has tidied up."""
    with httpx.Client(verify=trusting(live.ca), trust_env=False) as client:
        url = httpx.URL(f"https://{live.door}").copy_with(raw_path=path.encode())
        headers = {"content-type": "application/protobuf"}
        return client.post(url, headers=headers).status_code


@dataclass
class Letters:
    """A request that waits for site 1, whose agent is away, and what site 0 can know of it."""

    run: int
    request: str
    objects: list[str]


class TestAttackOnAnotherSitesObjects:
    """Site 0 with its own valid key, and the ids of site 1's objects."""

    @pytest.fixture
    def waiting(self, live):
        """A request to site 1, whose agent is away; at the end it must still be answered."""
        live.sites[1].stop()
        with live_run(live.link.superlink_address, "waiting") as exchange:
            grid = exchange._grid
            content = RecordDict({"secret": ConfigRecord({"header": b"for site 1 alone"})})
            message = Message(content, live.nodes[1], "query.echo", ttl=300.0)
            [sent] = grid.push_messages([message])
            tree = get_object_tree(message)
            names = [node.object_id for node in iterate_object_tree(tree)]
            yield Letters(grid.run.run_id, sent, names)
            live.sites[1].start()
            # A site that is away for long counts as gone, and a pull would then say so.
            wait_until(lambda: live.nodes[1] in live.online(), 40, "the agent is back")
            got = []
            wait_until(lambda: got.extend(grid.pull_messages([sent])) or got, 60, "site 1 answers")
            assert got[0].content["secret"]["header"] == b"for site 1 alone"
            assert got[0].metadata.src_node_id == live.nodes[1]

    @pytest.fixture
    def fleet(self, live):
        with fleet_of(live, 0) as client:
            yield client

    def test_reading_the_request(self, live, waiting, fleet):
        own = Node(node_id=live.nodes[0])
        for name in waiting.objects:
            request = PullObjectRequest(node=own, run_id=waiting.run, object_id=name)
            assert refused_with(lambda r=request: fleet.PullObject(r)) == 403

    def test_confirming_it_so_that_it_is_deleted(self, live, waiting, fleet):
        own = Node(node_id=live.nodes[0])
        for name in waiting.objects:
            confirm = ConfirmMessageReceivedRequest(
                node=own, run_id=waiting.run, message_object_id=name
            )
            assert refused_with(lambda c=confirm: fleet.ConfirmMessageReceived(c)) == 403

    def test_putting_it_aside_by_the_fused_call(self, live, waiting):
        own = Node(node_id=live.nodes[0])
        request = PullMessagesRequest(node=own, message_ids=waiting.objects)
        response = fused(live, 0, "take", request.SerializeToString(), {"fedrx-wait-s": "0"})
        assert response.status_code == 200
        assert response.content == bytes(4)  # nothing for site 0

    def test_taking_the_mail_of_another_site(self, live):
        request = PullMessagesRequest(node=Node(node_id=live.nodes[1]))
        assert fused(live, 0, "take", request.SerializeToString()).status_code == 401

    @pytest.mark.parametrize("call", ["take", "give"])
    def test_a_fused_call_without_a_signature(self, live, call):
        assert raw_post(live, f"/v1/fleet/{call}") in {400, 401}

    def test_a_signature_of_yesterday(self, live, monkeypatch):
        late = now() - dt.timedelta(days=1)
        monkeypatch.setattr("flwr.supernode.node_auth_http_interceptor.now", lambda: late)
        request = PullMessagesRequest(node=Node(node_id=live.nodes[0]))
        assert fused(live, 0, "take", request.SerializeToString()).status_code == 401

    def test_answering_in_its_name(self, live, waiting, fleet):
        forged = reply_of(live.nodes[1], waiting)
        assert refused_with(lambda: fleet.PushMessages(announced(live.nodes[0], forged))) == 403
        assert give(live, 0, announced(live.nodes[0], forged), forged).status_code == 403

    def test_answering_in_its_place(self, live, waiting):
        own = reply_of(live.nodes[0], waiting)
        assert give(live, 0, announced(live.nodes[0], own), own).status_code == 409

    def test_asking_it_as_if_it_were_the_coordinator(self, live, waiting, fleet):
        order = message_of(waiting.run, 1, live.nodes[1], reply_to="")
        assert refused_with(lambda: fleet.PushMessages(announced(live.nodes[0], order))) == 403

    def test_reading_its_reply(self, live, fleet):
        with live_run(live.link.superlink_address, "reply") as exchange:
            grid = exchange._grid
            content = RecordDict({"secret": ConfigRecord({"header": b"an answer of site 1"})})
            [sent] = grid.push_messages([Message(content, live.nodes[1], "query.echo", ttl=300.0)])
            names = []
            wait_until(lambda: names.extend(reply_objects(live, sent)) or names, 40, "a reply")
            for name in names:
                request = PullObjectRequest(
                    node=Node(node_id=live.nodes[0]), run_id=grid.run.run_id, object_id=name
                )
                assert refused_with(lambda r=request: fleet.PullObject(r)) == 403
            [reply] = grid.pull_messages([sent])
            assert reply.content["secret"]["header"] == b"an answer of site 1"


class TestFillingTheSuperLink:
    """Site 0, whose agent is away, answers its request with what nobody asked for."""

    @pytest.fixture
    def open_request(self, live):
        live.sites[0].stop()
        with live_run(live.link.superlink_address, "flood") as exchange:
            content = RecordDict({"question": ConfigRecord({"header": secrets.token_bytes(8)})})
            message = Message(content, live.nodes[0], "query.echo", ttl=300.0)
            [sent] = exchange._grid.push_messages([message])
            yield Letters(exchange._grid.run.run_id, sent, [])
        live.sites[0].start()
        wait_until(lambda: serves(live.sites[0]), 40, "site 0 is back")

    def test_objects_that_nobody_announced(self, live, open_request):
        content = b"ArrayChunk  5\x00abcde"
        request = PushObjectRequest(
            node=Node(node_id=live.nodes[0]),
            run_id=open_request.run,
            object_id=hashlib.sha256(content).hexdigest(),
            object_content=content,
        )
        with fleet_of(live, 0) as fleet:
            assert refused_with(lambda: fleet.PushObject(request)) == 403

    def test_more_objects_than_announced(self, live, open_request):
        own = reply_of(live.nodes[0], open_request)
        more = give(live, 0, announced(live.nodes[0], own), own, extra=[b"one more"])
        assert more.status_code == 400

    def test_fewer_objects_than_announced(self, live, open_request):
        own = reply_of(live.nodes[0], open_request)
        body = frames.body([announced(live.nodes[0], own).SerializeToString()])
        assert fused(live, 0, "give", body).status_code == 400

    def test_an_object_that_is_another_than_announced(self, live, open_request):
        own = reply_of(live.nodes[0], open_request)
        contents = [item.deflate() for item in get_all_nested_objects(own).values()]
        head = announced(live.nodes[0], own).SerializeToString()
        body = frames.body([head, *contents[1:], contents[0]])
        assert fused(live, 0, "give", body).status_code == 400

    def test_an_object_that_is_too_long(self, live, open_request):
        head = announced(live.nodes[0], reply_of(live.nodes[0], open_request)).SerializeToString()
        body = frames.body([head, bytes(DEFAULT_LIMITS.object_bytes + 1)])
        assert fused(live, 0, "give", body).status_code == 400

    def test_a_head_that_is_too_long(self, live, open_request):
        body = frames.body([bytes(DEFAULT_LIMITS.head_bytes + 1)])
        assert fused(live, 0, "give", body).status_code == 400

    def test_too_many_objects(self, live, open_request):
        request = announced(live.nodes[0], reply_of(live.nodes[0], open_request))
        tree = request.message_object_trees[0]
        for _ in range(DEFAULT_LIMITS.objects):
            tree.children.add(object_id=secrets.token_hex(32))
        assert fused(live, 0, "give", frames.body([request.SerializeToString()])).status_code == 413
        with fleet_of(live, 0) as fleet:
            assert refused_with(lambda: fleet.PushMessages(request)) == 413


@contextmanager
def fleet_of(live: Live, site: int):
    """Flower's own client with the key of a site."""
    key = live.key(site)
    with FleetHttpClient.from_server_address(
        live.door,
        insecure=False,
        root_certificates=live.ca,
        interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
    ) as client:
        yield client


def fused(live: Live, site: int, call: str, content: bytes, headers=None) -> httpx.Response:
    """A fused call, signed with the key of a site."""
    key = live.key(site)
    kind = "application/protobuf" if call == "take" else "application/vnd.fedrx.frames"
    with httpx.Client(verify=trusting(live.ca), trust_env=False) as client:
        url = f"https://{live.door}/v1/fleet/{call}"
        request = client.build_request(
            "POST", url, content=content, headers={"content-type": kind, **(headers or {})}
        )
        context = ProtobufRequestContext(call, Node(), request)
        sign = NodeAuthHttpInterceptor(key, key.public_key())
        return sign.intercept(context, lambda signed: client.send(signed.request))


def message_of(run: int, source: int, target: int, reply_to: str) -> Message:
    meta = Metadata(run, "", source, target, reply_to, "", time.time(), 30.0, "query.echo")
    content = RecordDict({"fedrx": ConfigRecord({"header": secrets.token_bytes(8)})})
    message = make_message(metadata=meta, content=content)
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def reply_of(node: int, letters: Letters) -> Message:
    return message_of(letters.run, node, 1, letters.request)


def announced(node: int, message: Message) -> PushMessagesRequest:
    return PushMessagesRequest(
        node=Node(node_id=node),
        messages_list=[message_to_proto(remove_content_from_message(message))],
        message_object_trees=[get_object_tree(message)],
    )


def give(live: Live, site: int, request, message: Message, extra=()) -> httpx.Response:
    contents = [item.deflate() for item in get_all_nested_objects(message).values()]
    body = frames.body([request.SerializeToString(), *contents, *extra])
    return fused(live, site, "give", body)


def reply_objects(live: Live, request: str) -> list[str]:
    """Ids of all objects of the reply to a request, read from the SuperLink's own file."""
    with closing(sqlite3.connect(live.link._folder / "state.db")) as state:
        rows = state.execute(
            """
            WITH RECURSIVE tree(id) AS (
                SELECT message_id FROM message_res WHERE reply_to_message_id = ?
                UNION SELECT child_id FROM object_children JOIN tree ON parent_id = tree.id
            ) SELECT id FROM tree JOIN objects ON object_id = id WHERE is_available
            """,
            [request],
        )
        return [name for (name,) in rows]


class TestFaults:
    def test_a_killed_agent_is_lost_and_comes_back_as_the_same_node(self, live):
        with live_run(live.link.superlink_address, "killed") as exchange:
            live.sites[0].kill()
            replies = echo(exchange, live.nodes, deadline_s=10.0)
            assert answered(replies) == set(live.nodes[1:])
            assert replies[live.nodes[0]].lost
            live.sites[0].start()
            wait_until(lambda: serves(live.sites[0]), 40, "the agent is back")
            assert answered(echo(exchange, live.nodes)) == set(live.nodes)

    def test_sigterm_ends_an_agent_cleanly_and_at_once(self, live):
        start = time.monotonic()
        assert live.sites[1].stop() == 0
        # At once: it does not wait for the end of its open question.
        assert time.monotonic() - start < 0.75 * DEFAULT_LIMITS.wait_s
        assert live.nodes[1] not in live.online()
        live.sites[1].start()
        wait_until(lambda: live.nodes[1] in live.online(), 40, "the agent is back")

    def test_superlink_killed_in_a_run(self, live):
        with live_run(live.link.superlink_address, "superlink") as exchange:
            before = live.link.pids["superlink"]
            os.kill(before, signal.SIGKILL)
            replies = echo(exchange, live.nodes, deadline_s=120.0)
            assert answered(replies) == set(live.nodes)
        assert live.link.pids["superlink"] != before

    def test_proxy_killed_in_a_run(self, live):
        with live_run(live.link.superlink_address, "proxy") as exchange:
            before = live.link.pids["proxy"]
            os.kill(before, signal.SIGTERM)
            assert answered(echo(exchange, live.nodes, deadline_s=120.0)) == set(live.nodes)
        assert live.link.pids["proxy"] != before

    def test_a_revoked_site_is_shut_out_and_says_so(self, live):
        unregister_site(live.link.superlink_address, live.nodes[2])
        site = live.sites[2]
        wait_until(lambda: probe_state(site.health_port) == NOT_SERVING, 30, "site 2 is out")
        assert "does not admit this key" in site.log
        with live_run(live.link.superlink_address, "revoked") as exchange:
            assert set(exchange.nodes()) == set(live.nodes[:2])
            assert answered(echo(exchange, live.nodes[:2])) == set(live.nodes[:2])


def serves(site: SiteProcess) -> bool:
    try:
        return probe_state(site.health_port) == SERVING
    except grpc.RpcError:
        return False
