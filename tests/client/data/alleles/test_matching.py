"""Pairs of named alleles against a slow, plain reading of the rules."""

from itertools import combinations_with_replacement, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrx_client.data.harmonise.alleles.caller import call_gene
from fedrx_client.data.harmonise.alleles.matching import Genotypes, combinations, matches
from fedrx_client.data.harmonise.alleles.sites import Observation
from fedrx_client.data.harmonise.alleles.tables import GENES, gene_table

SOME = ("CYP2C19", "CYP2B6", "SLCO1B1", "TPMT", "UGT1A1", "NUDT15")


def slow_matches(table, person):
    """Try every pair of strands that the genotypes allow, and every pair of alleles on them."""
    known = [i for i, choice in enumerate(person.choices) if choice is not None]
    groups = list(person.orders)
    found = {}
    for flips in product((0, 1), repeat=len(groups)):
        turned = {i for flip, group in zip(flips, groups, strict=True) if flip for i in group}
        strands = [
            {i: person.choices[i][::-1][k] if i in turned else person.choices[i][k] for i in known}
            for k in range(2)
        ]
        fitting = [
            [a for a in table.alleles if all(a.fits[i] >> x & 1 for i, x in strand.items())]
            for strand in strands
        ]
        for a, b in product(*fitting):
            scores = [sum(one.defined >> i & 1 for i in known) for one in (a, b)]
            if all(scores):
                names = "/".join(x.name for x in sorted((a, b), key=lambda x: x.order))
                found[names] = max(sum(scores), found.get(names, 0))
    return found


@st.composite
def people(draw):
    """Two alleles of a gene put together, with other bases, gaps and phase here and there."""
    table = gene_table(draw(st.sampled_from(SOME)))
    pair = [draw(st.sampled_from(table.alleles)) for _ in range(2)]
    choices, blocks = [], []
    for i, locus in enumerate(table.loci):
        held = []
        for one in pair:
            fits = [x for x in range(len(locus.choices)) if one.fits[i] >> x & 1]
            held.append(draw(st.sampled_from(fits)) if len(fits) > 1 else fits[0])
        choices.append(tuple(held))
        blocks.append(draw(st.sampled_from([None, "", "1"])) if held[0] != held[1] else None)
    for i in draw(st.lists(st.integers(0, len(table.loci) - 1), max_size=4)):
        choices[i] = draw(st.sampled_from([None, (0, 0), (0, len(table.loci[i].choices) - 1)]))
    return table, Genotypes(2, tuple(choices), tuple(blocks), ())


@given(people())
@settings(max_examples=150)
def test_the_best_pairs_are_those_of_the_plain_rules(case):
    table, person = case
    slow = slow_matches(table, person)
    found = {str(match): match.score for match in matches(table, person)}
    best = max(slow.values(), default=0)
    assert {x for x, score in found.items() if score == best} == {
        x for x, score in slow.items() if score == best
    }
    # What is left out equals, at the positions that are there, a pair that scores more.
    assert found.items() <= slow.items()
    assert bool(found) == bool(slow)


@pytest.mark.parametrize("gene", GENES)
def test_every_pair_of_alleles_is_called_by_its_name_where_the_phase_is_known(gene):
    table = gene_table(gene)
    pairs = list(combinations_with_replacement(table.alleles, 2))
    for one, other in pairs[:: max(1, len(pairs) // 150)]:
        seen = [
            Observation(((a & -a).bit_length() - 1, (b & -b).bit_length() - 1), phased=True)
            for a, b in zip(one.fits, other.fits, strict=True)
        ]
        names = "/".join(x.name for x in sorted((one, other), key=lambda x: x.order))
        assert call_gene(table, seen).diplotype == names


def test_combinations_explain_what_no_pair_does():
    table = gene_table("CYP2B6")
    at = {locus.rsid: i for i, locus in enumerate(table.loci)}

    def person(**changes):
        choices = [(0, 0)] * len(table.loci)
        for rsid, held in changes.items():
            choices[at[rsid]] = held
        return Genotypes(2, tuple(choices), ("",) * len(choices), ())

    cis = person(rs8192709=(0, 1), rs3745274=(0, 1))
    assert matches(table, cis) == ()
    assert combinations(table, cis) == ("*1/[*2 + *9]",)
    part = person(rs33973337=(0, 1), rs8192709=(0, 1))
    (written,) = combinations(table, part)
    assert written.startswith("*1/[*2 + g.40991381")
