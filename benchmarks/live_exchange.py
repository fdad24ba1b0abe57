"""One exchange of the live system: real SuperLink, real proxy, real agents, TLS, on loopback.

    .venv/bin/python benchmarks/live_exchange.py [--sites 3] [--repeats 15] [--megabytes 100]

Prints the time of an empty exchange and of one with a large model each way, how many calls each
party made and how long it waited for them, and the processes' peak memory. The sites' agents give
back what they get, so all of it is transport.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
from flwr.supercore.runtime import RuntimeHttpClient

from fedrx_server.backstage import register_site
from fedrx_server.exchange import Exchange
from fedrx_server.live import live_run
from fedrx_server.proxy import Tls
from fedrx_server.superlink import Ports, SuperLink

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from live_consortium import (
    SiteProcess,
    free_ports,
    wait_until,
    write_certificates,
    write_site_key,
)


class Calls:
    """Counts the coordinator's calls to the SuperLink and the seconds spent in them."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch all calls of the Runtime client."""
        calls, inner = self, RuntimeHttpClient._unary_unary  # noqa: SLF001 - measured, not used

        def timed(client: RuntimeHttpClient, **call: object) -> object:
            start = time.perf_counter()
            try:
                return inner(client, **call)
            finally:
                name = str(call["path"]).rpartition("/")[2]
                calls.seconds[name].append(time.perf_counter() - start)

        with mock.patch.object(RuntimeHttpClient, "_unary_unary", timed):
            yield

    def print(self, exchanges: int) -> None:
        """One line a call: how often and how long, for one exchange."""
        for name, seconds in sorted(self.seconds.items(), key=lambda item: -sum(item[1])):
            count, total = len(seconds) / exchanges, 1000 * sum(seconds) / exchanges
            print(f"  {name:28} {count:6.1f} calls {total:8.1f} ms {total / count:7.1f} ms each")


def exchange_seconds(exchange: Exchange, nodes: list[int], payload: np.ndarray | None) -> float:
    """Seconds from sending to the last reply.

    Raises:
        RuntimeError: A site was lost.
    """
    start = time.perf_counter()
    headers = dict.fromkeys(nodes, b"ping")
    for reply in exchange.send(
        "query.echo", headers, attempt="1", deadline_s=300.0, payload=payload
    ):
        if reply.lost or reply.header != b"ping":
            raise RuntimeError(f"node {reply.node} was lost")
        del reply
    return time.perf_counter() - start


def peak_mb(pid: int) -> float:
    """Peak resident memory of a process, MB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return float("nan")


@contextmanager
def consortium(folder: Path, sites: int) -> Iterator[tuple[SuperLink, list[SiteProcess]]]:
    """SuperLink, proxy and agents, all ready."""
    write_certificates(folder / "tls")
    tls = Tls(*(folder / "tls" / name for name in ("ca.crt", "server.crt", "server.key")))
    public, inner, probe, *probes = free_ports(3 + sites)
    link = SuperLink(folder / "coordinator", tls, Ports(public, inner, probe, host="127.0.0.1"))
    start = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(link.running())
        print(f"SuperLink and proxy ready in {time.perf_counter() - start:.1f} s")
        agents = []
        for index, port in enumerate(probes):
            home = folder / f"site{index}"
            register_site(link.backstage, write_site_key(home), home.name)
            (home / "ca.crt").write_bytes(tls.ca_certificate.read_bytes())
            agents.append(SiteProcess(home, f"localhost:{public}", port))
            agents[-1].start()
            stack.callback(agents[-1].stop)
        yield link, agents


def measure(link: SuperLink, agents: list[SiteProcess], repeats: int, megabytes: int) -> None:
    """Print the table."""
    calls = Calls()
    with live_run(link.backstage, "benchmark") as exchange:
        took = wait_until(lambda: len(exchange.nodes()) == len(agents), 60, "all sites online")
        print(f"{len(agents)} agents online after {took:.1f} s")
        nodes = exchange.nodes()
        exchange_seconds(exchange, nodes, None)
        with calls.watched():
            empty = [exchange_seconds(exchange, nodes, None) for _ in range(repeats)]
        print(
            f"empty exchange, {len(nodes)} sites: median {median(empty):.3f} s, "
            f"{min(empty):.3f} to {max(empty):.3f}"
        )
        calls.print(repeats)
        vector = np.random.default_rng(0).standard_normal(megabytes * 250_000, dtype=np.float32)
        for size in (2_500, megabytes * 250_000):
            seconds = exchange_seconds(exchange, nodes, vector[:size])
            print(f"{size * 4 / 1e6:.2f} MB to each site, and back: {seconds:.2f} s")
    for name, pid in link.pids.items():
        print(f"peak memory {name}: {peak_mb(pid):.0f} MB")
    print(f"peak memory of an agent: {peak_mb(agents[0].process.pid):.0f} MB")
    print(f"peak memory of this process: {peak_mb(os.getpid()):.0f} MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--megabytes", type=int, default=100)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="fedrx-") as folder,
        consortium(Path(folder), options.sites) as (link, agents),
    ):
        measure(link, agents, options.repeats, options.megabytes)


if __name__ == "__main__":
    main()
