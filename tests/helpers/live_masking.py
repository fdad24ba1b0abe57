"""Sites that mask random vectors, and the coordinator's round over them: the protocol alone.

No model and no patients: what remains is transport and secure aggregation, at any length.
"""

import hashlib
import time
from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fedrx_protocol.messages import codec
from fedrx_protocol.messages.secure_aggregation import (
    Advert,
    AdvertList,
    AdvertRequest,
    ResolveReply,
    ResolveRequest,
    RoundRequest,
    UnmaskReply,
    UnmaskRequest,
)
from fedrx_protocol.secagg.coordinator import CoordinatorRound, KeyDirectory
from fedrx_protocol.secagg.parameters import SecAggParameters, session_id
from fedrx_protocol.secagg.replay_guard import MemoryGuard
from fedrx_protocol.secagg.site import SiteParty
from fedrx_protocol.trust.roster import Roster, SiteEntry


def names_of(sites: int) -> list[str]:
    """The sites of a consortium of this size."""
    return [f"site{number}" for number in range(sites)]


def parameters_of(sites: int) -> SecAggParameters:
    """Every site is needed up to three; one may drop from five on."""
    return SecAggParameters.for_roster(sites, threshold=sites if sites < 5 else sites - 1)


def roster_of(sites: int) -> Roster:
    """A roster with keys that follow from the names."""
    entries = (
        SiteEntry(
            site=name,
            name=name,
            identity=_identity(name).public_key().public_bytes_raw(),
            not_before=0,
            not_after=2_000_000_000,
        )
        for name in names_of(sites)
    )
    return Roster(sites=tuple(entries), serial=1)


def masking_app(name: str, sites: int) -> ClientApp:
    """The ClientApp of one of `sites` sites; its vector is random and as long as the model."""
    parties: dict[bytes, SiteParty] = {}

    def party(session: bytes) -> SiteParty:
        if session not in parties:
            parties[session] = SiteParty(
                site=name,
                identity=_identity(name),
                roster=roster_of(sites),
                parameters=parameters_of(sites),
                session=session,
                guard=MemoryGuard(),
                single_context_per_model=False,
            )
        return parties[session]

    def last() -> SiteParty:
        return list(parties.values())[-1]

    def advertise(header: bytes, model: bytes) -> tuple[bytes, bytes]:
        request = codec.decode(header, AdvertRequest)
        return codec.encode(party(request.session).advertise(request)), b""

    def accept(header: bytes, model: bytes) -> tuple[bytes, bytes]:
        last().accept(codec.decode(header, AdvertList))
        return b"", b""

    def train(header: bytes, model: bytes) -> tuple[bytes, bytes]:
        request = codec.decode(header, RoundRequest)
        vector = np.frombuffer(model, dtype="<u4").astype(np.uint32)
        return codec.encode_masked(last().mask(request, vector))

    def resolve(header: bytes, model: bytes) -> tuple[bytes, bytes]:
        return codec.encode(last().resolve(codec.decode(header, ResolveRequest))), b""

    def unmask(header: bytes, model: bytes) -> tuple[bytes, bytes]:
        return codec.encode(last().unmask(codec.decode(header, UnmaskRequest))), b""

    app = ClientApp()
    app.query("advertise")(_handler(advertise))
    app.query("keys")(_handler(accept))
    app.train("masked")(_handler(train))
    app.query("resolve")(_handler(resolve))
    app.query("unmask")(_handler(unmask))
    return app


class MaskedRounds:
    """The coordinator's side: keys once, then rounds.

    Args:
        exchange: The live exchange.
        sites: How many there are; all of them must answer.
        deadline_s: For each stage.
    """

    def __init__(self, exchange, sites: int, deadline_s: float = 300.0) -> None:
        self._exchange, self._deadline_s = exchange, deadline_s
        self._roster = roster_of(sites)
        self._keys = KeyDirectory(
            session=session_id(f"{time.time_ns()}", "study", self._roster.digest),
            epoch=1,
            roster=self._roster,
            parameters=parameters_of(sites),
        )
        self._nodes: dict[str, int] = {}
        self._round = 0

    def keys(self) -> None:
        """Exchange the keys of the epoch."""
        everybody = dict.fromkeys(self._exchange.nodes(), codec.encode(self._keys.request()))
        for reply in self._send("query.advertise", everybody):
            advert = codec.decode(reply.header, Advert)
            self._keys.add(advert)
            self._nodes[advert.site] = reply.node
        lists = {site: codec.encode(self._keys.adverts(site)) for site in self._keys.members}
        list(self._send("query.keys", self._by_node(lists)))

    def run(self, model: NDArray[np.float32], inputs) -> NDArray[np.uint32]:
        """One round; every site's vector is the model's own words.

        Args:
            model: What all sites get.
            inputs: Where masked vectors are kept, as `CoordinatorRound` has it.
        """
        self._round += 1
        request = RoundRequest(
            session=self._keys.session,
            epoch=1,
            round=self._round,
            attempt=0,
            participants=self._keys.members,
            threshold=self._keys.parameters.threshold,
            model_digest=hashlib.sha256(b"%d" % self._round).digest(),
        )
        current = CoordinatorRound(self._keys, request, length=model.size, inputs=inputs)
        headers = dict.fromkeys(request.participants, codec.encode(request))
        for reply in self._send("train.masked", self._by_node(headers), payload=model):
            current.add(codec.decode_masked(reply.header, reply.payload, model.size))
            del reply
        while requests := current.close():
            asked = {site: codec.encode(request) for site, request in requests.items()}
            for reply in self._send("query.resolve", self._by_node(asked)):
                current.add_resolve(codec.decode(reply.header, ResolveReply))
        asked = {site: codec.encode(item) for site, item in current.unmask_requests().items()}
        for reply in self._send("query.unmask", self._by_node(asked)):
            current.add_unmask(codec.decode(reply.header, UnmaskReply))
        return current.result().vector

    def _send(self, kind: str, headers: Mapping[int, bytes], payload=None):
        for reply in self._exchange.send(
            kind, headers, attempt="1", deadline_s=self._deadline_s, payload=payload
        ):
            if reply.lost or reply.refusal:
                raise RuntimeError(f"{kind}: node {reply.node}: {reply.refusal or 'lost'}")
            yield reply
            del reply

    def _by_node(self, headers: Mapping[str, bytes]) -> dict[int, bytes]:
        return {self._nodes[site]: header for site, header in headers.items()}


def _handler(work):
    def handle(message: Message, context: Context) -> Message:
        record = message.content.array_records.get("payload")
        model = b"" if record is None else record["vector"].data
        header, payload = work(message.content["fedrx"]["header"], model)
        content = RecordDict({"fedrx": ConfigRecord({"header": header})})
        if payload:
            array = Array("uint32", (len(payload) // 4,), "fedrx.raw", payload)
            content["payload"] = ArrayRecord({"vector": array})
        return Message(content, reply_to=message)

    return handle


def _identity(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
