"""What can go wrong between a site and the coordinator, each named for what happened.

A site that raises one of these has sent nothing and stored nothing. A coordinator that raises one
has left its sum as it was; the site named in the text may be left out of the next attempt.
"""

from fedrx_common.canonical_json import MalformedMessage
from fedrx_common.errors import MisuseError, PeerError

__all__ = [
    "AdvertForged",
    "BothSecretsAsked",
    "ContextMismatch",
    "ContextSpent",
    "KeysRepeated",
    "ListChanged",
    "MalformedMessage",
    "ModelAlreadyReleased",
    "OutOfOrder",
    "OwnAdvertAltered",
    "ParametersImpossible",
    "ParticipantsInvalid",
    "RoundWentBack",
    "SessionMismatch",
    "ShareInvalid",
    "ThresholdChanged",
    "TooFewSites",
    "UnknownSite",
    "VectorInvalid",
]


class ParametersImpossible(MisuseError):
    """Threshold, collusion bound and number of sites cannot keep the promise together."""


class OutOfOrder(MisuseError):
    """A step was called in a phase that has no such step; nothing changed."""


class AdvertForged(PeerError):
    """An advert is not signed by the site it names, or its key cannot be used.

    Prevents the coordinator from putting itself in the middle of a pair of sites.
    """


class UnknownSite(PeerError):
    """A site that is not on the roster, or one without an accepted advert, is named.

    Prevents invented sites, whose secrets the coordinator would know, from filling a list.
    """


class OwnAdvertAltered(PeerError):
    """The relayed list shows our own advert changed or not at all.

    Prevents masks that would never cancel, or that cancel against somebody else's keys.
    """


class KeysRepeated(PeerError):
    """The same public key appears twice in one list.

    Prevents one party from standing in two places, or two equal masks from showing a difference.
    """


class TooFewSites(PeerError):
    """Fewer sites than the threshold remain, so no sum may be opened.

    Prevents a sum over so few sites that it says something about one of them.
    """


class ParticipantsInvalid(PeerError):
    """A list of sites leaves out the reader, repeats a site, or names one outside the round."""


class ThresholdChanged(PeerError):
    """A round asks for another threshold than the one the roster's sites agreed on."""


class RoundWentBack(PeerError):
    """A round, epoch or attempt is not later than the last one this site took part in.

    Prevents a replayed round from being masked or opened a second time.
    """


class ContextSpent(PeerError):
    """A second vector, or a second UNMASK list, was asked for in one context.

    Prevents two sums over different lists from being subtracted.
    """


class BothSecretsAsked(PeerError):
    """Pairwise seed and share of the self mask were asked for the same site in one context.

    Prevents the coordinator from removing both masks of one vector.
    """


class ModelAlreadyReleased(PeerError):
    """A sum was already opened for this model; exact sums are released once a model.

    Prevents retry-and-subtract where no noise covers the difference.
    """


class ListChanged(PeerError):
    """A sum of this study was opened over another list of sites, and one list is all.

    Prevents a round with one site fewer from being subtracted, whatever its model.
    """


class SessionMismatch(PeerError):
    """A message belongs to another session or key epoch: a replay, or a site that restarted."""


class ContextMismatch(PeerError):
    """A message belongs to a context that the reader does not know.

    Different models, lists or thresholds give different contexts, so this shows a split view.
    """


class ShareInvalid(PeerError):
    """A seed cannot be rebuilt from the shares received, or a share does not open.

    Prevents a silently wrong sum.
    """


class VectorInvalid(PeerError):
    """A vector has the wrong length, shape or type for its round."""
