"""What `fedrx coordinator start` keeps running: SuperLink, proxy, admitted sites, and the runs.

Nothing is decided here: the roster says which sites are admitted, and each run's `wanted.json`
whether it runs. Both are read every two seconds, so that a command needs only to write a file, and
a coordinator that was killed finds everything again when it is started.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from fedrx_common.backoff import Backoff
from fedrx_common.errors import FedRxError
from fedrx_server.consortium.consortium import Consortium
from fedrx_server.gateway.control import (
    SiteNode,
    SuperLinkAddress,
    list_sites,
    register_site,
    unregister_site,
)
from fedrx_server.runs.registry import Runs, read_wanted, runs_folder
from fedrx_server.service.credentials import dump_address
from fedrx_server.service.instance import Serving, exclusive, write_instance
from fedrx_server.service.proxy import Tls
from fedrx_server.service.superlink import Ports, SuperLink

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
# The registered sites are compared with the roster even if nothing seems to have changed.
_DOORS_EVERY_S: Final = 30.0
_STOP_WITHIN_S: Final = 15.0
_RESTART_WAITS: Final = Backoff(first=1.0, longest=60.0)
_STEADY_AFTER_S: Final = 120.0


class Coordinator:
    """Serves one consortium.

    Args:
        consortium: Its folder.
        ports: Where to listen.
    """

    def __init__(self, consortium: Consortium, ports: Ports) -> None:
        self._consortium = consortium
        self._ports = ports
        self._folder = consortium.files.folder
        self._workers = Workers(Runs(runs_folder(self._folder)))
        self._told: Serving | None = None

    def serve(self, stop: threading.Event, ready: Callable[[], None]) -> None:
        """Serve until a signal to stop; then end the runs, the proxy, then the SuperLink.

        Args:
            stop: Set to end.
            ready: Called once sites can connect and those of the roster are admitted.

        Raises:
            LockHeld: Another process serves this folder.
            MisuseError: A port is taken, or nginx is missing.
            SuperLinkUnusable: The SuperLink or the proxy does not come up.
        """
        with exclusive(self._folder):
            try:
                while not stop.is_set():
                    self._serve_certificate(stop, ready)
            finally:
                self._workers.stop()

    def _serve_certificate(self, stop: threading.Event, ready: Callable[[], None]) -> None:
        """Serve with the present TLS certificate, until it is renewed."""
        files = self._consortium.files
        folder = files.tls.resolve()
        tls = Tls(files.authority, folder / "server.crt", folder / "server.key")
        link = SuperLink(self._folder / "superlink", tls, self._ports, admits=False)
        over = threading.Event()
        watch = threading.Thread(target=link.supervise, args=(over,), name="superlink", daemon=True)
        with link.running():
            watch.start()
            try:
                doors = NodeRegistrar(link.superlink_address, self._consortium)
                said = False
                while not stop.is_set() and files.tls.resolve() == folder:
                    doors.reconcile()
                    processes = {"coordinator": os.getpid(), **link.pids, **self._workers.pids}
                    serving = Serving(processes, dict(doors.online))
                    if serving != self._told:
                        write_instance(self._folder, serving)
                    self._told = serving
                    if doors.applied and not said:
                        link.admit()
                        ready()
                        said = True
                    if said:
                        self._workers.reconcile(link.superlink_address)
                    stop.wait(LOOK_EVERY_S)
                if stop.is_set():
                    self._workers.stop()
                else:
                    logger.info("the TLS certificate was renewed; the door is opened anew")
            finally:
                over.set()
                watch.join()


class NodeRegistrar:
    """Compares the SuperLink's registered sites with the roster, and sees which are online.

    Attributes:
        online: By site of the roster, as last seen.
        applied: Whether the roster was in force at the SuperLink once.

    Args:
        superlink_address: The SuperLink.
        consortium: The roster in force, and the sites' keys.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        superlink_address: SuperLinkAddress,
        consortium: Consortium,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._superlink_address = superlink_address
        self._consortium = consortium
        self._now = now
        self._seen: tuple[int, ...] = ()
        self._due = 0.0
        self._trouble = ""
        self.online: dict[str, bool] = {}
        self.applied = False

    def reconcile(self) -> None:
        """Admit and shut out, if the roster changed or it is time; trouble is logged once."""
        rosters = self._consortium.files.rosters
        try:
            seen = (rosters.stat().st_mtime_ns, len(list(rosters.iterdir())))
            if seen == self._seen and self._now() < self._due:
                self._notice(list_sites(self._superlink_address))
                return
            self.apply_roster()
        except (FedRxError, OSError) as error:
            if str(error) != self._trouble:
                logger.error("sites cannot be admitted or shut out: %s", error)  # noqa: TRY400 - told in a sentence
            self._trouble = str(error)
            return
        self._seen, self._due, self._trouble = seen, self._now() + _DOORS_EVERY_S, ""
        self.applied = True

    def apply_roster(self) -> None:
        """Register every key of the roster and unregister all others.

        Raises:
            SuperLinkUnusable: It is not there.
            FolderDamaged: The roster does not verify.
        """
        members = {member.request.authentication: member for member in self._consortium.members}
        nodes = list_sites(self._superlink_address)
        known = {}
        for node in nodes:
            # A node's key as enrolment requests write it: a compressed point.
            key = load_pem_public_key(node.public_key)
            known[key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)] = node
        self.online = {
            member.entry.site: self.online.get(member.entry.site, False)
            for member in members.values()
        }
        self._notice(nodes)
        for point in known.keys() - members.keys():
            unregister_site(self._superlink_address, known[point].node)
            logger.info("%s is shut out", known[point].name)
        for point in sorted(members.keys() - known.keys()):
            member = members[point]
            pem = member.request.authentication_key.public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
            register_site(self._superlink_address, pem, member.entry.site)
            logger.info("%s is admitted", member.entry.site)

    def _notice(self, nodes: Iterable[SiteNode]) -> None:
        """Remember which sites are online, and log each that came or went."""
        for node in nodes:
            before = self.online.get(node.name)
            if before is not None and before != node.online:
                self.online[node.name] = node.online
                logger.info("%s is %s", node.name, "online" if node.online else "away")


