"""Every internal of Flower that we use, so that a new release is judged in minutes.

Flower promises `flwr.app`, `flwr.clientapp`, `flwr.serverapp` and `flwr.simulation`. All else is
internal: it is imported in three folders only, and each name is here with how it is used. To judge
a release, install it with `pip install --no-deps flwr==…` in an environment of its own and run this
file there; decision 27 says what comes after.
"""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from fedrx_client.connection import fleet
from fedrx_server.gateway import control

ROOT = Path(__file__).parents[1]
ROOMS = ("client", "server", "simulation", "shared_models", "protocol", "common", "fedrx")
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation"}
ALLOWED = (
    "client/fedrx_client/connection/",
    "server/fedrx_server/gateway/",
    "server/fedrx_server/service/",
)

# What we call, with the number of arguments that we give by position, and those by name.
CALLS = {
    "flwr.app.message:make_message": (0, "metadata content error"),
    "flwr.app.message:remove_content_from_message": (1, ""),
    "flwr.common.serde:message_from_proto": (1, ""),
    "flwr.common.serde:message_to_proto": (1, ""),
    "flwr.common.serde:run_from_proto": (1, ""),
    "flwr.common.serde_utils:metadata_from_proto": (1, ""),
    "flwr.server.superlink.linkstate.utils:convert_sint64_values_in_dict_to_uint64": (2, ""),
    "flwr.server.superlink.linkstate.utils:create_message_error_unavailable_ins_message": (2, ""),
    "flwr.server.superlink.linkstate.utils:create_message_error_unavailable_res_message": (2, ""),
    "flwr.server.superlink.linkstate.utils:dict_to_message": (1, ""),
    "flwr.supercore.control:ControlHttpClient": (1, "interceptors verify retry_invoker"),
    "flwr.supercore.dependencies.task:authenticate_task": (3, ""),
    "flwr.supercore.error:http_error_translator": (2, ""),
    "flwr.supercore.http_logging:get_uvicorn_log_config": (1, ""),
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": (1, ""),
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": (1, ""),
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": (1, ""),
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": (0, ""),
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": (2, "objects"),
    "flwr.supercore.interceptors:RuntimeTokenHttpInterceptor": (0, "token"),
    "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor": (0, "component_name"),
    "flwr.supercore.interceptors:SuperExecAuthHttpInterceptor": (
        0,
        "master_secret protected_methods",
    ),
    "flwr.supercore.primitives.asymmetric:public_key_to_bytes": (1, ""),
    "flwr.supercore.protobuf.client:ProtobufClient": (1, "interceptors verify retry_invoker"),
    "flwr.supercore.protobuf.client:ProtobufRequestContext": (3, ""),
    "flwr.supercore.retry:RetryInvoker": (2, "max_tries max_time should_giveup"),
    "flwr.supercore.retry:exponential": (0, "base_delay max_delay"),
    "flwr.supercore.run:Run.create_empty": (1, ""),
    "flwr.supercore.runtime:RuntimeHttpClient": (1, "interceptors verify retry_invoker"),
    "flwr.supercore.utils:int64_to_uint64": (1, ""),
    "flwr.supercore.utils:uint64_to_int64": (1, ""),
    "flwr.superlink.cli.flower_superlink:_parse_superlink_lifespan_config": (0, ""),
    "flwr.superlink.grid:HttpGrid": (0, "runtime_api_address root_certificates token"),
    "flwr.superlink.main:create_app": (2, ""),
    "flwr.superlink.routers.fleet.node_auth:authenticate_node": (1, ""),
    "flwr.supernode.fleet_http_client:FleetHttpClient": (1, "interceptors verify"),
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor": (2, ""),
    # Methods, with the object itself as the first argument.
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.delete_messages": (2, ""),
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.get_node_id_by_public_key": (2, ""),
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.get_run_status": (2, ""),
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.query": (3, ""),
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.session": (1, ""),
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.store_message_ins": (2, ""),
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.store_message_res": (2, ""),
    "flwr.supercore.object_store.object_store:ObjectStore.delete": (2, ""),
    "flwr.supercore.object_store.object_store:ObjectStore.preregister": (3, ""),
    "flwr.supercore.object_store.object_store:ObjectStore.put": (3, ""),
    "flwr.supercore.inflatable.inflatable_object:InflatableObject.deflate": (1, ""),
    "flwr.supercore.protobuf.translation:ProtobufTranslationMiddleware._parse_request": (2, ""),
    "flwr.supercore.protobuf.translation:ProtobufTranslationMiddleware._check_request_media_type": (
        1,
        "",
    ),
    "flwr.supercore.protobuf.client:ProtobufClient.close": (1, ""),
    "flwr.supercore.retry:RetryInvoker.invoke": (2, ""),
    "flwr.supercore.control:ControlHttpClient.ListNodes": (2, ""),
    "flwr.supercore.control:ControlHttpClient.RegisterNode": (2, ""),
    "flwr.supercore.control:ControlHttpClient.StartRun": (2, ""),
    "flwr.supercore.control:ControlHttpClient.UnregisterNode": (2, ""),
    "flwr.supercore.runtime:RuntimeHttpClient.AcquireTask": (2, ""),
    "flwr.supercore.runtime:RuntimeHttpClient.PullTaskInput": (2, ""),
    "flwr.supercore.runtime:RuntimeHttpClient.PushTaskOutput": (2, ""),
    "flwr.supercore.runtime:RuntimeHttpClient.SendTaskHeartbeat": (2, ""),
    "flwr.superlink.grid:HttpGrid._connect": (1, ""),
    "flwr.superlink.grid:HttpGrid._try_push_messages": (3, ""),
    "flwr.superlink.grid:HttpGrid.close": (1, ""),
    "flwr.superlink.grid:HttpGrid.pull_messages": (2, ""),
    "flwr.superlink.grid:HttpGrid.set_run": (2, ""),
    "flwr.supernode.fleet_http_client:FleetHttpClient.ActivateNode": (2, ""),
    "flwr.supernode.fleet_http_client:FleetHttpClient.DeactivateNode": (2, ""),
    "flwr.supernode.fleet_http_client:FleetHttpClient.SendNodeHeartbeat": (2, ""),
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor.intercept": (3, ""),
    "flwr.superlink.servicer.fleet:fleet_handlers.activate_node": (2, ""),
    "flwr.superlink.servicer.fleet:fleet_handlers.confirm_message_received": (3, ""),
    "flwr.superlink.servicer.fleet:fleet_handlers.deactivate_node": (2, ""),
    "flwr.superlink.servicer.fleet:fleet_handlers.get_fab": (2, ""),
    "flwr.superlink.servicer.fleet:fleet_handlers.get_run": (2, ""),
    "flwr.superlink.servicer.fleet:fleet_handlers.pull_messages": (3, ""),
    "flwr.superlink.servicer.fleet:fleet_handlers.pull_object": (2, ""),
    "flwr.superlink.servicer.fleet:fleet_handlers.push_messages": (2, ""),
    "flwr.superlink.servicer.fleet:fleet_handlers.push_object": (2, ""),
    "flwr.superlink.servicer.fleet:fleet_handlers.send_node_heartbeat": (2, ""),
}

