"""The site's own record of everything it ever released: append-only, hash-chained, fail-closed.

A line is written before the reply leaves, so a crash can over-count privacy, never under-count.
Epsilon is derived from the lines, never stored. The ledger reads no clock: a release brings its
time along. It must never change or remove a line.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fedrx_client.records.database import LedgerDamaged, SiteStore
from fedrx_common.errors import BudgetExhausted, MisuseError
from fedrx_protocol.privacy.accountant import Account, PrivacySpent
from fedrx_protocol.privacy.events import Release

GENESIS = hashlib.sha256(b"fedrx/1 ledger").digest()


class ReleaseRepeated(MisuseError):
    """This round, attempt and purpose was charged already; a second reply would go uncharged."""


@dataclass(frozen=True)
class PrivacyCap:
    """The most that may ever be spent: epsilon at delta."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and math.isfinite(self.epsilon)):
            raise MisuseError(f"a cap's epsilon must be a positive number, not {self.epsilon!r}.")
        if not 0 < self.delta < 1:
            raise MisuseError(f"a cap's delta must lie between 0 and 1, not {self.delta!r}.")


@dataclass(frozen=True)
class LedgerEntry:
    """One line: its number from 1, the release, and the hash that binds it to all lines before."""

    sequence: int
    release: Release
    hash: bytes


@dataclass(frozen=True)
class LedgerHead:
    """Number of lines and the last hash; a copy kept elsewhere exposes an exchanged ledger."""

    count: int
    hash: bytes


def release_key(release: Release) -> str:
    """What may be charged once: study, run, round, attempt and purpose."""
    return "/".join(
        (
            release.study,
            release.run,
            str(release.round),
            str(release.attempt),
            release.purpose,
        )
    )


def chain(previous: bytes, entry: str) -> bytes:
    """The hash of a line: SHA-256 over the hash before it and the line's canonical JSON."""
    return hashlib.sha256(previous + entry.encode()).digest()


