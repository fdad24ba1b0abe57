"""Errors of FedRx, in two families: *we were misused* and *the peer misbehaved*.

An error's text is one sentence (or one per finding) that names the file, key or value and says
what to do. Command lines print it and exit with 2; nothing else needs to be known to handle it.
"""


def counted(count: int, one: str) -> str:
    """A number of things, for a sentence: "1 patient", "2 patients"."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


class FedRxError(Exception):
    """Anything that FedRx itself raises."""


class MisuseError(FedRxError):
    """The caller gave us something that cannot be used; nothing was sent or stored."""


class PeerError(FedRxError):
    """Another party sent something it must not; nothing it said has entered our state."""


class StudyError(MisuseError):
    """A study file cannot be used: unknown key, wrong type, impossible value."""


class DataError(MisuseError):
    """A cohort or mapping file cannot be used."""


class RunError(MisuseError):
    """A run folder is missing, damaged, or belongs to another study."""


class BudgetExhausted(FedRxError):  # noqa: N818 - named for what happened
    """A release would spend more privacy than allowed; nothing was released."""
