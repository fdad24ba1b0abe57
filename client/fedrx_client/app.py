"""The Flower ClientApp of a site: a thin adapter that moves protocol messages in and out.

It decides nothing. A request goes to the `Site`, its answer goes back; a refusal goes back as the
name of its reason and nothing else, because its sentence may hold numbers that belong to the
hospital. The sentence is logged at the site.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fedrx_client.site import Site
from fedrx_protocol import wire
from fedrx_protocol.errors import FedRxError
from fedrx_protocol.secagg.messages import (
    AdvertList,
    AdvertRequest,
    ResolveRequest,
    RoundRequest,
    SecAggMessage,
    UnmaskRequest,
)

logger = logging.getLogger(__name__)

_RECORD = "fedrx"
_KEYS = "fedrx.keys"

Handler = Callable[[Message, Context], Message]


def make_client_app(open_site: Callable[[Context], Site], mods: Sequence[Any] = ()) -> ClientApp:
    """Build the ClientApp of one or many sites.

    Args:
        open_site: Finds the site that a node is, from Flower's context; may keep it warm.
        mods: Flower mods around every handler, e.g. a simulator's faults.
    """
    app = ClientApp(mods=list(mods))

    def handler(work: Callable[[Site, RecordDict], RecordDict]) -> Handler:
        return lambda message, context: _answer(open_site, work, message, context)

    app.query("advertise")(handler(_advertise))
    app.query("keys")(handler(_accept))
    app.train("masked")(handler(_train))
    app.query("resolve")(handler(_resolve))
    app.query("unmask")(handler(_unmask))
    return app


def _answer(
    open_site: Callable[[Context], Site],
    work: Callable[[Site, RecordDict], RecordDict],
    message: Message,
    context: Context,
) -> Message:
    try:
        site = open_site(context)
        # Round keys live in memory. Where each message may meet another process of the same
        # node (Flower's own SuperNode, a Ray actor), they travel in the node's own context.
        saved = context.state.config_records.get(_KEYS)
        if saved is not None:
            site.restore_keys(cast("bytes", saved["keys"]))
        content = work(site, message.content)
        context.state[_KEYS] = ConfigRecord({"keys": site.export_keys()})
    except FedRxError as error:
        logger.warning("refused %s: %s", message.metadata.message_type, error)
        content = RecordDict({_RECORD: ConfigRecord({"refusal": type(error).__name__})})
    except Exception:
        # An unforeseen error's text may quote a patient: it stays here, in the site's log.
        logger.exception("could not answer %s", message.metadata.message_type)
        content = RecordDict({_RECORD: ConfigRecord({"refusal": "InternalError"})})
    return Message(content, reply_to=message)


def _advertise(site: Site, content: RecordDict) -> RecordDict:
    return _reply(site.advertise(wire.decode(_header(content), AdvertRequest)))


def _accept(site: Site, content: RecordDict) -> RecordDict:
    site.accept(wire.decode(_header(content), AdvertList))
    return RecordDict({_RECORD: ConfigRecord({"header": b""})})


def _train(site: Site, content: RecordDict) -> RecordDict:
    request = wire.decode(_header(content), RoundRequest)
    masked = site.train(request, _vector(content))
    header, payload = wire.encode_masked(masked)
    reply = RecordDict({_RECORD: ConfigRecord({"header": header})})
    array = Array("uint32", (len(payload) // 4,), "fedrx.raw", payload)
    reply["payload"] = ArrayRecord({"vector": array})
    return reply


def _resolve(site: Site, content: RecordDict) -> RecordDict:
    return _reply(site.resolve(wire.decode(_header(content), ResolveRequest)))


def _unmask(site: Site, content: RecordDict) -> RecordDict:
    return _reply(site.unmask(wire.decode(_header(content), UnmaskRequest)))


def _reply(message: SecAggMessage) -> RecordDict:
    return RecordDict({_RECORD: ConfigRecord({"header": wire.encode(message)})})


def _header(content: RecordDict) -> bytes:
    record = content.config_records.get(_RECORD)
    header = record.get("header") if record is not None else None
    if not isinstance(header, bytes):
        raise wire.MalformedMessage("the request carries no FedRx header.")
    return header


def _vector(content: RecordDict) -> NDArray[np.float32]:
    record = content.array_records.get("payload")
    if record is None or "vector" not in record:
        raise wire.MalformedMessage("the request carries no model.")
    data = record["vector"].data
    if len(data) % 4:
        raise wire.MalformedMessage(f"a model of {len(data)} bytes is no vector of float32.")
    return np.frombuffer(data, dtype="<f4")
