"""What all tests stand on: properties in no hurry, ports of one's own, a plain terminal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from spare_ports import _RANGE, free_ports

HELPERS = Path(__file__).parent / "helpers"
ANOTHER = "import sys; sys.path.insert(0, sys.argv[1]); import spare_ports as s; "


def test_no_property_fails_because_the_machine_is_slow_or_by_its_draw():
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check
    assert settings.default.derandomize


@pytest.mark.parametrize(
    "outside",
    [
        "COLUMNS=40",
        "FORCE_COLOR=1",
        "GITHUB_ACTIONS=true",
        "FEDRX_PASSPHRASE=x",
        "RAY_ADDRESS=auto",
    ],
)
def test_who_runs_the_tests_does_not_decide_what_a_command_meets(outside):
    command = [sys.executable, "-c", "import os, conftest; print(sorted(os.environ.items()))"]
    name, value = outside.split("=")
    inside = [
        subprocess.check_output(command, cwd=HELPERS.parent, env={**os.environ, **more})
        for more in ({}, {name: value})
    ]
    assert inside[0] == inside[1]


def test_no_other_process_gets_a_port_that_was_given_out():
    mine = free_ports(3)
    program = ANOTHER + "print(*s.free_ports(3), flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", program, HELPERS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    theirs = [int(port) for port in other.stdout.readline().split()]
    mine += free_ports(3)
    other.communicate("\n")
    assert len({*mine, *theirs}) == 9


def test_no_outgoing_connection_takes_a_port_between_two_starts():
    first, last = map(int, _RANGE.read_text().split())
    assert not [port for port in free_ports(3) if first <= port <= last]
