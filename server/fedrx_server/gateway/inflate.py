"""A reply's objects put together to Flower's message, with one copy of its large vector in memory.

The sender is the one whom the SuperLink has checked, not the one that stands in the reply.
"""

from flwr.app import Array, Message
from flwr.app.message import make_message
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.inflatable.inflatable_object import InflatableObject
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedrx_common.errors import PeerError
from fedrx_protocol.messages.array_chunks import assemble, is_array


class ReplyUnreadable(PeerError):  # noqa: N818 - named for what happened
    """A reply's objects are no message; its site counts as lost for this request."""


def inflate_reply(
    head: ProtoMessage, root: str, contents: dict[str, bytes], longest: int
) -> Message:
    """The message; empties `contents`, which gives the memory back.

    Args:
        head: What the SuperLink knows of it.
        root: Id of the message among its objects.
        contents: All its objects.
        longest: Bytes of the longest array.

    Raises:
        ReplyUnreadable: Objects do not fit together.
        ArrayInvalid: An array does not, or it is too long.
    """
    arrays: dict[str, InflatableObject] = {
        name: Array(*assemble(contents[name], contents, longest))
        for name in [name for name, content in contents.items() if is_array(content)]
    }
    try:
        message = inflate_object_from_contents(root, contents, objects=arrays)
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise ReplyUnreadable(f"objects do not fit together ({type(error).__name__}).") from None
    if not isinstance(message, Message):
        raise ReplyUnreadable("the objects are no message.")
    metadata = metadata_from_proto(head.metadata)
    if message.has_error():
        return make_message(metadata=metadata, error=message.error)
    return make_message(metadata=metadata, content=message.content)
