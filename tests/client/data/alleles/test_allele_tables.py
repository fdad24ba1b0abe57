"""The shipped tables say what the public ones say, and hold the reference's own bases."""

import csv
import json

import pytest

from fedrx_client.data.harmonise.alleles.build_tables import compact
from fedrx_client.data.harmonise.alleles.caller import _outcome
from fedrx_client.data.harmonise.alleles.matching import Match
from fedrx_client.data.harmonise.alleles.tables import _TABLES, GENES, gene_table


def test_every_gene_has_a_table_of_one_version_and_all_are_small():
    assert {gene_table(gene).version for gene in GENES} == {"2025-11-05-00-25"}
    assert sorted(path.stem for path in _TABLES.glob("*.json")) == sorted(GENES)
    assert sum(path.stat().st_size for path in _TABLES.iterdir()) < 300_000
    assert "CC0" in (_TABLES / "LICENSE.md").read_text("utf-8")


@pytest.mark.parametrize("gene", GENES)
def test_a_reference_is_defined_everywhere_and_places_are_in_order(gene):
    table = gene_table(gene)
    (reference,) = [one for one in table.alleles if one.name == table.reference]
    assert reference.defined == (1 << len(table.loci)) - 1
    places = [locus.position for locus in table.loci]
    assert places == sorted(set(places))
    for locus in table.loci:
        assert locus.run.startswith(locus.choices[0])


@pytest.mark.real_data
@pytest.mark.parametrize("gene", GENES)
def test_the_script_makes_the_shipped_table_again(real_data_root, gene):
    folder = real_data_root / "cpic_pharmcat"
    definition = json.loads((folder / "alleles" / f"{gene}_translation.json").read_text("utf-8"))
    other = folder / "phenotype" / f"{gene}.json"
    phenotype = json.loads(other.read_text("utf-8")) if other.is_file() else None
    shipped = json.loads((_TABLES / f"{gene}.json").read_text("utf-8"))
    assert compact(definition, phenotype) == shipped


@pytest.mark.real_data
def test_all_public_diplotypes_have_their_phenotype_and_activity(real_data_root):
    path = real_data_root / "cpic_pharmcat" / "diplotype_phenotype.tsv"
    known = 0
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            table = gene_table(row["gene"])
            names = tuple(name for name in _pair(row["diplotype"], table))
            phenotype, activity = _outcome(table, Match(names, 0))
            written = row["activity_score"]
            assert phenotype == row["phenotype"], row
            assert activity == (float(written) if written not in ("", "n/a") else None), row
            known += 1
    assert known == 10_066


def _pair(diplotype, table):
    """Separate the two names; some of them hold a slash of their own."""
    return next(
        (diplotype[:i], diplotype[i + 1 :])
        for i, letter in enumerate(diplotype)
        if letter == "/"
        and diplotype[:i] in table.functions
        and diplotype[i + 1 :] in table.functions
    )
