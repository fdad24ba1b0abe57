"""Shared by all tests: where the real patient tables are, and no calls home."""

import os
import sys
from pathlib import Path

import pytest

# Helpers that tests of several rooms share; a folder of its own: no test is collected there.
sys.path.insert(0, str(Path(__file__).parent / "helpers"))

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
# A file of tests a core: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

REPOSITORY = Path(__file__).resolve().parents[1]


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