@dataclass
class _Worker:
    """One run's process, and when to start it again."""

    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0  # in a row, each soon after a start but for the first
    due: float = 0.0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Workers:
    """A living process for each run that should have one.

    Args:
        runs: The runs.
        now: Monotonic seconds.
    """

    runs: Runs
    now: Callable[[], float] = time.monotonic
    _workers: dict[str, _Worker] = field(default_factory=dict)
    _trouble: dict[str, str] = field(default_factory=dict)

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the runs that are driven, by name."""
        return {n: w.process.pid for n, w in self._workers.items() if w.alive and w.process}

    def reconcile(self, superlink_address: SuperLinkAddress) -> None:
        """Start what should run and does not, end what should not run."""
        for name in self.runs.names():
            worker = self._workers.setdefault(name, _Worker())
            try:
                wanted = read_wanted(self.runs.folder / name).goal == "running"
            except FedRxError as error:
                if self._trouble.get(name) != str(error):
                    logger.error("run %s: %s", name, error)  # noqa: TRY400 - told in a sentence
                self._trouble[name] = str(error)
                continue
            if wanted:
                self._revive(name, worker, superlink_address)
            elif worker.alive and worker.process is not None:
                worker.process.terminate()

    def stop(self) -> None:
        """End all, and wait until they are gone."""
        processes = [w.process for w in self._workers.values() if w.alive and w.process]
        for process in processes:
            process.terminate()
        end = self.now() + _STOP_WITHIN_S
        for process in processes:
            try:
                process.wait(max(0.0, end - self.now()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._workers.clear()

    def _revive(self, name: str, worker: _Worker, superlink_address: SuperLinkAddress) -> None:
        if worker.alive:
            return
        now = self.now()
        if worker.process is not None:
            steady = now - worker.started > _STEADY_AFTER_S
            worker.deaths = 1 if steady else worker.deaths + 1
            wait = _RESTART_WAITS.after(worker.deaths)
            worker.due = now + wait
            code = worker.process.returncode
            logger.warning("run %s ended (status %d); again in %.0f s", name, code, wait)
            worker.process = None
        if now < worker.due:
            return
        run = self.runs.folder / name
        with (run / "worker.out").open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "fedrx_server.service.worker", str(run.resolve())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                # Ctrl-C at the terminal is for the coordinator, which ends its runs in order.
                start_new_session=True,
            )
        if process.stdin is not None:
            # What a list of processes must not show goes through a pipe.
            process.stdin.write(dump_address(superlink_address).encode() + b"\n")
            process.stdin.flush()
        worker.process, worker.started = process, now
        logger.info("run %s is driven by process %d", name, process.pid)
