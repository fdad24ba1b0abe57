"""A whole federation in one process, without a transport: the tests' stage for the protocol."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from fedrx_protocol.messages.secure_aggregation import MaskedInput, RoundRequest
from fedrx_protocol.secagg.coordinator import CoordinatorRound, KeyDirectory
from fedrx_protocol.secagg.parameters import SecAggParameters, session_id
from fedrx_protocol.secagg.replay_guard import MemoryGuard
from fedrx_protocol.secagg.site import SiteParty
from fedrx_protocol.trust.roster import Roster, SiteEntry

Vectors = dict[str, NDArray[np.uint32]]
NOBODY: Collection[str] = ()


def keystream(seed: object) -> Callable[[int], bytes]:
    """Deterministic entropy: equal seeds give equal bytes."""
    state = hashlib.shake_256(repr(seed).encode())
    offset = 0

    def draw(count: int) -> bytes:
        nonlocal offset
        offset += count
        return state.digest(offset)[-count:] if count else b""

    return draw


def site_names(n: int) -> list[str]:
    return [f"site-{number:03d}" for number in range(n)]


def identity_of(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def roster_of(n: int) -> Roster:
    entries = tuple(
        SiteEntry(
            site=name,
            name=f"Hospital {name}",
            identity=identity_of(name).public_key().public_bytes_raw(),
            not_before=0,
            not_after=2_000_000_000,
        )
        for name in site_names(n)
    )
    return Roster(sites=entries, serial=1)


def model_digest(name: object = "model") -> bytes:
    return hashlib.sha256(repr(name).encode()).digest()


@dataclass
class Federation:
    """n sites with accepted keys and the coordinator's keys; a test changes one thing."""

    n: int
    parameters: SecAggParameters
    run: str = "run"
    single: bool = False
    one_list_of: bytes | None = None
    entropy_seed: object = 0
    epoch: int = 1
    parties: dict[str, SiteParty] = field(init=False)
    guards: dict[str, MemoryGuard] = field(init=False)
    keys: KeyDirectory = field(init=False)

    def __post_init__(self):
        self.roster = roster_of(self.n)
        self.session = session_id(self.run, "study", self.roster.digest)
        self.guards = {name: MemoryGuard() for name in self.roster.ids}
        self.parties = {name: self.party(name) for name in self.roster.ids}
        self.open_epoch(self.epoch)

    def party(self, name: str) -> SiteParty:
        return SiteParty(
            site=name,
            identity=identity_of(name),
            roster=self.roster,
            parameters=self.parameters,
            session=self.session,
            guard=self.guards[name],
            single_context_per_model=self.single,
            one_list_of=self.one_list_of,
            entropy=keystream((self.entropy_seed, name, self.epoch)),
        )

    def open_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.keys = KeyDirectory(
            session=self.session, epoch=epoch, roster=self.roster, parameters=self.parameters
        )
        for party in self.parties.values():
            self.keys.add(party.advertise(self.keys.request()))
        for name, party in self.parties.items():
            party.accept(self.keys.adverts(name))

    def request(
        self,
        round_: int = 1,
        attempt: int = 0,
        participants: Collection[str] | None = None,
        digest: bytes | None = None,
    ) -> RoundRequest:
        return RoundRequest(
            session=self.session,
            epoch=self.epoch,
            round=round_,
            attempt=attempt,
            participants=tuple(sorted(self.roster.ids if participants is None else participants)),
            threshold=self.parameters.threshold,
            model_digest=model_digest(round_) if digest is None else digest,
        )

    def vectors(self, length: int = 5, seed: int = 0) -> Vectors:
        draw = np.random.default_rng(seed)
        return {name: draw.integers(0, 2**32, length, dtype=np.uint32) for name in self.roster.ids}

    def masked(self, request: RoundRequest, vectors: Vectors, sites=None) -> list[MaskedInput]:
        return [
            self.parties[name].mask(request, vectors[name].copy())
            for name in (request.participants if sites is None else sites)
        ]

    def play(
        self,
        request: RoundRequest,
        vectors: Vectors,
        *,
        silent_train: Collection[str] = NOBODY,
        silent_resolve: Sequence[Collection[str]] = (),
        silent_unmask: Collection[str] = NOBODY,
        shuffle: Callable[[list], object] = lambda _: None,
    ) -> CoordinatorRound | None:
        """One attempt up to all UNMASK replies; None if too few sites remain."""
        length = len(next(iter(vectors.values())))
        current = CoordinatorRound(self.keys, request, length=length)
        messages = self.masked(request, vectors)
        shuffle(messages)
        for message in messages:
            if message.site not in silent_train:
                current.add(message)
        if not self.resolve(current, list(silent_resolve)):
            return None
        requests = list(current.unmask_requests().items())
        shuffle(requests)
        for name, unmask in requests:
            if name not in silent_unmask:
                current.add_unmask(self.parties[name].unmask(unmask))
        return current

    def resolve(self, current: CoordinatorRound, silent: list[Collection[str]]) -> bool:
        while True:
            requests = current.close()
            if requests is None:
                return False
            if not requests:
                return True
            quiet = silent.pop(0) if silent else ()
            for name, request in requests.items():
                if name not in quiet:
                    current.add_resolve(self.parties[name].resolve(request))


def plain_sum(vectors: Vectors, sites: Collection[str]) -> NDArray[np.uint32]:
    """The sum in ordinary integers, reduced once at the end."""
    total = sum(vectors[name].astype(object) for name in sites)
    return (total % 2**32).astype(np.uint32)


def federation(n: int, *, threshold: int | None = None, **changes) -> Federation:
    return Federation(n, SecAggParameters.for_roster(n, threshold), **changes)