# Messages on the wire, and the fields that we read or write, by their numbers.
FIELDS = {
    "control_pb2:ListNodesRequest": {},
    "control_pb2:ListNodesResponse": {"nodes_info": 1},
    "control_pb2:RegisterNodeRequest": {"public_key": 1, "name": 3},
    "control_pb2:RegisterNodeResponse": {"node_id": 1},
    "control_pb2:StartRunRequest": {"fab": 1},
    "control_pb2:StartRunResponse": {"run_id": 1},
    "control_pb2:UnregisterNodeRequest": {"node_id": 1},
    "fab_pb2:Fab": {"hash_str": 1, "content": 2},
    "fleet_pb2:ActivateNodeRequest": {"public_key": 1, "heartbeat_interval": 2},
    "fleet_pb2:DeactivateNodeRequest": {"node_id": 1},
    "fleet_pb2:PullMessagesRequest": {"node": 1, "message_ids": 2},
    "fleet_pb2:PullMessagesResponse": {"messages_list": 2, "message_object_trees": 3},
    "fleet_pb2:PushMessagesRequest": {
        "node": 1,
        "messages_list": 2,
        "message_object_trees": 3,
        "clientapp_runtime_list": 4,
    },
    "heartbeat_pb2:SendNodeHeartbeatRequest": {"node": 1, "heartbeat_interval": 2},
    "message_pb2:ConfirmMessageReceivedRequest": {"node": 1, "run_id": 2, "message_object_id": 3},
    "message_pb2:Message": {"metadata": 1, "content": 2, "error": 3},
    "message_pb2:ObjectTree": {"object_id": 1, "children": 2},
    "message_pb2:PullObjectRequest": {"node": 1, "run_id": 2, "object_id": 3},
    "message_pb2:PushObjectRequest": {"node": 1, "run_id": 2, "object_id": 3, "object_content": 4},
    "node_pb2:Node": {"node_id": 1},
    "node_pb2:NodeInfo": {"node_id": 1, "status": 4, "public_key": 11, "name": 13},
    "runtime_pb2:AcquireTaskRequest": {"supported_task_types": 1},
    "runtime_pb2:PullAppMessagesRequest": {"message_ids": 2},
    "runtime_pb2:PullAppMessagesResponse": {"messages_list": 1, "message_object_trees": 2},
    "runtime_pb2:PullTaskInputRequest": {},
    "runtime_pb2:PushAppMessagesRequest": {"messages_list": 2, "message_object_trees": 3},
    "runtime_pb2:PushAppMessagesResponse": {"message_ids": 1},
    "runtime_pb2:PushTaskOutputRequest": {"sub_status": 2, "details": 3},
    "runtime_pb2:SendTaskHeartbeatRequest": {},
}

