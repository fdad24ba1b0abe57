"""Errors of the privacy account, each named for what happened."""

from fedrx_common.errors import MisuseError


class ReleaseInvalid(MisuseError):
    """A release record is malformed; a sum over it would claim privacy that no patient has."""


class TargetUnreachable(MisuseError):
    """No noise, however large, meets the target: the past has already spent it."""


class NoiseTooSmall(MisuseError):
    """Noise is too coarse on its integer grid for the Gaussian account to cover it."""


class AccountingInvalid(MisuseError):
    """The accountant was asked about an impossible quantity, such as a delta of 2."""
