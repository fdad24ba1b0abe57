"""Shared by all tests: where the real patient tables are, no calls home, no hurry."""

import os
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import fedrx  # noqa: F401 - keeps Flower, Ray and gRPC quiet; many tests import rooms behind it only

# Helpers that tests of several rooms share; a folder of its own: no test is collected there.
sys.path.insert(0, str(Path(__file__).parent / "helpers"))

# A terminal's width and colours, and what a site may set, are not those of whoever runs the tests:
# GitHub's own CI, for one, asks for colours where there is no terminal.
os.environ |= {"COLUMNS": "80", "TERM": "dumb"}
for _name in [*os.environ]:
    if "COLOR" in _name or _name.startswith(("TTY_", "FEDRX_")) or _name == "GITHUB_ACTIONS":
        del os.environ[_name]
# Tests of Ray start one of their own, whatever runs or is named here.
os.environ["RAY_ADDRESS"] = "local"
# A file of tests a core: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is slow, and that says nothing about a property; and each run tries the same
# examples, so that none fails by chance. Others: pytest --hypothesis-profile=search.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", settings.get_profile("suite"), derandomize=False)
settings.load_profile("suite")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, those that mostly wait between those that compute.

    So no core idles, and no worker is waited for alone at the end.
    """
    slow = dict.fromkeys(item.path for item in items if item.get_closest_marker("slow"))
    waiting = [path for path in slow if path.parent.name == "deployment"]
    computing = [path for path in slow if path not in waiting]
    first = [path for pair in zip_longest(waiting, computing) for path in pair if path]
    place = {path: number for number, path in enumerate(first)}
    items.sort(key=lambda item: place.get(item.path, len(first)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test draws from a global generator does not depend on the tests before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data_root() -> Path:
    """Folder of the real patient tables, which stands beside the checkout, never in it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"REAL DATA MISSING: {folder} is not here, so nothing real was tested")
    return folder
