"""From one person's genotypes to what is reported of a gene: alleles, phenotype, doubts.

Nothing is guessed. An allele that no table has, a variant that failed its filter, two explanations
that fit equally well: each of them leaves the diplotype empty, and the note says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedrx_client.data.harmonise.alleles.dpyd import call_dpyd
from fedrx_client.data.harmonise.alleles.matching import (
    Genotypes,
    Match,
    combinations,
    genotypes,
    matches,
    possible_alleles,
)
from fedrx_client.data.harmonise.alleles.sites import Observation
from fedrx_client.data.harmonise.alleles.tables import GeneTable
from fedrx_common.errors import counted

_ALWAYS = {
    "CYP2D6": "copies, deletions (*5) and hybrids of CYP2D6 are not in a VCF of small variants: "
    "this is what the small variants alone say",
}
_SLCO1B1_CORE = "rs4149056"


@dataclass(frozen=True)
class MissingPosition:
    """A position that the file says nothing about.

    Attributes:
        position: such as "chr10:94942290".
        rsid: its rs number, or "".
        alleles: which alleles the person may have that it would show.
    """

    position: str
    rsid: str
    alleles: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """What is reported of one gene of one person.

    Attributes:
        diplotype: the two named alleles, or one where there is one copy; None where it is not
            known, and then `note` says why.
        phenotype: what the pair does, in CPIC's words; also where several pairs fit equally well
            and all do the same.
        activity: the sum of the two activities, of genes that have them.
        alternatives: other diplotypes that explain the genotypes, the best first.
        missing: positions without a genotype, and what they could change.
        note: what a person must know about the call; "" where there is nothing.
    """

    diplotype: str | None
    phenotype: str | None
    activity: float | None
    alternatives: tuple[str, ...]
    missing: tuple[MissingPosition, ...]
    note: str


def call_gene(table: GeneTable, seen: Sequence[Observation | None]) -> Call:
    """Call one gene of one person.

    Args:
        table: of the gene.
        seen: by locus of the table, what the file says; None where it says nothing.
    """
    person = genotypes(table, seen)
    missing = _missing(table, person)
    if person.unknown:
        return _uncalled(table, person, missing, "not called: " + "; ".join(person.unknown))
    if len(missing) == len(table.loci):
        positions = "its position" if len(missing) == 1 else f"its {len(missing)} positions"
        why = f"not called: the file has no genotype at {positions}"
        return Call(None, None, None, (), missing, why)
    if table.gene == "DPYD" and person.copies == 2:
        return _called_dpyd(table, person, missing)
    found = matches(table, person)
    if not found:
        others = combinations(table, person)
        why = "not called: no pair of named alleles explains the genotypes"
        if others:
            why += f"; several on one copy would: {' or '.join(others)}"
        return _uncalled(table, person, missing, why, others)
    best = [match for match in found if match.score == found[0].score]
    notes: list[str] = []
    if len(best) > 1:
        notes.append(
            f"ambiguous: {' and '.join(map(str, best[:6]))}{' and others' * (len(best) > 6)} fit "
            "the genotypes equally well"
        )
    outcome = {_outcome(table, match) for match in best}
    phenotype, activity = next(iter(outcome)) if len(outcome) == 1 else (None, None)
    if len(outcome) > 1:
        notes.append("they do not all do the same, so there is no phenotype")
    notes += _notes(table, person, best[0], found[len(best) :], missing)
    return Call(
        diplotype=str(best[0]) if len(best) == 1 else None,
        phenotype=phenotype,
        activity=activity,
        alternatives=tuple(map(str, found[1:] if len(best) == 1 else found)),
        missing=missing,
        note="; ".join(notes),
    )


def _called_dpyd(table: GeneTable, person: Genotypes, missing: tuple[MissingPosition, ...]) -> Call:
    found = call_dpyd(table, person)
    phenotype, activity = _outcome(table, Match(found.deciding, 0))
    notes = "; ".join((*found.notes, *_of_missing(table, missing)))
    return Call(found.diplotype, phenotype, activity, (), missing, notes)


def _uncalled(
    table: GeneTable,
    person: Genotypes,
    missing: tuple[MissingPosition, ...],
    why: str,
    others: tuple[str, ...] = (),
) -> Call:
    """Report a gene that is not called; of SLCO1B1 the one variant that CPIC falls back on too."""
    if table.gene == "SLCO1B1":
        at = next(i for i, locus in enumerate(table.loci) if locus.rsid == _SLCO1B1_CORE)
        if choice := person.choices[at]:
            bases = "/".join(sorted(table.loci[at].choices[x] for x in choice))
            why += f"; {_SLCO1B1_CORE} (c.521T>C) alone is {bases}"
    if table.gene in _ALWAYS:
        why += f"; {_ALWAYS[table.gene]}"
    return Call(None, None, None, others, missing, why)


def _missing(table: GeneTable, person: Genotypes) -> tuple[MissingPosition, ...]:
    """List missing positions, each with the alleles that fit all the others and need it."""
    possible = possible_alleles(table, person)
    found = []
    for i in person.missing:
        names = {
            one.name
            for a, one in enumerate(table.alleles)
            if possible >> a & 1 and one.fits[i] != 1
        }
        locus = table.loci[i]
        listed = tuple(name for name in table.names if name in names)
        found.append(MissingPosition(locus.name, locus.rsid, listed))
    return tuple(found)


def _outcome(table: GeneTable, match: Match) -> tuple[str | None, float | None]:
    """Look up what a pair does: its phenotype, and the sum of its activities."""
    if len(match.alleles) != 2:
        return None, None
    first, second = match.alleles
    functions = sorted(table.functions.get(name, "") for name in (first, second))
    phenotype = table.phenotypes.get((functions[0], functions[1]))
    known = [table.activity[name] for name in (first, second) if name in table.activity]
    return phenotype, sum(known) if len(known) == 2 else None


def _notes(
    table: GeneTable,
    person: Genotypes,
    best: Match,
    others: Sequence[Match],
    missing: Sequence[MissingPosition],
) -> list[str]:
    """Say what a person must know about a call."""
    notes = []
    phenotype, _ = _outcome(table, best)
    if others and len(person.orders) > 1:
        unlike = {str(other): _outcome(table, other)[0] for other in others}
        told = [
            f"{pair} would be {does}"
            for pair, does in unlike.items()
            if does not in (None, phenotype)
        ]
        notes.append(
            f"the phase is not known: {counted(len(others), 'other pair')} would fit too, less "
            f"simply{', and ' * bool(told)}{', '.join(told[:3])}"
        )
    if table.chromosome == "X":
        one = "one copy, as of a man's X chromosome"
        both = "two equal copies in the file: of a man they are one"
        same = len(set(best.alleles)) == 1
        notes += [one] if person.copies == 1 else [both] if same else []
    if not table.functions:
        notes.append(f"no phenotype: the public tables at hand have none of {table.gene}")
    elif phenotype is None and not table.phenotypes:
        each = (f"{name}: {table.functions[name]}" for name in dict.fromkeys(best.alleles))
        notes.append(f"no phenotype of the pair in the tables; {', '.join(each)}")
    elif phenotype is None:
        silent = [name for name in dict.fromkeys(best.alleles) if name not in table.functions]
        notes.append(f"no phenotype: the tables do not say what {' and '.join(silent)} does")
    if table.gene in _ALWAYS:
        notes.append(_ALWAYS[table.gene])
    return [*notes, *_of_missing(table, missing)]


def _of_missing(table: GeneTable, missing: Sequence[MissingPosition]) -> list[str]:
    """Say which alleles missing positions leave open."""
    left_open = {name for one in missing for name in one.alleles}
    names = [name for name in table.names if name in left_open]
    if not missing:
        return []
    shown = ", ".join(names[:8]) + ", …" * (len(names) > 8)
    places = "1 position is" if len(missing) == 1 else f"{len(missing)} positions are"
    what = f" and could show {shown}" if names else " and could change nothing"
    return [f"{places} missing{what}"]
