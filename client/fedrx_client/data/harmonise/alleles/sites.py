"""What a record of a VCF says about the loci that it touches.

Records and tables may write one change in different ways: an indel at any unit of a repeat, a
substitution inside a longer allele, several alternatives in one record or in several, a block of
reference. Here all of them become choices of a locus. An allele that the table does not have keeps
its text, so that a caller reports it and never takes it for the reference.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedrx_client.data.harmonise.alleles.tables import Locus

# A choice of the locus; ANY, where a deletion of the tables covers it; the text of an allele that
# they do not have; or None where nothing is known.
Held = int | str | None
ANY = -1
DELETED = "*"  # as VCF writes an allele that a deletion elsewhere takes away

# An indel at its leftmost place: where it starts, what it deletes, what it inserts.
Change = tuple[int, str, str]

# What a record is to a locus: it lists a change there; it says that the reference is unchanged; it
# lists a change beside it, which matters only to those who carry it.
Kind = Literal["change", "reference", "beside"]

_UNNAMED = frozenset({"<*>", "<NON_REF>"})
_PLAIN = frozenset("ACGT")


@dataclass(frozen=True)
class Meaning:
    """What the alleles of one record are at one locus.

    Attributes:
        kind: what the record is to the locus.
        held: by allele of the record, the reference first.
    """

    kind: Kind
    held: tuple[Held, ...]


class Sites:
    """The loci of all genes, found by position.

    Args:
        loci: each locus once.
    """

    def __init__(self, loci: Sequence[Locus]) -> None:
        self.loci = tuple(loci)
        self._bases: dict[str, dict[int, str]] = {}
        covered: dict[str, dict[int, list[int]]] = {}
        for i, locus in enumerate(self.loci):
            bases = self._bases.setdefault(locus.chromosome, {})
            places = covered.setdefault(locus.chromosome, {})
            for offset, base in enumerate(locus.run):
                bases[locus.position + offset] = base
                places.setdefault(locus.position + offset, []).append(i)
        self._covered = {name: dict(sorted(places.items())) for name, places in covered.items()}
        self.positions: Mapping[str, tuple[int, ...]] = {
            name: tuple(places) for name, places in self._covered.items()
        }
        self._changes = [_changes(locus, self._bases[locus.chromosome]) for locus in self.loci]

    def touched(self, chromosome: str, first: int, last: int) -> tuple[int, ...]:
        """Return the loci whose bases are between two positions, both included."""
        places = self.positions.get(chromosome, ())
        inside = places[bisect_left(places, first) : bisect_right(places, last)]
        found = (i for place in inside for i in self._covered[chromosome][place])
        return tuple(dict.fromkeys(found))

    def wrong_base(self, chromosome: str, position: int, ref: str) -> tuple[int, str] | None:
        """Return where a reference allele differs from GRCh38, and what GRCh38 has there."""
        bases = self._bases.get(chromosome, {})
        for offset, base in enumerate(ref):
            known = bases.get(position + offset, base)
            if base != known and base in _PLAIN:
                return position + offset, known
        return None

    def meaning(
        self, number: int, position: int, ref: str, alts: Sequence[str], end: int
    ) -> Meaning | None:
        """Say what a record's alleles are at a locus; None if it says nothing about it."""
        locus = self.loci[number]
        if not any(alt not in _UNNAMED for alt in alts):
            # Of an indel it is the base before it: there a change would be listed.
            covers = position <= locus.position <= end
            return Meaning("reference", (0, *map(_shown, alts))) if covers else None
        found = [self._allele(number, position, ref, alt, end) for alt in alts]
        kind: Kind = "change" if any(here for _, here in found) else "beside"
        return Meaning(kind, (0, *(held for held, _ in found)))

    def _allele(
        self, number: int, position: int, ref: str, alt: str, end: int
    ) -> tuple[Held, bool]:
        """Say what an allele holds at a locus, and whether it is a change there."""
        locus = self.loci[number]
        if not _PLAIN.issuperset(alt):
            return _symbol(locus, position, alt, end)
        if len(ref) == len(alt):
            return (0, False) if locus.is_indel else _substitution(locus, position, ref, alt)
        change = _change(position, ref, alt, self._bases[locus.chromosome])
        choice = self._changes[number].get(change)
        if choice is not None:
            return choice, True
        start, deleted, _ = change
        first, last = _extent(locus)
        stop = start + len(deleted) - 1  # of an insertion the base before it
        if not locus.is_indel:
            return (DELETED if start <= first <= stop else 0), False
        if stop < first - (not deleted) or start > last + (not deleted):
            return 0, False
        return f"{_short(ref)}>{_short(alt)}", start >= first and stop <= last


