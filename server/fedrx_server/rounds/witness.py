"""The newest signed head of each site's audit log: kept for the sites, and compared.

The coordinator refuses nothing because of them. A head that goes back or forks is kept beside the
one that it contradicts, until a person looks at it: that site's folder is an older copy.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedrx_common.canonical_json import MalformedMessage, from_json, to_json
from fedrx_common.errors import MisuseError, PeerError
from fedrx_common.files import locked, unusable, write_file
from fedrx_protocol.trust.roster import SITE_ID, Roster
from fedrx_protocol.trust.witness import SignedHead

logger = logging.getLogger(__name__)

# Runs are driven by processes of their own: an answer may be noted after one that came later.
OVERTAKEN_S: Final = 120


@dataclass(frozen=True)
class Witnessed:
    """What is kept of one site.

    Attributes:
        newest: the signed head with the most lines.
        time: when it came, unix seconds.
        contradiction: a signed head that goes back behind it or forks; None if there was none.
    """

    newest: SignedHead
    time: int
    contradiction: SignedHead | None = None

    @property
    def sentence(self) -> str:
        """What the contradiction means; empty if there is none."""
        if self.contradiction is None:
            return ""
        return (
            f"site '{self.newest.site}' signed head {self.newest.head} and later "
            f"{self.contradiction.head}, which does not continue it: its folder is an older copy; "
            "telephone the site (docs/operations.md, Incidents)."
        )


class Witness:
    """The heads in a consortium folder, one file a site; safe from several processes.

    Args:
        consortium: the consortium folder.
        clock: unix seconds.
    """

    def __init__(self, consortium: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = consortium / "witness"
        self._clock = clock

    def all(self) -> tuple[Witnessed, ...]:
        """What is kept, by site.

        Raises:
            MisuseError: a file is damaged.
        """
        found = (self.of(path.stem) for path in sorted(self._folder.glob("*.json")))
        return tuple(one for one in found if one is not None)

    def of(self, site: str) -> Witnessed | None:
        """What is kept of a site.

        Raises:
            MisuseError: the file is damaged.
        """
        path = self._path(site)
        if path is None or not path.is_file():
            return None
        try:
            document = from_json(path.read_bytes(), source=str(path))
            other = document["contradiction"]
            return Witnessed(
                SignedHead.from_json(document["newest"].encode()),
                int(document["time"]),
                None if other is None else SignedHead.from_json(other.encode()),
            )
        except (MalformedMessage, OSError, KeyError, TypeError, ValueError, AttributeError):
            raise MisuseError(
                f"{path}: is not what was written; forget it with `fedrx coordinator witness "
                f"--forget {site}`, and tell the site."
            ) from None

    def take(self, data: bytes, roster: Roster) -> None:
        """Keep a head that came with an answer, or report that it contradicts the one kept.

        Args:
            data: the signed head, as JSON.
            roster: has the sites' keys.

        Raises:
            PeerError: no head of a site on the roster; nothing was kept.
            MisuseError: the file is damaged, or cannot be written.
        """
        signed = SignedHead.from_json(data)
        entry = roster.entry(signed.site)
        if entry is None:
            raise MalformedMessage("A head names a site that is not on the roster.")
        signed.verify(entry.identity)
        with unusable(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        with locked(self._folder):
            now, kept = int(self._clock()), self.of(signed.site)
            if kept is None or signed.head.count > kept.newest.head.count:
                before = None if kept is None else kept.contradiction
                self._write(Witnessed(signed, now, before))
                return
            overtaken = now - kept.time <= OVERTAKEN_S
            forks = signed.head.count == kept.newest.head.count and signed.head != kept.newest.head
            goes_back = signed.head.count < kept.newest.head.count and not overtaken
            if (forks or goes_back) and kept.contradiction is None:
                found = Witnessed(kept.newest, kept.time, signed)
                logger.error("%s", found.sentence)
                self._write(found)

    def forget(self, site: str) -> None:
        """Remove what is kept of a site whose folder was restored, after a person decided so.

        Raises:
            MisuseError: nothing is kept of it.
        """
        path = self._path(site)
        if path is None or not path.is_file():
            raise MisuseError(f"nothing is kept of a site '{site}'; look at the list without it.")
        with locked(self._folder):
            path.unlink(missing_ok=True)

    def _write(self, kept: Witnessed) -> None:
        other = kept.contradiction
        document = {
            "contradiction": None if other is None else other.to_json().decode(),
            "newest": kept.newest.to_json().decode(),
            "time": kept.time,
        }
        path = self._folder / f"{kept.newest.site}.json"
        with unusable(path):
            write_file(path, to_json(document), sync=False)

    def _path(self, site: str) -> Path | None:
        return self._folder / f"{site}.json" if SITE_ID.fullmatch(site) else None


def taken(witness: Witness, data: bytes, roster: Roster) -> None:
    """Take a head; a full disk or a nonsensical head must not end a run."""
    try:
        witness.take(data, roster)
    except (PeerError, MisuseError) as error:
        logger.warning("a signed head was not kept: %s", error)


def kept_heads(witness: Witness, sites: Mapping[int, str]) -> dict[int, bytes]:
    """The heads kept of some nodes' sites; a damaged file must not end a run.

    Args:
        witness: where they are kept.
        sites: the site of each node.
    """
    heads = {}
    for node, site in sites.items():
        try:
            kept = witness.of(site)
        except MisuseError as error:
            logger.warning("%s", error)
            continue
        if kept is not None:
            heads[node] = kept.newest.to_json()
    return heads
