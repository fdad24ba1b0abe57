"""`fedrx site start` as a real process: it starts, waits for its coordinator, and stops cleanly."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from live_hospital import Region


@pytest.fixture
def region(tmp_path):
    region = Region(tmp_path)
    region.approve("site0")
    return region


def start(region, *more):
    argv = ["site", "start", region.home("site0"), *more]
    code = "import sys; from fedrx.cli.main import main; sys.argv[0] = 'fedrx'; main()"
    argv = [sys.executable, "-c", code, *map(str, argv)]
    return subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.slow
def test_it_says_who_it_is_waits_and_stops(region):
    home = region.home("site0")
    process = start(region, "--coordinator", "localhost:1")
    log = home / "agent.log"
    end = time.monotonic() + 120
    while "not connected" not in (log.read_text() if log.exists() else ""):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.1)
    assert log.stat().st_mode & 0o777 == 0o600

    second = start(region)
    assert second.wait(120) == 2
    assert "running already" in second.stderr.read()

    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0
    page = process.stdout.read()
    for words in (
        "Site 'site0'",
        "Believes consortium",
        "site0, site1, site2",
        "Approved: 'dose' until",
        "cap epsilon 20 for 'patients', 0.000 of it spent",
        "Never leaves",
    ):
        assert words in page
    kinds = [entry.kind for entry in region.audit("site0")]
    assert kinds == ["identity", "approval", "start", "stop"]
    settings = json.loads((home / "settings.json").read_text())
    assert settings == {"coordinator": "localhost:1", "device": "auto"}
