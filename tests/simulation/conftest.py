"""Small models on two cores: a second thread would only wait."""

import fcntl
import logging
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch

torch.set_num_threads(1)


@contextmanager
def _alone():
    """Nobody else starts Ray meanwhile: of two that start together neither may come up."""
    with (Path(tempfile.gettempdir()) / "fedrx-tests-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def no_other_ray():
    """For a test whose engine starts Ray by itself."""
    with _alone():
        yield


@pytest.fixture(scope="module")
def one_ray():
    """Ray, started once for many runs of the engine; its start is not what they are about."""
    ray = pytest.importorskip("ray", reason="RAY MISSING: the flower engine is not tested here")
    with _alone():
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
        )
    with mock.patch.object(ray, "shutdown"):
        yield
    ray.shutdown()
