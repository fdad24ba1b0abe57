"""Exchanges of the live system: real SuperLink, real proxy, real agents, TLS, on loopback.

    .venv/bin/python benchmarks/live_exchange.py [--sites 3] [--repeats 15] [--megabytes 100]

Prints where the time goes for an empty exchange, one of 40 KB each way, and a secure round of a
large model, whose sites mask as many words as the model has; then what memory the round took in
the process that adds up and in the SuperLink, beyond what each held before.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np

from fedrx_server.gateway.client import Arrived, LinkClient
from fedrx_server.gateway.control import register_site
from fedrx_server.rounds.exchange import Exchange
from fedrx_server.rounds.spill import SpilledVectors
from fedrx_server.service.grid import live_run
from fedrx_server.service.proxy import Tls
from fedrx_server.service.superlink import Ports, SuperLink

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from live_consortium import (
    SiteProcess,
    wait_until,
    write_certificates,
    write_site_key,
)
from live_masking import MaskedRounds
from spare_ports import free_ports

STAGES = (
    "coordinator to SuperLink",
    "SuperLink to the last site",
    "the last site computes",
    "the last site to SuperLink",
    "SuperLink to coordinator",
)


@dataclass
class Call:
    """One call of the coordinator's process; times in epoch seconds."""

    name: str
    began: float
    ended: float
    megabytes: float = 0.0


