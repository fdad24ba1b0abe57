"""Hospitals with real folders, keys, tables and approvals, behind the in-process grid.

All that is missing of a live consortium is the transport; a test changes one thing.
"""

import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from small_consortium import small_cohort, small_study

from fedrx_client.app import live_client_app
from fedrx_client.approvals.approval import Approval
from fedrx_client.approvals.store import Approvals
from fedrx_client.approvals.study_files import StudyFiles
from fedrx_client.data.load import load_cohort
from fedrx_client.data.mapping import TableMapping
from fedrx_client.identity.identity import SiteIdentity
from fedrx_client.participation.live_site import LiveSite
from fedrx_client.records.audit_log import AuditLog
from fedrx_client.records.ledger import PrivacyCap
from fedrx_common.key_files import load_ed25519
from fedrx_models.planning import make_plan
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.offer import RunOffer
from fedrx_protocol.messages.secure_aggregation import Advert, RoundRequest
from fedrx_protocol.messages.weights import model_bytes, model_digest
from fedrx_protocol.secagg.coordinator import CoordinatorRound, KeyDirectory
from fedrx_protocol.secagg.parameters import session_id
from fedrx_protocol.trust.roster import Roster, SignedRoster, sign_roster
from fedrx_server.consortium.consortium import Consortium
from fedrx_simulation.federation.inprocess import InProcessGrid

torch.set_num_threads(1)

NODE = 1000  # of the first site, on the in-process grid
MAPPING = """
[table]
patient = "id"
[target]
column = "dose"
unit = "mg/week"
[features.age]
kind = "number"
column = "age"
unit = "years"
[features.carrier]
kind = "flag"
any_of = ["carrier"]
"""


def table(cohort) -> str:
    """A cohort as the file that a hospital has."""
    rows = zip(
        cohort.patients, cohort.values["age"], cohort.values["carrier"], cohort.target, strict=True
    )
    lines = [f"{name},{age:.6f},{int(flag)},{dose:.6f}" for name, age, flag, dose in rows]
    return "\n".join(["id,age,carrier,dose", *lines]) + "\n"


@dataclass
class Clock:
    """Unix seconds that a test moves."""

    now: float = field(default_factory=lambda: float(int(time.time())))

    def __call__(self) -> float:
        return self.now