class Ledger:
    """The releases of one site, in order, with its cap enforced.

    What was read is kept in memory and compared with the head on disk at every use; lines that
    another process added are verified before they count.

    Raises:
        LedgerDamaged: a line was changed, removed or reordered.
    """

    def __init__(self, store: SiteStore) -> None:
        self._store = store
        self._forget()
        self._catch_up()

    @property
    def head(self) -> LedgerHead:
        """Number of lines and the last hash."""
        self._catch_up()
        return LedgerHead(len(self._entries), self._hash)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All lines, oldest first."""
        self._catch_up()
        return tuple(self._entries)

    def releases(self, study: str | None = None) -> tuple[Release, ...]:
        """The releases of one study (digest), or of all."""
        self._catch_up()
        return tuple(
            entry.release
            for entry in self._entries
            if study is None or entry.release.study == study
        )

    def has(self, release: Release) -> bool:
        """Whether a release of the same study, run, round, attempt and purpose was charged."""
        self._catch_up()
        return release_key(release) in self._keys

    def verify(self) -> LedgerHead:
        """Read every line from disk again and check the chain.

        Raises:
            LedgerDamaged: names the first line that was changed, removed or reordered.
        """
        self._forget()
        self._catch_up()
        return LedgerHead(len(self._entries), self._hash)

    def append(self, release: Release) -> LedgerEntry:
        """Write one line; durable when the store's outermost transaction ends.

        There is no "same content, so let it pass": a second reply under one key would carry
        fresh noise and no charge. A new try needs a new attempt.

        Raises:
            ReleaseRepeated: this study, run, round, attempt and purpose was charged already.
        """
        with self._store.transaction():
            self._catch_up()
            return self._write(release)

    def charge(
        self,
        release: Release,
        *,
        cap: PrivacyCap | None = None,
        study_cap: PrivacyCap | None = None,
    ) -> LedgerEntry:
        """Write one line unless it would spend more than allowed.

        Args:
            release: what is about to leave.
            cap: the site's own cap, over all studies on the release's cohort.
            study_cap: what the study promised, over this study's releases only, whatever cohort.

        Raises:
            BudgetExhausted: it would; nothing was written.
            ReleaseRepeated: it was charged already.
        """
        with self._store.transaction():
            self._catch_up()
            if cap is not None:
                _refuse_above(cap, release, self._of_cohort[release.cohort], "this site's cap")
            if study_cap is not None:
                _refuse_above(
                    study_cap, release, self._of_study[release.study], "the study's promise"
                )
            return self._write(release)

    def spent(
        self, delta: float, *, study: str | None = None, cohort: str | None = None
    ) -> PrivacySpent:
        """Derive from the lines what patients can have lost at `delta`.

        Args:
            delta: in (0, 1).
            study: count this study's releases only.
            cohort: count this cohort's releases only.
        """
        return Account.of(
            release
            for release in self.releases(study)
            if cohort is None or release.cohort == cohort
        ).spent(delta)

    def _write(self, release: Release) -> LedgerEntry:
        if release_key(release) in self._keys:
            raise ReleaseRepeated(
                f"run {release.run}, round {release.round}, attempt {release.attempt}: its "
                f"{release.purpose} release was charged already; ask with a new attempt."
            )
        entry = release.to_json()
        line = LedgerEntry(len(self._entries) + 1, release, chain(self._hash, entry))
        self._store.write(
            "INSERT INTO ledger (sequence, key, entry, hash) VALUES (?, ?, ?, ?)",
            (line.sequence, release_key(release), entry, line.hash),
        )
        self._store.write(
            "INSERT OR REPLACE INTO ledger_head (single, count, hash) VALUES (1, ?, ?)",
            (line.sequence, line.hash),
        )
        self._remember(line)
        return line

    def _forget(self) -> None:
        self._entries: list[LedgerEntry] = []
        self._keys: set[str] = set()
        self._hash = GENESIS
        self._of_cohort: defaultdict[str, Account] = defaultdict(Account)
        self._of_study: defaultdict[str, Account] = defaultdict(Account)

    def _remember(self, line: LedgerEntry) -> None:
        self._entries.append(line)
        self._keys.add(release_key(line.release))
        self._hash = line.hash
        self._of_cohort[line.release.cohort].add(line.release)
        self._of_study[line.release.study].add(line.release)

    def _catch_up(self) -> None:
        """Make memory equal to disk: after a rollback, or after another process wrote."""
        head = self._head_on_disk()
        if head == LedgerHead(len(self._entries), self._hash):
            return
        # Memory is kept if it is a beginning of what is on disk.
        count = len(self._entries)
        rows = self._store.read("SELECT hash FROM ledger WHERE sequence = ?", (count,))
        if head.count < count or not rows or rows[0][0] != self._hash:
            self._forget()
        for line in self._lines_after(len(self._entries)):
            self._remember(line)
        if head != LedgerHead(len(self._entries), self._hash):
            raise self._damaged(
                f"has {len(self._entries)} lines where {head.count} were written: the last ones "
                "were removed"
            )

    def _head_on_disk(self) -> LedgerHead:
        rows = self._store.read("SELECT count, hash FROM ledger_head")
        if rows:
            count, digest = rows[0]
            if type(count) is not int or type(digest) is not bytes:
                raise self._damaged("has a head that is not a number and a hash")
            return LedgerHead(count, digest)
        if self._store.read("SELECT 1 FROM ledger LIMIT 1"):
            raise self._damaged("has lines but no head")
        return LedgerHead(0, GENESIS)

    def _lines_after(self, count: int) -> Iterator[LedgerEntry]:
        rows = self._store.read(
            "SELECT sequence, key, entry, hash FROM ledger WHERE sequence > ? ORDER BY sequence",
            (count,),
        )
        previous = self._hash
        for expected, (sequence, key, entry, digest) in enumerate(rows, start=count + 1):
            if sequence != expected:
                raise self._damaged(f"line {expected} was removed")
            if chain(previous, str(entry)) != digest:
                raise self._damaged(_what_happened(expected, previous, rows))
            line = LedgerEntry(expected, Release.from_json(str(entry)), bytes(digest))
            if release_key(line.release) != key:
                raise self._damaged(f"line {expected} was changed")
            previous = line.hash
            yield line

    def _damaged(self, finding: str) -> LedgerDamaged:
        return LedgerDamaged(
            f"{self._store.path}: the ledger {finding}; restore it from a backup, and take part "
            "in no study until then."
        )


def _refuse_above(cap: PrivacyCap, release: Release, account: Account, whose: str) -> None:
    if account.would_exceed([release], cap.epsilon, cap.delta):
        raise BudgetExhausted(
            f"run {release.run}, round {release.round}: this {release.purpose} release would spend "
            f"more than {whose} of epsilon {cap.epsilon:g} at delta {cap.delta:g}; it was not made."
        )


def _what_happened(line: int, previous: bytes, rows: Iterable[Sequence[object]]) -> str:
    """Tell a reordered line from a changed one: does another line fit into its place?"""
    for sequence, _, entry, digest in rows:
        if sequence != line and chain(previous, str(entry)) == digest:
            return f"line {line} was reordered with line {sequence}"
    return f"line {line} was changed"
