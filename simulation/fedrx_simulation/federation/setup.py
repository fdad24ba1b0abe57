"""What every engine is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedrx_models.cohort.cohort import Cohort
from fedrx_simulation.federation.faults import Faults
from fedrx_simulation.federation.sites import SimulatedConsortium


@dataclass(frozen=True)
class EngineSetup:
    """A simulated consortium and where its sites live.

    Args:
        consortium: Keys, roster and plan.
        cohorts: Patients by site, in the order of partition ids.
        sites_folder: Each site gets a folder of its own in it.
        faults: What goes wrong.
    """

    consortium: SimulatedConsortium
    cohorts: Mapping[str, Cohort]
    sites_folder: Path
    faults: Faults

    @property
    def sites(self) -> tuple[str, ...]:
        """Site ids in the order of partition ids."""
        return tuple(self.cohorts)
