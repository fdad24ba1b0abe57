"""A hospital that runs Flower's own SuperNode takes part in a study, beside two FedRx agents.

With three sites the threshold is three: a run that finishes has had the stock one's answers. It is
slow (a new process for each message), which is why FedRx has an agent of its own. That it refuses
without a site's folder is tested at the app itself, in
`tests/client/participation/test_live_site.py`.
"""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_town import founded
from spare_ports import free_ports

pytestmark = pytest.mark.slow

STOCK = "site2"
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


@pytest.fixture
def town(nursery, tmp_path):
    with founded(nursery, tmp_path / "town", 3) as town:
        yield town


@contextmanager
def supernode(town):
    """Flower's SuperNode as docs/getting-started-site.md starts it."""
    home, programs = town.home(STOCK), Path(sys.executable).parent
    command = [
        *(programs / "flower-supernode", "--superlink", f"localhost:{town.public}"),
        *("--root-certificates", home / "ca.crt"),
        *("--auth-supernode-private-key", home / "keys-0001" / "supernode.key"),
        *("--host", "127.0.0.1", "--port", free_ports(1)[0]),
        *("--node-config", f'fedrx-folder="{home}"'),
    ]
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, **QUIET, "PATH": path, "FLWR_HOME": str(town.folder / "flower")}
    with (town.folder / f"{STOCK}.txt").open("wb") as log:
        process = subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, env=env, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its own end takes many seconds
        process.wait()


def test_it_takes_part_in_a_study(town):
    # A stock SuperNode needs several seconds for each message; it must not be late.
    study = town.study(rounds=1, deadline_s=120)
    study.write_text(study.read_text().replace("evaluations = 2", "evaluations = 1"))
    town.approve(study)
    town.open()
    for name in ("site0", "site1"):
        town.enter(name)
    run = town.run(study)
    with supernode(town):
        run.state("finished", 240)
    assert [record["survivors"] for record in run.rounds] == [3, 3]
    # What it released and answered stands in the site's own books, as with our agent.
    ours, stock = (
        {(release.round, release.purpose) for release in town.releases(name)}
        for name in ("site0", STOCK)
    )
    assert stock == ours != set()
    answers = [line["reason"] for line in town.audit(STOCK) if line["kind"] == "answer"]
    assert sum("masked vector sent" in answer for answer in answers) == 2
