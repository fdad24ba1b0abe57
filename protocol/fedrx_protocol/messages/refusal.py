"""The words of a refusal that the coordinator acts on or explains.

A site refuses with one word, the `refusal` of its error class. The coordinator has some words of
its own for a site that did not answer or whose answer it does not take. A site of another release
may send a word that is not in here: it is shown as it is, and the site is asked again later.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Literal

_BEYOND_BOUNDS: Final = "computed values beyond all bounds: use a smaller learning rate"


class Refusal(StrEnum):
    """A word, and what it means to the coordinator.

    Attributes:
        sentence: What the site did or lacks, to follow its name.
        again: When the same request can get another answer. Where it never can, a run ends as soon
            as too few sites are left without those that refuse so.
    """

    sentence: str
    again: Literal["at once", "later", "never"]

    def __new__(
        cls, word: str, sentence: str, again: Literal["at once", "later", "never"] = "later"
    ) -> "Refusal":
        """Make the member of a word."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.sentence, member.again = sentence, again
        return member

    # The coordinator's own words.
    LOST = "lost", "did not answer in time"
    LEFT_OUT = "LeftOut", "is left out because it spoiled attempts"
    UNREADABLE = "Unreadable", "refused with something that is not a word"
    VERSION_DIFFERS = "VersionDiffers", "runs another release of FedRx"

    # A site that has restarted lost the run or its keys.
    RUN_UNKNOWN = "RunUnknown", "has restarted", "at once"
    OUT_OF_ORDER = "OutOfOrder", "has lost its place in the round", "at once"
    SESSION_MISMATCH = "SessionMismatch", "has lost its keys of this run", "at once"

    # Waiting does not help: the same request gets the same answer.
    BUDGET_EXHAUSTED = "BudgetExhausted", "would spend more privacy than it allows", "never"
    VALUE_OUT_OF_RANGE = "ValueOutOfRange", _BEYOND_BOUNDS, "never"
    TRAINING_INVALID = "TrainingInvalid", _BEYOND_BOUNDS, "never"
    MODEL_ALREADY_RELEASED = "ModelAlreadyReleased", "has answered for this model already", "never"

    # A person can repair these, or decide, while the run waits.
    LIST_CHANGED = "ListChanged", "has opened sums of this study over another list of sites"
    ROSTER_OUTDATED = (
        "RosterOutdated",
        "holds a newer roster: stop the run and resume it with --new-roster",
    )
    ROSTER_CHANGED = (
        "RosterChanged",
        "has not accepted this roster yet (`fedrx site join FOLDER --offered`)",
    )
    CLOCK_SKEWED = "ClockSkewed", "its clock and ours differ"
    NOT_APPROVED = "NotApproved", "has not approved this study"
    APPROVAL_EXPIRED = "ApprovalExpired", "its approval has ended"
    APPROVAL_REVOKED = "ApprovalRevoked", "has revoked its approval"
    COHORT_CHANGED = "CohortChanged", "its patients' file has changed since it approved"
    SHARE_INVALID = "ShareInvalid", "sent shares or a commitment that cannot be opened"
    VECTOR_INVALID = "VectorInvalid", "sent a vector of the wrong length"


SENTENCES: Final[Mapping[str, str]] = {word: word.sentence for word in Refusal}
"""What each word means; one of another release is not in here."""

ASKED_AT_ONCE: Final[frozenset[str]] = frozenset(
    word for word in Refusal if word.again == "at once"
)
"""Words after which a site is asked again at once."""
