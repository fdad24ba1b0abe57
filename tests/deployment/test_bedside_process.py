"""`fedrx site serve` as a process: what it refuses to start with, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from bedside_server import DOSES, write_files
from spare_ports import free_ports

COMMAND = Path(sys.executable).with_name("fedrx")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process") / "site"
    made = ["site", "init", folder, "--site", "charite", "--name", "Charite"]
    subprocess.run([COMMAND, *made], check=True, capture_output=True)
    write_files(folder)
    (folder / "services.toml").write_text(DOSES)
    return folder


def refused(*words):
    ran = subprocess.run(
        [COMMAND, "site", "serve", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    return " ".join(ran.stderr.split())


@pytest.mark.slow
def test_what_it_cannot_start_with_is_one_sentence(site, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = refused(site, "--port", port)
        assert f"port {port} of 127.0.0.1 cannot be listened on" in told
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate\n")
    assert "cannot be used together for TLS" in refused(
        site, "--certificate", bad, "--key", bad, "--clients", bad
    )
    everywhere = ["--host", "0.0.0.0", "--certificate", bad, "--key", bad, "--clients", bad]
    assert "give --address" in refused(site, *everywhere)
    odd = tmp_path / "services.toml"
    odd.write_text(DOSES.replace("patients.csv", "nothing.csv"))
    (tmp_path / "iwpc.safetensors").write_bytes((site / "iwpc.safetensors").read_bytes())
    (tmp_path / "record.toml").write_text((site / "record.toml").read_text())
    assert "'page.source' cannot be used" in refused(site, "--services", odd)
    odd.write_bytes(b"\xff\xfe")
    assert "cannot be read" in refused(site, "--services", odd)


@pytest.mark.slow
def test_it_lets_a_browser_in_by_the_printed_link_and_ends_orderly(site):
    (port,) = free_ports(1)
    server = subprocess.Popen(
        [COMMAND, "site", "serve", site, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        links = (re.search(r"http://\S+/page/login\?token=\S+", line) for line in server.stdout)
        link = next(found[0] for found in links if found)
        deadline = time.monotonic() + 120
        with httpx.Client(timeout=60, follow_redirects=True) as browser:
            while True:
                try:
                    page = browser.get(link)
                    break
                except httpx.HTTPError:
                    assert time.monotonic() < deadline, "the server did not come up"
                    time.sleep(0.2)
        assert page.status_code == 200
        assert page.url.path == "/page"
        server.send_signal(signal.SIGUSR1)
        assert "/page/login?token=" in server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        rest, errors = server.communicate(timeout=120)
        assert (server.returncode, errors) == (0, "")
        assert "answers no more" in rest
    finally:
        server.kill()
        server.wait(60)
    shown = subprocess.run(
        [COMMAND, "site", "audit", site], check=True, capture_output=True, text=True
    ).stdout
    assert "the bedside's services began" in shown
    assert "the bedside's services at" in shown
    assert "a browser was let in" in shown
