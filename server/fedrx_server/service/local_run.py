"""A run without a SuperLink, for a simulation: what its grid needs of Flower's internals."""

from typing import Final

from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["NODE_UNAVAILABLE", "SUPERLINK_NODE_ID", "Run", "begin_local_run"]

NODE_UNAVAILABLE: Final[int] = ErrorCode.NODE_UNAVAILABLE
"""The code with which a SuperLink answers in the name of a node that it has lost."""


def begin_local_run(run_id: int) -> Run:
    """Make this process the sender of a run's messages; it sends those of one run at a time."""
    # Flower's Message constructor reads who is sending from this process-wide identity.
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    TaskIdentity.task_id = 1
    return Run.create_empty(run_id)
