"""Synthetic cohorts with documented sources."""

from fedrx_simulation.cohorts.warfarin import ImpossibleCohorts, WarfarinCohorts, generate

__all__ = ["ImpossibleCohorts", "WarfarinCohorts", "generate"]
