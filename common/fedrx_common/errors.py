"""Errors of FedRx, in two families: *we were misused* and *the peer misbehaved*.

An error's text is one sentence (or one per finding) that names the file, key or value and says
what to do. Command lines print it and exit with 2; nothing else needs to be known to handle it.
"""

from typing import ClassVar

from fedrx_common.text import escaped

_DAY_S = 86_400


def counted(count: int, one: str) -> str:
    """Write a number of things for a sentence: "1 patient", "2 patients"."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def days_in_words(seconds: float) -> str:
    """Say how long something still holds: "less than a day", "1 day", "30 days"."""
    return counted(int(seconds // _DAY_S), "day") if seconds >= _DAY_S else "less than a day"


class FedRxError(Exception):
    """Anything that FedRx itself raises; its arguments are its sentences, one a line.

    What a sentence quotes may come from anywhere, so its text is escaped: it can neither control a
    terminal nor begin a line of its own.

    Attributes:
        refusal: what crosses the wire where a site refuses for this reason: the name of the class,
            or the `refusal` that the class was given.
    """

    refusal: ClassVar[str] = "FedRxError"

    def __init_subclass__(cls, *, refusal: str = "") -> None:
        super().__init_subclass__()
        cls.refusal = refusal or cls.__name__

    def __str__(self) -> str:
        return "\n".join(escaped(str(sentence)) for sentence in self.args)


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


class BudgetExhausted(FedRxError):
    """A release would spend more privacy than allowed; nothing was released."""
