"""Names and order that both ends of a fused call agree on."""

from typing import Final

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

FLEET: Final = "/v1/fleet/"
RUNTIME: Final = "/v1/runtime/"
FRAMES_MEDIA_TYPE: Final = "application/vnd.fedrx.frames"
WAIT_HEADER: Final = "fedrx-wait-s"

# The proxy says here who called it, for the log alone.
ADDRESS_HEADER: Final = "fedrx-address"


def ordered(tree: ObjectTree) -> list[str]:
    """Ids of a tree, each once, children first: the order in which the objects travel."""
    return list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