@dataclass
class Region:
    """A coordinator's folder, its hospitals, and the grid between them.

    Args:
        folder: for everything.
        count: how many hospitals.
        patients: of each.
    """

    folder: Path
    count: int = 3
    patients: int = 40

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.names = tuple(f"site{number}" for number in range(self.count))
        self.consortium = Consortium.create(
            self.folder / "consortium", name="R", hosts=["localhost"], now=self.now, passphrase=None
        )
        self.enroll(*self.names)
        self.study = small_study()
        self.plan = make_plan(self.study, self.count)
        self.live: dict[str, LiveSite] = {}
        (self.folder / "mapping.toml").write_text(MAPPING)

    @property
    def now(self) -> int:
        return int(self.clock())

    def home(self, name: str) -> Path:
        return self.folder / name

    def table(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    # --- from nothing to approved ---

    def enroll(self, *names: str) -> None:
        requests = []
        for name in names:
            made = SiteIdentity.create(self.home(name), site=name, name=name, now=self.now)
            requests.append(made.request)
        self.consortium.enroll(requests, now=self.now, passphrase=None, rotate=False)
        for name in names:
            self.join(name)

    def join(self, name: str) -> None:
        SiteIdentity(self.home(name)).join(
            self.roster.to_json(),
            now=self.now,
            fingerprint=self.consortium.fingerprint,
            authority=(self.folder / "consortium" / "ca.crt").read_bytes(),
        )

    @property
    def roster(self) -> SignedRoster:
        return self.consortium.roster

    def signed(self, serial: int, sites: int | None = None) -> bytes:
        """The roster's first sites under another serial, signed by the consortium."""
        key = load_ed25519(self.folder / "consortium" / "consortium.key", None)
        return sign_roster(Roster(self.roster.roster.sites[:sites], serial), key).to_json()

    def approve(
        self, *names: str, study=None, cap: float = 20, data: Path | None = None, **changes
    ) -> None:
        study, given = study or self.study, data
        for name in names or self.names:
            data = given or self.table(name)
            if not data.exists():
                data.write_text(table(small_cohort(study, name, self.patients)))
            mapping = TableMapping.load(self.folder / "mapping.toml")
            cohort = load_cohort(data, mapping, study.feature_schema, site=name).cohort
            StudyFiles(self.home(name)).keep(study, MAPPING, data)
            values = {
                "cohort": cohort.fingerprint,
                "cap": None if study.opens_exact_sums else PrivacyCap(cap, 1e-5),
                "now": self.now,
                "days": 30,
                "by": "DPO",
            } | changes
            key = SiteIdentity(self.home(name)).keys().identity
            Approvals(self.home(name)).add(Approval.of(study, **values), key)

    # --- asking ---

    def site(self, name: str) -> LiveSite:
        """The warm site; opened on first use."""
        if name not in self.live:
            keys = SiteIdentity(self.home(name)).keys()
            self.live[name] = LiveSite(self.home(name), keys, clock=self.clock)
        return self.live[name]

    def restart(self, name: str) -> None:
        """As after a kill: nothing is left in memory."""
        old = self.live.pop(name, None)
        if old is not None:
            old._ledger.close()

    def app(self, message: Message, context) -> Message:
        name = self.names[int(context.node_config["partition-id"])]
        return live_client_app(self.site(name))(message, context)

    def grid(self, run_id: int = 1) -> InProcessGrid:
        return InProcessGrid(self.app, self.count, run_id)

    def offer(self, **changes) -> RunOffer:
        honest = RunOffer(
            run="run-1",
            study=bytes.fromhex(self.study.digest),
            roster=self.roster.to_json(),
            version=version("fedrx"),
            time=self.now,
        )
        return replace(honest, **changes)

    def ask(
        self, grid: InProcessGrid, kind: str, header: bytes, site: int = 0, payload=None, **beside
    ):
        """What one site answers: the reply's content."""
        content = RecordDict({"fedrx": ConfigRecord({"header": header, **beside})})
        if payload is not None:
            content["payload"] = payload
        message = Message(content, NODE + site, kind, group_id="test")
        (reply,) = grid.send_and_receive([message])
        return reply.content

    def opened(self, grid: InProcessGrid, site: int = 0, **changes) -> str:
        """Offer the run to a site; the refusal's name, or the release that answered."""
        content = self.ask(grid, "query.open", codec.encode(self.offer(**changes)), site)
        return answer_of(content)

    def audit(self, name: str) -> list:
        """A site's audit entries, oldest first."""
        return [line.entry for line in AuditLog(self.home(name) / "audit.log").lines()]

    def refusals(self, name: str) -> list[str]:
        return [entry.reason for entry in self.audit(name) if entry.kind == "refusal"]


def answer_of(content: RecordDict) -> str:
    """The refusal's name after checking that it is all there is, or 'answered'."""
    record = content["fedrx"]
    if "refusal" not in record:
        return "answered"
    assert list(content) == ["fedrx"]
    assert list(record) == ["refusal"]
    return record["refusal"]


class HonestCoordinator:
    """What an honest coordinator would ask of these sites, step by step."""

    def __init__(self, region, grid, run="run-1"):
        self.region, self.grid, self.run = region, grid, run
        self.weights = np.zeros(region.plan.dimension, dtype=np.float32)
        self.session = session_id(run, region.study.digest, region.roster.roster.digest)

    def open(self):
        for number in range(self.region.count):
            assert self.region.opened(self.grid, number, run=self.run) == "answered"

    def exchange_keys(self, epoch=1):
        self.advertise(epoch)
        for number, name in enumerate(self.region.names):
            listed = codec.encode(self.keys.adverts(name))
            content = self.region.ask(self.grid, "query.keys", listed, number)
            assert answer_of(content) == "answered"

    def advertise(self, epoch):
        region = self.region
        self.keys = KeyDirectory(
            session=self.session,
            epoch=epoch,
            roster=region.roster.roster,
            parameters=region.plan.parameters,
        )
        request = codec.encode(self.keys.request())
        for number in range(region.count):
            reply = region.ask(self.grid, "query.advertise", request, number)
            self.keys.add(codec.decode(reply["fedrx"]["header"], Advert))

    def request(self, number=1, **changes):
        honest = RoundRequest(
            session=self.session,
            epoch=self.keys.epoch,
            round=number,
            attempt=0,
            participants=self.region.names,
            threshold=self.region.plan.parameters.threshold,
            model_digest=model_digest(model_bytes(self.weights)),
        )
        return replace(honest, **changes)

    def train(self, request, site=0, weights=None):
        model = self.weights if weights is None else weights
        array = Array("float32", model.shape, "fedrx.raw", model.tobytes())
        payload = ArrayRecord({"vector": array})
        return self.region.ask(self.grid, "train.masked", codec.encode(request), site, payload)

    def whole_round(self, number=1):
        """Sum of all sites, and each one's UNMASK request."""
        request = self.request(number)
        length = self.region.plan.round(number, 0).layout.length
        current = CoordinatorRound(self.keys, request, length=length)
        for site in range(self.region.count):
            reply = self.train(request, site)
            data = reply["payload"]["vector"].data
            current.add(codec.decode_masked(reply["fedrx"]["header"], data, length))
        assert current.close() == {}
        return current, current.unmask_requests()
