"""Load on the CDS Hooks server: a real process, signed tokens, a fixed rate, and how long it takes.

    python benchmarks/cds_hooks.py --rate 50 --seconds 30

Requests leave by the clock, whether earlier ones are answered or not, so that a slow server is not
asked less; a time is from when a request was due to when its answer was there. Asked of it:
99 of 100 answers within 100 ms at 50 requests a second, on two cores of their own.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import jwt
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from bedside import MAPPING, bundle, measurements, person
from spare_ports import free_ports

COMMAND = Path(sys.executable).with_name("fedrx")
ISSUER = "https://ehr.example.org"
SERVICES = """
[[service]]
id = "warfarin"
hook = "patient-view"
model = "iwpc.safetensors"
mapping = "record.toml"
"""


def start(folder: Path) -> tuple[subprocess.Popen[bytes], str, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP384R1())
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    site = folder / "site"
    for words in (
        ("site", "init", site, "--site", "charite", "--name", "Charite"),
        ("model", "published", "pharmacogenetic", "--output", site / "iwpc.safetensors"),
    ):
        subprocess.run([COMMAND, *words], check=True, stdout=subprocess.DEVNULL)
    (site / "record.toml").write_text(MAPPING)
    (site / "services.toml").write_text(SERVICES)
    clients = folder / "clients.json"
    clients.write_text(json.dumps({"keys": [{**public, "kid": "ehr", "iss": ISSUER}]}))
    (port,) = free_ports(1)
    command = [COMMAND, "site", "serve", site, "--port", str(port), "--clients", clients]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    while True:
        try:
            httpx.get(f"{address}/health", timeout=5).raise_for_status()
        except httpx.HTTPError:
            if server.poll() is not None:
                raise SystemExit("the server did not come up") from None
            time.sleep(0.2)
        else:
            return server, address, key


def question() -> dict[str, Any]:
    return {
        "hook": "patient-view",
        "hookInstance": str(uuid.uuid4()),
        "context": {"userId": "Practitioner/d1", "patientId": "p1"},
        "prefetch": {
            "patient": person(),
            "observation": bundle(*measurements()),
            "medicationrequest": None,
            "medicationstatement": None,
            "condition": None,
        },
    }


def signed(key: ec.EllipticCurvePrivateKey, place: str) -> dict[str, str]:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": place, "iat": now, "exp": now + 240, "jti": uuid.uuid4().hex}
    return {"Authorization": f"Bearer {jwt.encode(claims, key, 'ES384', {'kid': 'ehr'})}"}


def cpu_seconds(process: int) -> float:
    """Seconds that a process has computed for (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(
    place: str, prepared: list[tuple[dict[str, str], bytes]], rate: float
) -> tuple[list[float], int]:
    """Ask at a fixed rate; returns seconds of each answer, and how many were no cards."""
    taken: list[float] = []
    wrong = 0
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        begun = time.perf_counter()

        async def one(number: int) -> None:
            nonlocal wrong
            due = begun + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            headers, body = prepared[number]
            answer = await client.post(place, content=body, headers=headers)
            taken.append(time.perf_counter() - due)
            wrong += answer.status_code != 200 or not answer.json()["cards"]

        await asyncio.gather(*(one(i) for i in range(len(prepared))))
    return taken, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server, address, key = start(Path(folder))
        try:
            place = f"{address}/cds-services/warfarin"
            kind = {"Content-Type": "application/json"}
            prepared = [
                ({**kind, **signed(key, place)}, json.dumps(question()).encode())
                for _ in range(round(asked.rate * asked.seconds) + 20)
            ]
            asyncio.run(load(place, prepared[:20], 5))
            before = cpu_seconds(server.pid)
            taken, wrong = asyncio.run(load(place, prepared[20:], asked.rate))
            used = cpu_seconds(server.pid) - before
        finally:
            server.terminate()
            server.wait(60)
    p50, p99 = np.percentile(np.array(taken) * 1000, [50, 99])
    print(f"requests {len(taken)} at {asked.rate:g}/s, without a card {wrong}")
    print(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {max(taken) * 1000:.1f} ms")
    print(f"the server computed {used / len(taken) * 1000:.1f} ms a request")
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