@dataclass
class Trace:
    """What the coordinator's process and the sites noted."""

    agents: list[SiteProcess]
    calls: list[Call] = field(default_factory=list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note every fused call."""
        with ExitStack() as stack:
            for name in ("send", "collect"):
                stack.enter_context(mock.patch.object(LinkClient, name, self._timed(name)))
            yield

    def _timed(self, name: str) -> object:
        inner = vars(LinkClient)[name]

        def timed(client: LinkClient, *arguments: object) -> object:
            began = time.time()
            result = inner(client, *arguments)
            call = Call(name, began, time.time())
            if name == "collect":
                call.megabytes = sum(map(arrived_bytes, result)) / 1e6
            self.calls.append(call)
            return result

        return timed

    def exchanges(self) -> list[dict[str, float]]:
        """Milliseconds of each stage, calls and megabytes, for each send."""
        sends = [call for call in self.calls if call.name == "send"]
        ends = [call.began for call in sends[1:]] + [time.time()]
        return [self._stages(send, end) for send, end in zip(sends, ends, strict=True)]

    def _stages(self, send: Call, end: float) -> dict[str, float]:
        mine = [c for c in self.calls if c.name == "collect" and send.began <= c.began < end]
        takes, gives = self._sites("_take", send, end), self._sites("reply", send, end)
        marks = [send.began, send.ended, takes[-1][1], gives[-1][0], gives[-1][1], mine[-1].ended]
        for index in range(1, len(marks)):
            marks[index] = max(marks[index], marks[index - 1])
        spans = {
            name: 1000 * (after - before)
            for name, before, after in zip(STAGES, marks, marks[1:], strict=False)
        }
        calls = 1 + len(takes) + len(gives) + len(mine)
        return {**spans, "calls": calls, "megabytes up": sum(call.megabytes for call in mine)}

    def _sites(self, call: str, send: Call, end: float) -> list[tuple[float, float]]:
        """Begin and end of the sites' calls in a time span, by their end."""
        noted = [
            json.loads(line)
            for agent in self.agents
            for line in (agent.folder / "trace.jsonl").read_text().splitlines()
        ]
        times = [(n["began"], n["ended"]) for n in noted if n["call"] == call]
        return sorted((t for t in times if send.began <= t[1] < end), key=lambda t: t[1])


def arrived_bytes(arrived: Arrived) -> int:
    return sum(map(len, arrived.contents.values()))


def print_stages(title: str, exchanges: list[dict[str, float]]) -> None:
    """The median of each stage over some equal exchanges."""
    totals = [sum(exchange[stage] for stage in STAGES) / 1000 for exchange in exchanges]
    calls = median(exchange["calls"] for exchange in exchanges)
    print(
        f"{title}: median {median(totals):.3f} s ({min(totals):.3f} to {max(totals):.3f}), "
        f"{calls:.0f} calls, {median(e['megabytes up'] for e in exchanges):.1f} MB up"
    )
    for stage in STAGES:
        print(f"    {stage:28} {median(exchange[stage] for exchange in exchanges):9.1f} ms")


def echo(exchange: Exchange, nodes: list[int], payload: np.ndarray | None) -> None:
    """One exchange.

    Raises:
        RuntimeError: A site was lost.
    """
    headers = dict.fromkeys(nodes, b"ping")
    for reply in exchange.send(
        "query.echo", headers, attempt="1", deadline_s=300.0, payload=payload
    ):
        if reply.lost or reply.header != b"ping":
            raise RuntimeError(f"node {reply.node} was lost")


class Memory:
    """Resident memory of processes during a round (Linux).

    Args:
        pids: Process ids by name.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._before = {}
        for name, pid in pids.items():
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
            self._before[name] = _memory_mb(pid, "VmRSS")

    def print(self, megabytes: int) -> None:
        """Growth of each from the beginning to its peak, also in models."""
        grown = {p: _memory_mb(pid, "VmHWM") - self._before[p] for p, pid in self._pids.items()}
        for name, peak in {**grown, "all together, at most": sum(grown.values())}.items():
            print(f"    {name:28} {peak:7.0f} MB more at its peak = {peak / megabytes:.2f} models")


def _memory_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


@contextmanager
def consortium(
    folder: Path, sites: int, *, masking: bool
) -> Iterator[tuple[SuperLink, list[SiteProcess]]]:
    """SuperLink, proxy and agents, all started."""
    write_certificates(folder / "tls")
    tls = Tls(*(folder / "tls" / name for name in ("ca.crt", "server.crt", "server.key")))
    public, inner, probe, *probes = free_ports(3 + sites)
    link = SuperLink(folder / "coordinator", tls, Ports(public, inner, probe, host="127.0.0.1"))
    with ExitStack() as stack:
        stack.enter_context(link.running())
        agents = []
        for index, port in enumerate(probes):
            home = folder / f"site{index}"
            register_site(link.superlink_address, write_site_key(home), home.name)
            (home / "ca.crt").write_bytes(tls.ca_certificate.read_bytes())
            agents.append(SiteProcess(home, f"localhost:{public}", port, sites if masking else 0))
            agents[-1].start()
            stack.callback(agents[-1].stop)
        yield link, agents


@contextmanager
def traced_run(sites: int, *, masking: bool) -> Iterator[tuple[Exchange, Trace, SuperLink]]:
    """A run with all sites online."""
    with (
        tempfile.TemporaryDirectory(prefix="fedrx-") as folder,
        consortium(Path(folder), sites, masking=masking) as (link, agents),
        live_run(link.superlink_address, "benchmark") as exchange,
    ):
        wait_until(lambda: len(exchange.nodes()) == sites, 60, "all sites online")
        yield exchange, Trace(agents), link


def small(sites: int, repeats: int) -> None:
    """Empty exchanges and small ones."""
    vector = np.random.default_rng(0).standard_normal(10_000, dtype=np.float32)
    with traced_run(sites, masking=False) as (exchange, trace, _):
        nodes = exchange.nodes()
        echo(exchange, nodes, None)
        for title, payload in (("empty exchange", None), ("40 KB each way", vector)):
            trace.calls.clear()
            with trace.watched():
                for _ in range(repeats):
                    echo(exchange, nodes, payload)
            print_stages(f"{title}, {sites} sites", trace.exchanges())


def large(sites: int, megabytes: int) -> None:
    """A secure round of a large model."""
    model = np.random.default_rng(0).integers(0, 2**32, megabytes * 250_000, dtype=np.uint32)
    with (
        traced_run(sites, masking=True) as (exchange, trace, link),
        tempfile.TemporaryDirectory(prefix="fedrx-") as folder,
    ):
        rounds = MaskedRounds(exchange, sites)
        rounds.keys()
        # The first has the interpreter's and the libraries' first use in it.
        rounds.run(model[:1000].view(np.float32), SpilledVectors(Path(folder)))
        memory = Memory({"this process": os.getpid(), **link.pids})
        began = time.perf_counter()
        with trace.watched():
            total = rounds.run(model.view(np.float32), SpilledVectors(Path(folder)))
        print(f"secure round of {megabytes} MB, {sites} sites: {time.perf_counter() - began:.2f} s")
        if not np.array_equal(total, model * np.uint32(sites)):
            raise RuntimeError("the sum is wrong")
        for title, stages in zip(("TRAIN", "UNMASK"), trace.exchanges(), strict=True):
            print_stages(f"  {title}", [stages])
        memory.print(megabytes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--megabytes", type=int, default=100)
    options = parser.parse_args()
    small(options.sites, options.repeats)
    for sites in (options.sites, 2 * options.sites, 4 * options.sites):
        large(sites, options.megabytes)


if __name__ == "__main__":
    main()
