"""All limits of what a site, or the coordinator's own process, may make the SuperLink hold."""

from dataclasses import dataclass

from fedrx_common.errors import MisuseError


@dataclass(frozen=True)
class GatewayLimits:
    """Largest sizes and longest waits.

    Args:
        head_bytes: What a site says before the objects: one message's metadata and its tree; the
            tree of a reply of 2 GB has about 30 KB.
        objects: Objects of one reply.
        object_bytes: One object; Flower cuts arrays into parts of 5 MiB.
        reply_bytes: All objects of one reply. A site owes one reply to each request, so that this
            times the requests in flight is all that a hostile site can store.
        wait_s: How long a question may stay open while there is nothing to hand out.
        batch_bytes: Bytes that are stored, or read, in one transaction; so much of each reply
            under way is in memory.
        small_bytes: What a connection may have under way without a lot.
        lots: How many connections may have larger objects under way at a time, each a batch and an
            object at most; the others wait. More of them are of use where many sites have slow
            lines, and take as many times 10 MiB.
        lot_within_s: An object must come within this time, or its site has to try again.
        calls_of_a_site: How many calls one key may have under way; an agent has two, Flower's own
            SuperNode a few more, and one that was killed leaves a question open for `wait_s`.
        send_within_s: So must each 256 KiB go to a site.
        answer_bytes: Small replies are handed to the coordinator together up to this size.
        own_head_bytes: What the coordinator's own process says before its objects.
        gone_after_s: A site that has been offline for so long will not answer; one that is merely
            restarted is back before.
        grace_s: A SuperLink that was just started counts no site as gone for so long.
    """

    head_bytes: int = 2**18
    objects: int = 1024
    object_bytes: int = 8 * 2**20
    reply_bytes: int = 2**30
    wait_s: float = 20.0
    batch_bytes: int = 4 * 2**20
    small_bytes: int = 2**18
    lots: int = 6
    lot_within_s: float = 60.0
    calls_of_a_site: int = 16
    send_within_s: float = 20.0
    answer_bytes: int = 2**20
    own_head_bytes: int = 64 * 2**20
    gone_after_s: float = 5.0
    grace_s: float = 20.0

    def __post_init__(self) -> None:
        """Check that every limit is positive and that what comes first is what is smaller."""
        if min(vars(self).values()) <= 0 or self.object_bytes > self.reply_bytes:
            raise MisuseError("limits must be positive, and an object must fit into a reply.")
        if self.head_bytes > self.small_bytes:
            raise MisuseError("a site's head must be small: it is read before the site is known.")


DEFAULT_LIMITS = GatewayLimits()
