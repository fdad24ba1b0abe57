"""A live run with a scripted network: real sites on the in-process grid, a clock of its own."""

from flwr.app import ConfigRecord, Message, RecordDict
from small_consortium import lost, staged

from fedrx_client.app import make_client_app
from fedrx_protocol.messages import codec
from fedrx_protocol.messages.offer import OfferReply, RunOffer
from fedrx_server.rounds.admission import Offers
from fedrx_server.rounds.exchange import Exchange
from fedrx_server.rounds.loop import RunParties, StudyRun
from fedrx_server.rounds.observer import RunObserver
from fedrx_server.rounds.retry import WaitForSites
from fedrx_simulation.federation.inprocess import InProcessGrid

VERSION = "1.0"
FIRST_NODE = 1000


class Seen(RunObserver):
    """Keeps what it is told."""

    def __init__(self):
        self.asked, self.waits, self.attempts, self.versions = [], [], [], {}

    def on_request(self, kind, sites):
        self.asked.append((kind, sorted(sites)))

    def attempting(self, round_number, attempt, sites, missing):
        self.attempts.append((round_number, attempt, tuple(sites), dict(missing)))

    def on_version_mismatch(self, site, version):
        self.versions[site] = version

    def waiting(self, sentence, missing):
        self.waits.append((sentence, dict(missing)))


class Scene:
    """Four sites, threshold 3, and everything a test may change while the run waits."""

    def __init__(self, folder, act=lambda **_: None, study=None, *, without=(), **kwargs):
        self.without = frozenset(without)
        self.refusals, self.versions, self.offers = {}, {}, []
        self.stage, self.wire = staged(folder, act, study, live=True, **kwargs)
        self.connected = set(self.nodes)
        self.time, self.sleeps, self.watch = 100.0, 0, Seen()
        self.on_sleep = lambda count: None
        self.on_round = lambda record: None

    @property
    def nodes(self):
        return {FIRST_NODE + i: name for i, name in enumerate(self.stage.names)}

    def answer_offer(self, message, context):
        site = self.stage.name_of(context)
        self.offers.append((site, codec.decode(message.content["fedrx"]["header"], RunOffer)))
        refusal = self.refusals.get(site)
        if refusal:
            return lost(message) if refusal == "lost" else refused(message, refusal)
        reply = OfferReply(self.versions.get(site, VERSION))
        content = RecordDict({"fedrx": ConfigRecord({"header": codec.encode(reply)})})
        return Message(content, reply_to=message)

    def sleep(self, seconds):
        self.sleeps += 1
        self.time += seconds
        assert self.sleeps < 200, self.watch.waits[-1]
        self.on_sleep(self.sleeps)

    def finished(self, record):
        self.on_round(record)

    def run(self):
        stage, scene = self.stage, self

        class Connected(InProcessGrid):
            def get_node_ids(self):
                return [node for node in super().get_node_ids() if node in scene.connected]

        app = make_client_app(stage.opener, stage.mods)
        app._registered_funcs["query.open"] = self.answer_offer
        grid = Connected(app, len(stage.names), run_id=1)
        roster = stage.consortium.signed_roster.to_json()
        offers = Offers(
            stage.run_id,
            bytes.fromhex(stage.study.digest),
            roster,
            VERSION,
            lambda: self.nodes,
            clock=lambda: 1_800_000_000.0,
            now=lambda: self.time,
        )
        parties = RunParties(stage.run_id, stage.plan, stage.roster, offers, without=self.without)
        with stage.run_folder() as folder:
            study_run = StudyRun(
                parties,
                Exchange(grid),
                folder,
                stage.start,
                self.finished,
                retry_policy=WaitForSites(self.watch, sleep=self.sleep),
                watch=self.watch,
            )
            study_run.run()
            return study_run.weights, folder.rounds

    def epochs(self):
        return len({label for _, kind, label in self.wire.seen if kind == "query.advertise"})


def refused(message, reason):
    return Message(RecordDict({"fedrx": ConfigRecord({"refusal": reason})}), reply_to=message)


def survivors(records):
    return [record.survivors for record in records]
