"""A consortium of real processes on loopback: certificates, SuperLink, proxy, and echoing sites.

Run as a script it is one site's agent, with a ClientApp that gives back what it gets, or the
supervisor of SuperLink and proxy. With a number of sites the agent masks vectors as one of them:

    python live_consortium.py FOLDER ADDRESS HEALTH_PORT [SITES]
    python live_consortium.py supervise FOLDER TLS_FOLDER PUBLIC_PORT INNER_PORT HEALTH_PORT
"""

import datetime as dt
import ipaddress
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from live_masking import masking_app

from fedrx_client.connection.agent import run_agent
from fedrx_client.connection.fleet import Endpoint, Fleet, load_transport_key

_PEM = serialization.Encoding.PEM

BUSY = 3  # how many times slower than idle a machine may be before a wait is given up


def echo_app() -> ClientApp:
    """Answers every message with its own content; `query.fail` breaks down."""
    app = ClientApp()

    def echo(message: Message, context: Context) -> Message:
        context.node_config["seen"] = True
        return Message(message.content, reply_to=message)

    def fail(message: Message, context: Context) -> Message:
        raise ValueError("patient 4711 has no dose")

    app.query("echo")(echo)
    app.train("echo")(echo)
    app.query("fail")(fail)
    return app


def write_certificates(folder: Path, *hosts: str) -> None:
    """A CA and a certificate of localhost and more hosts: ca.crt, server.crt, server.key."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = _certificate("test CA", ca_key, "test CA", ca_key, is_ca=True)
    server = _certificate("localhost", server_key, "test CA", ca_key, *hosts, is_ca=False)
    (folder / "ca.crt").write_bytes(ca.public_bytes(_PEM))
    (folder / "server.crt").write_bytes(server.public_bytes(_PEM))
    (folder / "server.key").write_bytes(
        server_key.private_bytes(
            _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def write_site_key(folder: Path) -> bytes:
    """A site's transport key in its folder; gives the public half, PEM."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    path = folder / "transport.key"
    path.write_bytes(
        key.private_bytes(_PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    )
    path.chmod(0o600)
    return key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass
class SiteProcess:
    """One site's agent as a process.

    Args:
        folder: The site's folder, with its key and the CA's certificate.
        address: The coordinator's proxy.
        health_port: Where it answers probes.
        masks_among: It masks vectors, as one of so many sites; 0: it echoes.
    """

    folder: Path
    address: str
    health_port: int
    masks_among: int = 0
    process: subprocess.Popen | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it; it connects by itself."""
        with (self.folder / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, __file__, self.folder, self.address),
                    *(str(self.health_port), str(self.masks_among)),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def kill(self) -> None:
        """As by a power cut."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """As by systemd; gives the exit status."""
        self.process.terminate()
        return self.process.wait(15 * BUSY)

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self.folder / "agent.log").read_text()


def wait_until(condition, timeout_s: float, what: str) -> float:
    """Wait for a condition and give the seconds it took; an error names what did not happen.

    Args:
        timeout_s: on an idle machine; one that is busy with other work may take longer.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s * BUSY:
            raise TimeoutError(f"{what}: not within {timeout_s * BUSY:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - start


def _certificate(subject, key, issuer, issuer_key, *hosts, is_ca):
    now = dt.datetime.now(dt.UTC)
    names = [
        *map(x509.DNSName, ("localhost", *hosts)),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not is_ca:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def main(folder: Path, address: str, health_port: int, masks_among: int = 0) -> None:
    """Be one site's agent."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    door = Endpoint(
        address, (folder / "ca.crt").read_bytes(), load_transport_key(folder / "transport.key")
    )
    app = masking_app(folder.name, masks_among) if masks_among else echo_app()
    with traced(folder / "trace.jsonl"):
        run_agent(door, app, folder=folder, health_port=health_port)


@contextmanager
def traced(path: Path):
    """Write when each request came, was answered and was given back, in epoch seconds."""
    with path.open("a") as trace, ExitStack() as stack:
        for name in ("_take", "reply"):
            call = vars(Fleet)[name]

            def timed(fleet, *arguments, _call=call, _name=name):
                began = time.time()
                result = _call(fleet, *arguments)
                if result is not None or _name == "reply":
                    times = {"call": _name, "began": began, "ended": time.time()}
                    print(json.dumps(times), file=trace, flush=True)
                return result

            stack.enter_context(mock.patch.object(Fleet, name, timed))
        yield


def supervise(folder: Path, tls: Path, *ports: int) -> None:
    """Be the coordinator's supervisor, until told to stop."""
    # A site's process never loads the server.
    from fedrx_common.signals import on_ending  # noqa: PLC0415
    from fedrx_server.service.proxy import Tls  # noqa: PLC0415
    from fedrx_server.service.superlink import Ports, SuperLink  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    files = Tls(*(tls / name for name in ("ca.crt", "server.crt", "server.key")))
    link = SuperLink(folder, files, Ports(*ports, host="127.0.0.1"))
    over = threading.Event()
    on_ending(over.set)
    with link.running():
        link.supervise(over)


if __name__ == "__main__":
    if sys.argv[1] == "supervise":
        supervise(Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:7]))
    else:
        main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5]))
