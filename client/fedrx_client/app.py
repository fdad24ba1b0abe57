"""The Flower ClientApp of a site: a thin adapter that moves protocol messages in and out.

It decides nothing. A request goes to the `Site`, its answer goes back; a refusal goes back as the
name of its reason and nothing else, because its sentence may hold numbers that belong to the
hospital. The sentence is logged at the site. `app` is what Flower's own SuperNode loads.
"""

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fedrx_client.participation.site import Site
from fedrx_client.records.run_audit import Request
from fedrx_common.errors import FedRxError, MisuseError, PeerError
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.offer import OfferReply, RunOffer
from fedrx_protocol.messages.secure_aggregation import (
    AdvertList,
    AdvertRequest,
    ResolveRequest,
    RoundRequest,
    UnmaskRequest,
)

if TYPE_CHECKING:
    from fedrx_client.participation.live_site import LiveSite

logger = logging.getLogger(__name__)

FOLDER = "fedrx-folder"
FOLDER_VARIABLE = "FEDRX_SITE_FOLDER"
PASSPHRASE_VARIABLE = "FEDRX_PASSPHRASE"  # noqa: S105 - the name of a variable
OPEN = "query.open"
_RECORD = "fedrx"
_KEYS = "fedrx.keys"

OpenSite = Callable[[Context], Site]


class UnknownRequest(PeerError):
    """A message of a kind that no FedRx coordinator sends."""


class ReleaseDiffers(PeerError):
    """The coordinator runs another release; numbers might not mean the same."""


class RunHandler(Protocol):
    """What a live site has beside its `Site`s: it opens runs, and writes everything down.

    `fedrx_client.participation.live_site.LiveSite` says what each raises; an error is a refusal.
    """

    def open(self, run: int, offer: RunOffer) -> OfferReply: ...  # noqa: D102 - see LiveSite

    def asked(self, run: int, kind: str, request: Request) -> None: ...  # noqa: D102 - see LiveSite

    def answered(self, run: int, kind: str, request: Request, what: str) -> None: ...  # noqa: D102 - see LiveSite

    def compare(self, witness: bytes) -> None: ...  # noqa: D102 - see LiveSite

    def signed_head(self) -> bytes: ...  # noqa: D102 - see LiveSite

    def refused(  # noqa: D102 - see LiveSite
        self, run: int, kind: str, request: Request | None, error: Exception
    ) -> None: ...


@dataclass(frozen=True)
class _Action:
    """One kind of request: how it is read, what answers it, and that answer in words."""

    reads: type[Any]
    work: Callable[[Site, Any, RecordDict], RecordDict]
    answer: str


def make_client_app(
    open_site: OpenSite, mods: Sequence[Any] = (), *, desk: RunHandler | None = None
) -> ClientApp:
    """Build the ClientApp of one or many sites.

    Args:
        open_site: Finds the site that a node is, from Flower's context; may keep it warm.
        mods: Flower mods around every handler, e.g. a simulator's faults.
        desk: Opens offered runs and writes an audit log; simulated sites have none.
    """
    app = _SiteApp(desk, mods)
    for kind, action in _ACTIONS.items():
        category, _, name = kind.partition(".")
        getattr(app, category)(name)(functools.partial(_answer, open_site, action, desk))
    if desk is not None:
        app.query(OPEN.partition(".")[2])(functools.partial(_open, desk))
    return app


def live_client_app(live: "LiveSite") -> ClientApp:
    """The ClientApp of a hospital that takes part for real."""
    return make_client_app(live.site, desk=live)


