"""A small consortium of real sites on synthetic patients; a test changes one thing."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Error, Message
from flwr.common.constant import ErrorCode

from fedrx_client.app import make_client_app
from fedrx_client.participation.site import Site, SiteParts, SitePolicy
from fedrx_client.records.database import SiteStore
from fedrx_client.records.sqlite_guard import SqliteGuard
from fedrx_client.training.randomness import SeededRandomness
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.contract import get_vector
from fedrx_protocol.fixed_point import RingVector
from fedrx_protocol.messages.secure_aggregation import RoundRequest
from fedrx_protocol.messages.weights import model_bytes, model_digest
from fedrx_protocol.privacy.events import Release
from fedrx_protocol.secagg.coordinator import CoordinatorRound, KeyDirectory, Opened
from fedrx_protocol.secagg.parameters import session_id
from fedrx_protocol.secagg.site import SiteParty
from fedrx_protocol.study.study import Study
from fedrx_server.rounds.exchange import Exchange
from fedrx_server.rounds.loop import RunParties, StudyRun
from fedrx_server.runs.folder import RunFolder
from fedrx_simulation.federation.inprocess import InProcessGrid
from fedrx_simulation.federation.sites import SimulatedConsortium

torch.set_num_threads(1)

RUN = "run-1"
NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)

TOML = """
name = "dose"
[cohort]
patients = 160
largest_site = 200
minimum_per_site = 10
[model]
name = "linear"
[training]
rounds = 4
clipping_norm = 1.0
[training.optimizer]
learning_rate = 0.1
momentum = 0.0
decay = "none"
[training.local]
epochs = 2
batch_size = 8
[privacy]
epsilon = 8.0
reserve_rounds = 2
[secure_aggregation]
threshold = 3
max_colluding_sites = 0
[metrics]
evaluations = 1
[schedule]
attempts = 3
[[features]]
name = "age"
kind = "number"
unit = "years"
minimum = 0
maximum = 100
mean = 60
scale = 15
[[features]]
name = "carrier"
kind = "flag"
[target]
name = "dose"
unit = "mg/week"
minimum = 1
maximum = 200
mean = 35
scale = 15
"""


def small_study(**sections) -> Study:
    """Four training rounds, metrics of the start model in round 2 and of the finished in 5."""
    return Study.parse(TOML).with_(**sections)


def small_cohort(study: Study, site: str, patients: int = 40) -> Cohort:
    """Patients whose dose falls with age and for carriers."""
    draw = np.random.default_rng([patients, *site.encode()])
    age = draw.uniform(20, 95, patients)
    carrier = draw.random(patients) < 0.4
    dose = 60 - 0.4 * age - 9 * carrier + draw.normal(0, 2, patients)
    return Cohort(
        site=site,
        schema=study.feature_schema,
        patients=tuple(f"p{number}" for number in range(patients)),
        values={"age": age, "carrier": carrier},
        target=np.clip(dose, 1, 200),
    )


def sites_named(count: int) -> tuple[str, ...]:
    return tuple(f"site{number}" for number in range(count))


class Stage:
    """Real sites in `folder`, the coordinator's side, and the in-process grid between them.

    Args:
        folder: each site's file is `folder/<site>.db`; it outlives the stage.
        study: the study.
        sizes: patients by site; four sites of forty by default.
        mods: Flower mods around the sites' app.
        policies: by site.
        live: whether the sites keep the rules of live ones.
        run: its name.
    """

    def __init__(
        self,
        folder: Path,
        study: Study | None = None,
        *,
        sizes: Sequence[int] = (40, 40, 40, 40),
        mods: Iterable[Callable] = (),
        policies: Mapping[str, SitePolicy] | None = None,
        live: bool = False,
        run: str = RUN,
    ) -> None:
        self.folder = folder
        self.study = study or small_study()
        self.names = sites_named(len(sizes))
        self.cohorts = {
            name: small_cohort(self.study, name, size)
            for name, size in zip(self.names, sizes, strict=True)
        }
        self.run_id = run
        self.consortium = SimulatedConsortium(self.study, self.names, run, seed=5)
        self.plan = self.consortium.plan
        self.roster = self.consortium.roster
        self.session = session_id(run, self.study.digest, self.roster.digest)
        self.policies = policies or {}
        self.one_list = self.study.opens_one_list(live=live)
        self.mods = list(mods)
        self.sites: dict[str, Site] = {}
        self.keys: KeyDirectory | None = None

    @property
    def start(self) -> np.ndarray:
        """Start weights, not all zero."""
        weights = get_vector(self.consortium.model())
        return weights + np.linspace(-0.5, 0.5, len(weights), dtype=np.float32)

    def site(self, name: str) -> Site:
        """The warm site; opened on first use."""
        if name not in self.sites:
            self.sites[name] = self.open(name)
        return self.sites[name]

    def open(self, name: str, **changes) -> Site:
        """A new process of a site, on its old file."""
        store = SiteStore(self.folder / f"{name}.db", durability="process")
        entropy = changes.pop("entropy", None)
        party = SiteParty(
            site=name,
            identity=self.consortium.identity(name),
            roster=self.roster,
            parameters=self.plan.parameters,
            session=self.session,
            guard=SqliteGuard(store),
            single_context_per_model=self.study.opens_exact_sums,
            one_list_of=bytes.fromhex(self.study.digest) if self.one_list else None,
            **({"entropy": entropy} if entropy else {}),
        )
        parts = {
            "plan": self.plan,
            "run": self.run_id,
            "cohort": self.cohorts[name],
            "model": self.consortium.model(),
            "store": store,
            "party": party,
            "randomness": SeededRandomness(7),
            "split_salt": b"salt " + name.encode(),
            "policy": self.policies.get(name, SitePolicy()),
        }
        return Site(SiteParts(**{**parts, **changes}), now=lambda: NOW)

    def restart(self, name: str) -> None:
        """Forget what the site holds in memory, as a killed process does."""
        self.site(name).close()
        self.sites[name] = self.open(name)

    def releases(self, name: str) -> list[Release]:
        return list(self.site(name).ledger.releases())

    # --- without a transport: the protocol's own parties, called directly ---

    def new_epoch(self, epoch: int = 1) -> None:
        self.keys = KeyDirectory(
            session=self.session,
            epoch=epoch,
            roster=self.roster,
            parameters=self.plan.parameters,
        )
        for name in self.names:
            self.keys.add(self.site(name).advertise(self.keys.request()))
        for name in self.names:
            self.site(name).accept(self.keys.adverts(name))

    def request(self, round_: int, attempt: int = 0, weights=None, **changes) -> RoundRequest:
        values = {
            "session": self.session,
            "epoch": self.keys.epoch,
            "round": round_,
            "attempt": attempt,
            "participants": self.names,
            "threshold": self.plan.parameters.threshold,
            "model_digest": model_digest(
                model_bytes(self.start if weights is None else weights),
            ),
        }
        return RoundRequest(**{**values, **changes})

    def total(self, round_: int, attempt: int = 0) -> RingVector:
        """The opened sum of one attempt in which everybody takes part."""
        return self.opened(round_, attempt).vector

    def opened(
        self, round_: int, attempt: int = 0, weights=None, names: Sequence[str] | None = None
    ) -> Opened:
        """The opened sum over these sites, all by default, of a round with these weights."""
        weights, names = (
            self.start if weights is None else weights,
            tuple(names or self.names),
        )
        request = self.request(round_, attempt, weights, participants=names)
        current = CoordinatorRound(
            self.keys, request, length=self.plan.round(round_, attempt).layout.length
        )
        for name in names:
            current.add(self.site(name).train(request, weights))
        assert current.close() == {}
        for name, unmask in current.unmask_requests().items():
            current.add_unmask(self.site(name).unmask(unmask))
        return current.result()

    # --- with the transport: the ClientApp on an in-process grid ---

    def opener(self, context: Context) -> Site:
        return self.site(self.name_of(context))

    def name_of(self, context: Context) -> str:
        return self.names[int(context.node_config["partition-id"])]

    def grid(self, opener: Callable[[Context], Site] | None = None) -> InProcessGrid:
        return InProcessGrid(
            make_client_app(opener or self.opener, self.mods), len(self.names), run_id=1
        )

    def run_folder(self) -> RunFolder:
        path = self.folder / "run"
        if path.exists():
            return RunFolder.open(path, self.study, durability="process", keep=99)
        text = self.consortium.signed_roster.to_json().decode()
        return RunFolder.create(path, self.study, text, {}, durability="process", keep=99)

    def study_run(
        self, folder: RunFolder, grid: InProcessGrid | None = None, **changes
    ) -> StudyRun:
        parties = RunParties(RUN, self.plan, self.roster)
        exchange = Exchange(grid or self.grid())
        return StudyRun(parties, exchange, folder, self.start, **changes)

    def run(self, grid: InProcessGrid | None = None) -> tuple[np.ndarray, tuple]:
        """Run, or go on with, the study; final weights and the records of all rounds."""
        with self.run_folder() as folder:
            study_run = self.study_run(folder, grid)
            study_run.run()
            return study_run.weights, folder.rounds


def lost(message: Message) -> Message:
    """What the SuperLink answers for a node it has lost."""
    return Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=message)


class Wire:
    """A mod that lets a test look at every message and change what happens.

    Args:
        stage: whose sites these are; set it after the stage was built.
    """

    def __init__(self, act: Callable[..., Message | None] = lambda **_: None) -> None:
        self.act = act
        self.stage: Stage | None = None
        self.seen: list[tuple[str, str, str]] = []

    def __call__(self, message: Message, context: Context, call_next: Callable) -> Message:
        site = self.stage.name_of(context)
        kind, label = message.metadata.message_type, message.metadata.group_id
        self.seen.append((site, kind, label))
        answer = self.act(
            site=site,
            kind=kind,
            label=label,
            message=message,
            context=context,
            call_next=call_next,
        )
        return call_next(message, context) if answer is None else answer


def staged(folder: Path, act: Callable[..., Message | None], *args, **kwargs) -> tuple[Stage, Wire]:
    """A stage whose wire `act` watches."""
    wire = Wire(act)
    wire.stage = Stage(folder, *args, mods=[wire], **kwargs)
    return wire.stage, wire