# Words and numbers.
VALUES = {
    "flwr.common.constant:ErrorCode.CLIENT_APP_RAISED_EXCEPTION": 2,
    "flwr.common.constant:ErrorCode.NODE_UNAVAILABLE": 5,
    "flwr.common.constant:SUPERLINK_NODE_ID": 1,
    "flwr.common.constant:Status.RUNNING": "running",
    "flwr.common.constant:SubStatus.COMPLETED": "completed",
    "flwr.common.constant:SubStatus.FAILED": "failed",
    "flwr.supercore.constant:FLEET_HTTP_PUBLIC_KEY_HEADER": "flwr-public-key",
    "flwr.supercore.constant:TASK_TOKEN_HEADER": "flwr-task-token",
    "flwr.supercore.constant:TaskType.SERVER_APP": "flwr-serverapp",
    "flwr.supercore.protobuf.constants:PROTOBUF_MEDIA_TYPE": "application/protobuf",
}

# What only has to be there: classes that we inherit, compare with or set values of.
THERE = (
    "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState",
    "flwr.supercore.inflatable.inflatable_object:InflatableObject",
    "flwr.supercore.logger:console_handler.level",
    "flwr.supercore.protobuf.client:ProtobufClientInterceptor",
    "flwr.supercore.protobuf.translation:PROTOBUF_REQUEST_TYPES",
    "flwr.supercore.protobuf.translation:ProtobufTranslationMiddleware",
    "flwr.supercore.run:Run",
    "flwr.supercore.sql_mixin:SqlMixin",
    "flwr.supercore.state.schema.objectstore_models:StoredObject.content",
    "flwr.supercore.state.schema.objectstore_models:StoredObject.object_id",
    "flwr.supercore.task_identity:TaskIdentity.__class__.node_id",
    "flwr.supercore.task_identity:TaskIdentity.__class__.run_id",
    "flwr.supercore.task_identity:TaskIdentity.__class__.task_id",
    "flwr.supercore.version:package_version",
    "flwr.superlink.cli.flower_superlink:SuperLinkLifespan",
    "flwr.superlink.servicer.fleet:fleet_handlers",
)

# Attributes that an object sets in its constructor, which only its source shows.
SET = {
    "flwr.superlink.grid:HttpGrid": ("_token", "_tracing", "_client", "_retry_invoker"),
    "flwr.supercore.protobuf.client:ProtobufClient": ("_client",),
    "flwr.supercore.sql_mixin:SqlMixin": ("_engine",),
}

# Tables of the SuperLink's store that our own queries read or write.
COLUMNS = {
    "message_ins": "message_id run_id src_node_id dst_node_id created_at ttl",
    "message_res": "message_id run_id src_node_id reply_to_message_id created_at",
    "node": "node_id status online_until",
    "object_children": "parent_id child_id",
    "objects": "object_id content is_available",
}

