"""Small models on two cores: a second thread would only wait."""

import logging
import os
import sys
from unittest import mock

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def one_ray():
    """Ray, started once for many runs of the engine; its start is not what they are about."""
    ray = pytest.importorskip("ray", reason="RAY MISSING: the flower engine is not tested here")
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