def _extent(locus: Locus) -> tuple[int, int]:
    """Return the first and the last base that a change at a locus takes part in."""
    return locus.position + locus.is_indel, locus.position + len(locus.run) - 1


def _symbol(locus: Locus, position: int, alt: str, end: int) -> tuple[Held, bool]:
    """Read an allele that is not written in bases; it begins behind the base it is listed at."""
    first, last = _extent(locus)
    if alt in _UNNAMED:
        return _shown(alt), False
    if alt == DELETED:
        return (DELETED if position <= locus.position else 0), not locus.is_indel
    return (_short(alt) if position < last and end >= first else 0), False


def _substitution(locus: Locus, position: int, ref: str, alt: str) -> tuple[Held, bool]:
    """Read an allele of the reference's length at a locus of single bases."""
    offset = locus.position - position
    base = alt[offset] if offset < len(alt) else ""
    if not base or base == ref[offset]:
        return 0, False
    choices = locus.choices
    return (choices.index(base) if base in choices else f"{ref[offset]}>{base}"), True


def _changes(locus: Locus, bases: Mapping[int, str]) -> dict[Change, int]:
    """Return the choice that each change of an indel's locus makes."""
    ref, *alts = locus.choices
    if not locus.is_indel:
        return {}
    return {_change(locus.position, ref, alt, bases): i for i, alt in enumerate(alts, 1)}


def _change(position: int, ref: str, alt: str, bases: Mapping[int, str]) -> Change:
    """Bring an indel to its leftmost place: where it starts, what it deletes, what it inserts.

    Tan, Abecasis and Kang (2015), doi 10.1093/bioinformatics/btv112, with the bases of the record
    and of the tables in place of the whole genome.
    """
    before, deleted, inserted = _trimmed(ref, alt)
    start = position + before
    if deleted and inserted:
        return start, deleted, inserted
    moved = deleted or inserted
    known = {**bases, **{position + i: base for i, base in enumerate(ref)}}
    while known.get(start - 1) == moved[-1]:
        moved, start = moved[-1] + moved[:-1], start - 1
    return (start, moved, "") if deleted else (start, "", moved)


def _trimmed(ref: str, alt: str) -> tuple[int, str, str]:
    """Leave out the bases that two alleles share at their ends, the right end first."""
    after = 0
    while after < min(len(ref), len(alt)) and ref[-1 - after] == alt[-1 - after]:
        after += 1
    ref, alt = ref[: len(ref) - after], alt[: len(alt) - after]
    before = 0
    while before < min(len(ref), len(alt)) and ref[before] == alt[before]:
        before += 1
    return before, ref[before:], alt[before:]


def _short(bases: str) -> str:
    return bases if len(bases) <= 20 else f"{bases[:8]}…({len(bases)} bases)"


def _shown(alt: str) -> str:
    return "an allele that the file does not name" if alt in _UNNAMED else _short(alt)


@dataclass(frozen=True)
class Observation:
    """What one person has at one locus.

    Attributes:
        held: one entry per chromosome, in the file's order.
        phased: whether the order is the same as at other loci of the block.
        block: the phase set; "" where the file names none.
    """

    held: tuple[Held, ...]
    phased: bool = False
    block: str = ""


def merged(one: Observation, other: Observation) -> Observation | None:
    """Join what two records list at one locus; None if they contradict each other.

    A site with two alternatives may be two records, `G>A 0/1` and `G>T 0/1`: one person holds A and
    T. A record that lists the same change twice must say the same both times.
    """
    if len(one.held) != len(other.held):
        return None
    if sorted(map(str, one.held)) == sorted(map(str, other.held)):
        return one
    changed = {x for x in one.held if x not in (0, None)} & {
        x for x in other.held if x not in (0, None)
    }
    if changed:
        return None
    orders = [other.held] if other.phased and one.phased else [other.held, other.held[::-1]]
    for held in orders:
        pairs = list(zip(one.held, held, strict=True))
        if all(x in (0, None) or y in (0, None) for x, y in pairs):
            joined = tuple(y if x is None or (x == 0 and y is not None) else x for x, y in pairs)
            return Observation(joined, one.phased and other.phased, one.block)
    return None
