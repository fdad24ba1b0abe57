"""FedRx: federated pharmacogenomics for hospitals.

import fedrx
result = fedrx.simulate()                      # the built-in warfarin study, synthetic sites
result = fedrx.simulate(study, cohorts)        # your own
result.metrics, result.privacy, result.ledger, result.figures
"""

import os
from typing import TYPE_CHECKING, Any

# Before Flower or Ray is imported: neither may call home from a hospital.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Before gRPC is imported: its care for forked children now and then kills one before it has become
# the server that Ray wanted, and Ray waits in vain (grpc/grpc#43055). No child of ours needs it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Before SciPy is imported: in the short vectors of L-BFGS the second thread of its OpenBLAS only
# waits for the first, which took half of the time of a comparison with each site alone.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if TYPE_CHECKING:
    from fedrx.api import (
        PatientFile,
        SimulationResult,
        SyntheticSites,
        cohort_frame,
        default_study,
        load_cohorts,
        load_model,
        override,
        read_cohort,
        resume,
        simulate,
        visits_frame,
    )
    from fedrx_common.errors import FedRxError
    from fedrx_models.cohort.cohort import Cohort
    from fedrx_protocol.study.study import Study

__all__ = [
    "Cohort",
    "FedRxError",
    "PatientFile",
    "SimulationResult",
    "Study",
    "SyntheticSites",
    "cohort_frame",
    "default_study",
    "load_cohorts",
    "load_model",
    "override",
    "read_cohort",
    "resume",
    "simulate",
    "visits_frame",
]


def __dir__() -> list[str]:
    """The public names; none of them is imported for that."""
    return [*__all__]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the front door holds
    """Import on first use, so that `import fedrx` and `fedrx --help` do not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'fedrx' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("fedrx.api"), name)
