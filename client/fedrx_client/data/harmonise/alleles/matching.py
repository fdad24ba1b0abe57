"""Which pairs of named alleles explain a person's genotypes, the best first.

The rules are those of the public named allele matcher (PharmCAT, "Named Allele Matcher 101"): an
allele scores the positions that define it and that the person has, a pair scores the sum of its
two, and where the phase is unknown every pair that explains both bases of every position counts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from fedrx_client.data.harmonise.alleles.sites import ANY, DELETED, Held, Observation
from fedrx_client.data.harmonise.alleles.tables import GeneTable, NamedAllele

# Beyond so many heterozygous loci without phase, no combination of alleles is looked for.
_MOST_HETEROZYGOUS = 6
_MOST_COMBINATIONS = 5


@dataclass(frozen=True)
class Genotypes:
    """One person's choices at the loci of a gene.

    Attributes:
        copies: 2, or 1 on a man's X chromosome.
        choices: by locus, one choice per copy; None where the person's are not known.
        blocks: by locus, the phase set whose order `choices` has; None where it has no order.
        unknown: what is there that no allele of the table has, in words.
    """

    copies: int
    choices: tuple[tuple[int, ...] | None, ...]
    blocks: tuple[str | None, ...]
    unknown: tuple[str, ...]

    @property
    def missing(self) -> tuple[int, ...]:
        """Loci of which nothing is known."""
        return tuple(i for i, choice in enumerate(self.choices) if choice is None)

    @property
    def orders(self) -> tuple[tuple[int, ...], ...]:
        """Heterozygous loci in groups whose order is known within the group alone."""
        groups: dict[object, list[int]] = {}
        for i, choice in enumerate(self.choices):
            if choice is not None and len(choice) == 2 and choice[0] != choice[1]:
                groups.setdefault(i if self.blocks[i] is None else self.blocks[i], []).append(i)
        return tuple(map(tuple, groups.values()))


def genotypes(table: GeneTable, seen: Sequence[Observation | None]) -> Genotypes:
    """Turn what was seen at each locus into choices; what cannot be one is kept in words."""
    hidden = any(one is not None and DELETED in one.held for one in seen)
    covering = _covered(table, seen) if hidden else set()
    choices: list[tuple[int, ...] | None] = []
    unknown: list[str] = []
    for i, one in enumerate(seen):
        held = () if one is None else one.held
        if i in covering:
            held = tuple(ANY if x == DELETED else x for x in held)
        choice, problem = _choice(held, table.chromosome == "X")
        choices.append(choice)
        if problem:
            unknown.append(f"{table.loci[i].name} has {problem}")
    copies = 1 if any(choice is not None and len(choice) == 1 for choice in choices) else 2
    if copies == 1:
        if any(choice is not None and len(set(choice)) > 1 for choice in choices):
            unknown.append("one copy at some positions and two different ones at others")
        choices = [choice and choice[:1] for choice in choices]
    blocks = tuple(one.block if one is not None and one.phased else None for one in seen)
    return Genotypes(copies, tuple(choices), blocks, tuple(unknown))


@lru_cache(maxsize=4096)
def _choice(held: tuple[Held, ...], on_x: bool) -> tuple[tuple[int, ...] | None, str]:  # noqa: FBT001 - cached by position
    """Return the choice that was seen, or None and, where a variant was seen, what is wrong."""
    carried = [x for x in held if x not in (0, None)]
    strange = [x for x in carried if isinstance(x, str)]
    if strange:
        return None, "a deletion" if strange[0] == DELETED else strange[0]
    if None in held or (len(held) == 1 and not on_x) or len(held) > 2:
        return None, "a variant on some copies, and others that are not known" if carried else ""
    return tuple(x for x in held if isinstance(x, int)) or None, ""


def _covered(table: GeneTable, seen: Sequence[Observation | None]) -> set[int]:
    """Loci inside a deletion of the table that the person carries."""
    covered: set[int] = set()
    for locus, one in zip(table.loci, seen, strict=True):
        for held in () if one is None else one.held:
            if isinstance(held, int) and held > 0:
                gone = len(locus.choices[0]) - len(locus.choices[held])
                first, last = locus.position + 1, locus.position + gone
                covered |= {i for i, x in enumerate(table.loci) if first <= x.position <= last}
    return covered


@dataclass(frozen=True)
class Match:
    """Named alleles, one per copy, that explain the genotypes.

    Attributes:
        alleles: their names, in order.
        score: how many known positions define them, summed.
    """

    alleles: tuple[str, ...]
    score: int

    def __str__(self) -> str:
        return "/".join(self.alleles)


def matches(table: GeneTable, person: Genotypes) -> tuple[Match, ...]:
    """Return all pairs of named alleles that explain the genotypes, the best first.

    An allele whose every defining position is missing cannot be seen. Of alleles that are the same
    at the positions that are there, those with the most of them count.
    """
    found: dict[tuple[str, ...], int] = {}
    candidates = _candidates(table, person)
    groups = _groups(table, person)
    known = sum(1 << i for i, choice in enumerate(person.choices) if choice is not None)
    scores = [(one.defined & known).bit_count() for one in table.alleles]
    kept = _distinct(table, known, scores, candidates)
    for a in _members(kept):
        partners = kept
        for first, second in groups:
            partners &= (second if first >> a & 1 else 0) | (first if second >> a & 1 else 0)
        for b in _members(partners) if person.copies == 2 else [None]:
            if b is not None and b < a:
                continue
            pair = [table.alleles[a]] if b is None else [table.alleles[a], table.alleles[b]]
            names = in_order(pair)
            score = scores[a] + (0 if b is None else scores[b])
            found[names] = max(score, found.get(names, 0))
    rank = {name: i for i, name in enumerate(table.names)}
    ordered = sorted(found, key=lambda names: (-found[names], [rank[name] for name in names]))
    return tuple(Match(names, found[names]) for names in ordered)


def in_order(alleles: Iterable[NamedAllele]) -> tuple[str, ...]:
    """Return names of alleles in the order in which people write them."""
    return tuple(one.name for one in sorted(alleles, key=lambda one: one.order))


def possible_alleles(table: GeneTable, person: Genotypes) -> int:
    """Return, as bits, the alleles that some copy may be of, whatever the missing loci hold."""
    return _candidates(table, person)


def _candidates(table: GeneTable, person: Genotypes) -> int:
    """Alleles that fit one of the choices at every known locus, as bits."""
    left = (1 << len(table.alleles)) - 1
    for fitting, choice in zip(table.fitting, person.choices, strict=True):
        if choice is not None and ANY not in choice:
            left &= fitting[choice[0]] | fitting[choice[-1]]
    return left


def _groups(table: GeneTable, person: Genotypes) -> list[tuple[int, int]]:
    """For each group of ordered loci: the alleles that fit one of the two orders, and the other."""
    groups = []
    for loci in person.orders:
        sides = [(1 << len(table.alleles)) - 1] * 2
        for i in loci:
            for side, choice in enumerate(person.choices[i] or ()):
                if choice != ANY:
                    sides[side] &= table.fitting[i][choice]
        groups.append((sides[0], sides[1]))
    return groups


def _distinct(table: GeneTable, known: int, scores: Sequence[int], candidates: int) -> int:
    """Leave out alleles that score nothing, or that equal a better one at all known loci."""
    best: dict[tuple[int, ...], int] = {}
    loci = _members(known)
    keys = {a: tuple(table.alleles[a].fits[i] for i in loci) for a in _members(candidates)}
    for a, key in keys.items():
        best[key] = max(scores[a], best.get(key, 0))
    return sum(1 << a for a, key in keys.items() if 0 < scores[a] == best[key])


def _members(bits: int) -> list[int]:
    return [i for i in range(bits.bit_length()) if bits >> i & 1]


def combinations(table: GeneTable, person: Genotypes) -> tuple[str, ...]:
    """Explain genotypes that no pair of named alleles explains, by several alleles on one copy.

    Written as by PharmCAT's research mode: `*24/[*2 + *24]`, and `[*17 + g.94781859G>A]` where a
    variant belongs to no such allele.

    Returns:
        The explanations with the fewest parts; none where there is too much without phase.
    """
    orders = person.orders
    if person.unknown or person.missing == tuple(range(len(table.loci))):
        return ()
    if len(orders) > _MOST_HETEROZYGOUS:
        return ()
    found: dict[str, int] = {}
    for flips in product((0,), *[(0, 1)] * (len(orders) - 1)):
        strands = []
        for copy in range(person.copies):
            turned = {i for flip, loci in zip(flips, orders, strict=False) if flip for i in loci}
            strands.append(
                {
                    i: choice[(copy ^ (i in turned)) if len(choice) == 2 else 0]
                    for i, choice in enumerate(person.choices)
                    if choice is not None
                }
            )
        names = [_strand(table, strand) for strand in strands]
        rank = {name: i for i, name in enumerate(table.names)}
        names.sort(key=lambda parts: (len(parts), [rank.get(part, len(rank)) for part in parts]))
        written = "/".join(x[0] if len(x) == 1 else f"[{' + '.join(x)}]" for x in names)
        found[written] = sum(2 if part.startswith("g.") else 1 for x in names for part in x)
    fewest = min(found.values())
    return tuple(x for x, parts in found.items() if parts == fewest)[:_MOST_COMBINATIONS]


def _strand(table: GeneTable, strand: dict[int, int]) -> list[str]:
    """Name what one copy holds: an allele, or the fewest alleles and variants that make it up."""
    fits = (1 << len(table.alleles)) - 1
    for i, x in strand.items():
        if x != ANY:
            fits &= table.fitting[i][x]
    if fits:
        known = sum(1 << i for i in strand)
        named = [table.alleles[a] for a in _members(fits)]
        return [max(named, key=lambda one: (one.defined & known).bit_count()).name]
    left = {(i, x) for i, x in strand.items() if x > 0}
    inside = [one for one in table.alleles if one.variants and left.issuperset(one.variants)]
    parts: list[NamedAllele] = []
    while inside:
        largest = max(inside, key=lambda one: len(left.intersection(one.variants)))
        if not left.intersection(largest.variants):
            break
        parts.append(largest)
        left -= set(largest.variants)
    return [*in_order(parts), *(_written(table, i, x) for i, x in sorted(left))]


def _written(table: GeneTable, locus: int, choice: int) -> str:
    at = table.loci[locus]
    return f"g.{at.position}{at.choices[0]}>{at.choices[choice]}"


def strand_names(table: GeneTable, person: Genotypes) -> Iterator[list[str]]:
    """Yield what each copy holds, where the order of all heterozygous loci is known."""
    for copy in range(person.copies):
        yield _strand(
            table,
            {i: x[copy % len(x)] for i, x in enumerate(person.choices) if x is not None},
        )
