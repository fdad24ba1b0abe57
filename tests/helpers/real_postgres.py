"""A real PostgreSQL server in a temporary folder, with a role whose password is odd."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from spare_ports import free_ports

OWNER, PASSWORD = "fedrx_owner", "geheim/8?x#y"  # characters that end parts of an address


def programs() -> Path:
    """The folder of the server's programs; the test is skipped, loudly, where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = found[-1] if found else shutil.which("initdb")
    if path is None:
        pytest.skip("POSTGRESQL MISSING: install Debian's package postgresql; nothing was tested")
    return Path(path).parent


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        port: on 127.0.0.1.
        log: the server's own log.
    """

    port: int
    log: Path

    def url(self, database: str, *, password: str | None = PASSWORD, user: str = OWNER) -> str:
        """An address with a password as people paste it, or without one."""
        secret = "" if password is None else f":{password}"
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def own(self, database: str = "postgres") -> str:
        """What the driver itself connects by."""
        return (
            f"host=127.0.0.1 port={self.port} user={OWNER} password='{PASSWORD}' dbname={database}"
        )

    def create(self, database: str) -> str:
        """Make an empty database and return what the driver connects by."""
        with psycopg.connect(self.own(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.own(database)


@contextmanager
def postgres() -> Iterator[Server]:
    """Run a server of its own; as root it runs as Debian's user postgres, since it refuses root."""
    bin_folder = programs()
    folder = Path(tempfile.mkdtemp(prefix="fedrx-pg-"))
    as_user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    data, secret = folder / "data", folder / "secret"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)

    def run(*command: str) -> None:
        whole = [*as_user, *command]
        done = subprocess.run(whole, check=False, capture_output=True, text=True, cwd=folder)
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)

    try:
        run(
            str(bin_folder / "initdb"), "-D", str(data), "-U", OWNER, "--auth=scram-sha-256",
            f"--pwfile={secret}", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8",
        )  # fmt: skip
        (port,) = free_ports(1)
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} "
            "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c shared_buffers=32MB"
        )
        control = str(bin_folder / "pg_ctl")
        log = folder / "log"
        run(control, "-D", str(data), "-l", str(log), "-o", options, "-w", "-t", "60", "start")
        try:
            yield Server(port, log)
        finally:
            run(control, "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
