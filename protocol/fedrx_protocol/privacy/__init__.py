"""Privacy accounting: what was released, what it cost, and the noise that a promise needs.

Neighbouring cohorts differ by one patient with all their records, at one site.
"""

from fedrx_protocol.privacy.accountant import (
    Account,
    PrivacySpent,
    epsilon,
    epsilon_upper,
    privacy_spent,
    would_exceed,
)
from fedrx_protocol.privacy.calibration import (
    collusion_table,
    local_noise_multiplier,
    metrics_noise_multipliers,
    training_noise_multiplier,
)
from fedrx_protocol.privacy.composition import Composition
from fedrx_protocol.privacy.errors import (
    AccountingInvalid,
    NoiseTooSmall,
    ReleaseInvalid,
    TargetUnreachable,
)
from fedrx_protocol.privacy.events import Purpose, Release
from fedrx_protocol.privacy.grid import grid_sensitivity, grid_slack, site_noise_sd
from fedrx_protocol.privacy.two_sites import epsilon_at_two_sites

__all__ = [
    "Account",
    "AccountingInvalid",
    "Composition",
    "NoiseTooSmall",
    "PrivacySpent",
    "Purpose",
    "Release",
    "ReleaseInvalid",
    "TargetUnreachable",
    "collusion_table",
    "epsilon",
    "epsilon_at_two_sites",
    "epsilon_upper",
    "grid_sensitivity",
    "grid_slack",
    "local_noise_multiplier",
    "metrics_noise_multipliers",
    "privacy_spent",
    "site_noise_sd",
    "training_noise_multiplier",
    "would_exceed",
]
