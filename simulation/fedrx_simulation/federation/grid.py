"""What the simulator's grids have in common."""

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid


class SimulatorGrid(Grid):
    """Builds messages as Flower's own grids do."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message (Flower keeps this method for old apps)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
