"""Flower's own fleet calls: Flower's handlers, each behind the check of whose object it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import Message  # type: ignore[import-untyped]  # ships no types

from fedrx_server.gateway.endpoints import FLEET
from fedrx_server.gateway.ownership import Owners

Handler = Callable[..., Message]
Check = Callable[..., None]


@dataclass(frozen=True)
class FlowerEndpoint:
    """One of Flower's fleet calls.

    Args:
        answer: Flower's handler.
        needs_store: Whether it wants the object store besides the state.
        check: Refuses what is not the node's own.
    """

    answer: Handler
    needs_store: bool = False
    check: Check | None = None


def stock_calls(owners: Owners) -> Mapping[str, FlowerEndpoint]:
    """Flower's fleet calls; registering is the coordinator's, and so is not among them."""
    handlers = fleet_handlers
    calls = {
        "activate-node": FlowerEndpoint(handlers.activate_node),
        "deactivate-node": FlowerEndpoint(handlers.deactivate_node),
        "send-node-heartbeat": FlowerEndpoint(handlers.send_node_heartbeat),
        "pull-messages": FlowerEndpoint(handlers.pull_messages, needs_store=True),
        "push-messages": FlowerEndpoint(handlers.push_messages, check=owners.check_push_messages),
        "get-run": FlowerEndpoint(handlers.get_run),
        "get-fab": FlowerEndpoint(handlers.get_fab),
        "push-object": FlowerEndpoint(handlers.push_object, check=owners.check_push_object),
        "pull-object": FlowerEndpoint(handlers.pull_object, check=owners.check_pull_object),
        "confirm-message-received": FlowerEndpoint(
            handlers.confirm_message_received, needs_store=True, check=owners.check_confirm
        ),
    }
    return {f"{FLEET}{name}": call for name, call in calls.items()}