ROUTES = (
    "activate-node confirm-message-received deactivate-node get-fab get-run pull-messages "
    "pull-object push-messages push-object send-node-heartbeat"
)

OPTIONS = (
    "--host --port --ssl-ca-certfile --ssl-certfile --ssl-keyfile --enable-supernode-auth "
    "--database --disable-runtime-dependency-installation --isolation --superexec-auth-secret-file"
)


def imports():
    """Each name that our code imports from Flower's internals, with the file."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        assert alias.name.partition(".")[0] != "flwr", f"{path}: name what is used"
                elif isinstance(node, ast.ImportFrom):
                    module = node.module or ""
                    if module.partition(".")[0] == "flwr" and module not in PUBLIC:
                        for alias in node.names:
                            yield str(path.relative_to(ROOT)), f"{module}:{alias.name}"


def found(place):
    module, _, names = place.partition(":")
    value = import_module(module)
    for name in names.split("."):
        value = getattr(value, name)
    return value


def test_internals_are_imported_in_three_folders_only():
    assert {file for file, _ in imports() if not file.startswith(ALLOWED)} == set()


def test_every_internal_that_is_imported_is_named_here_and_no_other():
    proto = {f"flwr.proto.{name}" for name in FIELDS}
    named = {*CALLS, *VALUES, *THERE, *proto}
    tops = {":".join((p.partition(":")[0], p.partition(":")[2].split(".")[0])) for p in named}
    used = {place for _, place in imports()}
    assert used - tops == set()
    answers = {p for p in proto if p.endswith(("Response", "NodeInfo"))}
    reached = {"flwr.supercore.object_store.object_store:ObjectStore"}  # as `state.object_store`
    assert tops - used - answers - reached == set()


@pytest.mark.parametrize("place", CALLS)
def test_it_can_be_called_as_we_call_it(place):
    count, names = CALLS[place]
    inspect.signature(found(place)).bind(*range(count), **dict.fromkeys(names.split()))


@pytest.mark.parametrize("place", FIELDS)
def test_a_message_has_the_fields_under_the_same_numbers(place):
    fields = found(f"flwr.proto.{place}").DESCRIPTOR.fields_by_name
    assert {name: fields[name].number for name in FIELDS[place]} == FIELDS[place]


@pytest.mark.parametrize("place", VALUES)
def test_a_word_or_number_is_the_same(place):
    assert found(place) == VALUES[place]


@pytest.mark.parametrize("place", THERE)
def test_it_is_there(place):
    found(place)


@pytest.mark.parametrize("place", SET)
def test_an_object_still_has_the_attributes(place):
    source = "".join(inspect.getsource(kind) for kind in found(place).__mro__[:-1])
    assert [name for name in SET[place] if f"self.{name}" not in source] == []


@pytest.mark.parametrize("table", COLUMNS)
def test_a_table_has_the_columns_of_our_queries(table):
    names = ("corestate_models", "linkstate_models", "objectstore_models")
    modules = [import_module(f"flwr.supercore.state.schema.{name}") for name in names]
    kinds = {
        value for one in modules for value in vars(one).values() if hasattr(value, "__table__")
    }
    (columns,) = [kind.__table__.columns.keys() for kind in kinds if kind.__tablename__ == table]
    assert set(COLUMNS[table].split()) - set(columns) == set()


def test_the_calls_of_sites_have_their_paths():
    known = found("flwr.supercore.protobuf.translation:PROTOBUF_REQUEST_TYPES")
    assert [one for one in ROUTES.split() if ("POST", f"/v1/fleet/{one}") not in known] == []


def test_the_superlink_has_the_options_that_it_is_started_with():
    command = [sys.executable, "-m", "fedrx_server.gateway", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [one for one in OPTIONS.split() if one not in done.stdout] == []


def test_the_version_that_is_pinned_is_the_same_everywhere():
    pinned = fleet.FLOWER_VERSION
    assert pinned == control.FLOWER_VERSION
    assert f'"flwr=={pinned}"' in (ROOT / "pyproject.toml").read_text()
    assert f"\nflwr=={pinned}\n" in (ROOT / "constraints.txt").read_text()