class _SiteApp(ClientApp):
    """A ClientApp that refuses, and writes down, kinds of messages it does not know."""

    def __init__(self, desk: RunHandler | None, mods: Sequence[Any]) -> None:
        super().__init__(mods=list(mods))
        self._desk = desk

    def __call__(self, message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        if kind in _ACTIONS or kind == OPEN:
            return super().__call__(message, context)
        return _refusal(self._desk, message, None, UnknownRequest(f"there is no {kind!r} here."))


def _answer(
    open_site: OpenSite,
    action: _Action,
    desk: RunHandler | None,
    message: Message,
    context: Context,
) -> Message:
    request, kind = None, message.metadata.message_type
    try:
        request = codec.decode(_header(message.content), action.reads)
        if desk is not None:
            desk.compare(_witness(message.content))
        site = open_site(context)
        if desk is not None:
            desk.asked(context.run_id, kind, request)
        # Round keys live in memory. Where each message may meet another process of the same
        # node (Flower's own SuperNode, a Ray actor), they travel in the node's own context.
        saved = context.state.config_records.get(_KEYS)
        if saved is not None:
            site.restore_keys(cast("bytes", saved["keys"]))
        content = action.work(site, request, message.content)
        context.state[_KEYS] = ConfigRecord({"keys": site.export_keys()})
        if desk is not None:
            desk.answered(context.run_id, kind, request, action.answer)
            _add_witness(content, desk)
    except Exception as error:  # noqa: BLE001 - its text may quote a patient: it stays here
        return _refusal(desk, message, request, error)
    return Message(content, reply_to=message)


def _open(desk: RunHandler, message: Message, context: Context) -> Message:
    offer, kind = None, message.metadata.message_type
    try:
        offer = codec.decode(_header(message.content), RunOffer)
        desk.compare(_witness(message.content))
        reply = desk.open(context.run_id, offer)
        # A coordinator repeats its offer often: what was not opened is one line, like a refusal.
        if reply.version == offer.version:
            desk.asked(context.run_id, kind, offer)
            desk.answered(context.run_id, kind, offer, "run opened")
        else:
            differs = ReleaseDiffers(
                f"another release, not opened: the coordinator runs FedRx {offer.version}, this "
                f"site {reply.version}; install the same on both sides."
            )
            desk.refused(context.run_id, kind, offer, differs)
        content = _header_record(codec.encode(reply))
        _add_witness(content, desk)
    except Exception as error:  # noqa: BLE001 - its text may quote a patient: it stays here
        return _refusal(desk, message, offer, error)
    return Message(content, reply_to=message)


def _refusal(
    desk: RunHandler | None, message: Message, request: Request | None, error: Exception
) -> Message:
    """Answer with the name of the reason, after the reason itself was written down here."""
    kind = message.metadata.message_type
    name = error.refusal if isinstance(error, FedRxError) else "InternalError"
    if not isinstance(error, FedRxError):
        logger.error("could not answer %s", kind, exc_info=error)
    elif desk is None:
        logger.warning("refused %s: %s", kind, error)
    if desk is not None:
        try:
            desk.refused(message.metadata.run_id, kind, request, error)
        except FedRxError as worse:
            logger.error("a refusal could not be written down: %s", worse)  # noqa: TRY400 - no trace needed
            name = worse.refusal
    return Message(RecordDict({_RECORD: ConfigRecord({"refusal": name})}), reply_to=message)


def _advertise(site: Site, request: AdvertRequest, _: RecordDict) -> RecordDict:
    return _header_record(codec.encode(site.advertise(request)))


def _accept(site: Site, request: AdvertList, _: RecordDict) -> RecordDict:
    site.accept(request)
    return _header_record(b"")


def _train(site: Site, request: RoundRequest, content: RecordDict) -> RecordDict:
    masked = site.train(request, _vector(content))
    header, payload = codec.encode_masked(masked)
    reply = _header_record(header)
    array = Array("uint32", (len(payload) // 4,), "fedrx.raw", payload)
    reply["payload"] = ArrayRecord({"vector": array})
    return reply


def _resolve(site: Site, request: ResolveRequest, _: RecordDict) -> RecordDict:
    return _header_record(codec.encode(site.resolve(request)))


def _unmask(site: Site, request: UnmaskRequest, _: RecordDict) -> RecordDict:
    return _header_record(codec.encode(site.unmask(request)))


_ACTIONS: Mapping[str, _Action] = MappingProxyType(
    {
        "query.advertise": _Action(AdvertRequest, _advertise, "public keys sent"),
        "query.keys": _Action(AdvertList, _accept, "the others' keys accepted"),
        "train.masked": _Action(RoundRequest, _train, "masked vector sent"),
        "query.resolve": _Action(ResolveRequest, _resolve, "mask seeds sent"),
        "query.unmask": _Action(UnmaskRequest, _unmask, "key shares sent"),
    }
)


def _header_record(header: bytes) -> RecordDict:
    return RecordDict({_RECORD: ConfigRecord({"header": header})})


def _header(content: RecordDict) -> bytes:
    record = content.config_records.get(_RECORD)
    header = record.get("header") if record is not None else None
    if not isinstance(header, bytes):
        raise codec.MalformedMessage("the request carries no FedRx header.")
    return header


def _witness(content: RecordDict) -> bytes:
    """The head of this site's audit log that the coordinator keeps; empty if it keeps none."""
    witness = content.config_records[_RECORD].get("witness", b"")
    if not isinstance(witness, bytes):
        raise codec.MalformedMessage("the request carries no bytes as the kept head.")
    return witness


def _add_witness(content: RecordDict, desk: RunHandler) -> None:
    """Add the head of the log, which covers the answer's line, for the coordinator to keep."""
    cast("ConfigRecord", content[_RECORD])["witness"] = desk.signed_head()


def _vector(content: RecordDict) -> NDArray[np.float32]:
    record = content.array_records.get("payload")
    if record is None or "vector" not in record:
        raise codec.MalformedMessage("the request carries no model.")
    data = record["vector"].data
    if len(data) % 4:
        raise codec.MalformedMessage(f"a model of {len(data)} bytes is no vector of float32.")
    return np.frombuffer(data, dtype="<f4")


class _StockApp(ClientApp):
    """The app of whatever process Flower's own SuperNode starts for a message.

    The site's folder is named by the node config `fedrx-folder`, or by the environment; the
    passphrase of encrypted keys by the environment alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._app: ClientApp | None = None

    def __call__(self, message: Message, context: Context) -> Message:
        try:
            if self._app is None:
                self._app = live_client_app(_stock_site(context))
        except Exception as error:  # noqa: BLE001 - its text stays at the site
            return _refusal(None, message, None, error)
        return self._app(message, context)


def _stock_site(context: Context) -> "LiveSite":
    # Loaded on the first message: a simulation imports this module without needing it.
    from fedrx_client.identity.identity import SiteIdentity  # noqa: PLC0415
    from fedrx_client.participation.live_site import LiveSite  # noqa: PLC0415
    from fedrx_client.participation.settings import SiteSettings  # noqa: PLC0415
    from fedrx_client.training.device import pick_device  # noqa: PLC0415

    named = context.node_config.get(FOLDER) or os.environ.get(FOLDER_VARIABLE)
    if not named:
        raise MisuseError(
            f"name the site's folder: --node-config '{FOLDER}=\"/path\"', or {FOLDER_VARIABLE}."
        )
    folder = Path(str(named))
    keys = SiteIdentity(folder).keys(os.environ.get(PASSPHRASE_VARIABLE))
    return LiveSite(folder, keys, device=pick_device(SiteSettings.load(folder).device))


app = _StockApp()
