"""VCFs of patients become calls of named alleles, and calls become a table.

Every file is read once, and of each sample only its choices at the wanted positions are kept. What
is wrong with a file is one sentence that names the file and the line; then there is no call at all.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from fedrx_client.data.column_sources import GenotypeColumn
from fedrx_client.data.harmonise.alleles.caller import Call, call_gene
from fedrx_client.data.harmonise.alleles.sites import Meaning, Observation, Sites, merged
from fedrx_client.data.harmonise.alleles.tables import GENES, GeneTable, Locus, gene_table
from fedrx_client.data.readers.vcf import VcfFile, VcfRecord, build_named
from fedrx_client.data.table import Table
from fedrx_common.errors import DataError, counted
from fedrx_common.files import write_private

BUILD = "GRCh38"

# What a filter may say of a site at which the caller found no variant (DeepVariant).
_NO_VARIANT = "RefCall"
_GENOTYPE = re.compile(rb"[/|]?(?:\.|\d{1,4})(?:[/|](?:\.|\d{1,4}))*")
_SEPARATOR = re.compile(rb"[/|]")
# An rs number that is this far from its place in GRCh38 is of another build.
_FAR = 1000

_CONFLICT = Observation(("records that contradict each other",) * 2)


def call_genotypes(
    paths: Iterable[Path | str], build: str | None = None, genes: Sequence[str] = GENES
) -> dict[str, dict[str, Call]]:
    """Call the named alleles of every sample of some VCFs.

    Args:
        paths: VCF files, plain, gzip or bgzip, of one or many samples.
        build: genome build of the files; None takes what their headers say, or GRCh38.
        genes: which genes.

    Returns:
        By sample, by gene, its call.

    Raises:
        DataError: a file is damaged or of another build, or two files have a sample of one name.
    """
    tables = [gene_table(gene) for gene in genes]
    sites = _sites(tuple(genes))
    calls: dict[str, dict[str, Call]] = {}
    files: dict[str, str] = {}
    memory: dict[tuple[str, tuple[Observation | None, ...]], Call] = {}
    for path in paths:
        file = VcfFile(path)
        for sample in file.header.samples:
            if sample in files:
                raise DataError(
                    f"{file.name}: sample {sample!r} is also in {files[sample]}: rename one, or "
                    "join the parts of one sample with `bcftools concat`."
                )
            files[sample] = file.name
        seen = observe(file, sites, build)
        for sample, row in zip(file.header.samples, seen, strict=True):
            calls[sample] = {}
            start = 0
            for table in tables:
                own = tuple(row[start : start + len(table.loci)])
                start += len(table.loci)
                if (table.gene, own) not in memory:
                    memory[table.gene, own] = call_gene(table, own)
                calls[sample][table.gene] = memory[table.gene, own]
    return calls


@cache
def _sites(genes: tuple[str, ...]) -> Sites:
    return Sites([locus for gene in genes for locus in gene_table(gene).loci])


def observe(
    file: VcfFile, sites: Sites, build: str | None = None
) -> list[list[Observation | None]]:
    """Read what each sample of a file has at each locus; None where the file says nothing.

    Raises:
        DataError: the file is damaged, or of another build.
    """
    _check_build(file, build)
    loci = sites.loci
    width = len(file.header.samples)
    changes: list[list[Observation | None]] = [[None] * width for _ in loci]
    plain: list[list[Observation | None]] = [[None] * width for _ in loci]
    places = {locus.rsid: locus for locus in loci if locus.rsid}
    for record in file.records(sites.positions, places):
        _check_place(file, record, sites, places)
        if "GT" not in record.keys:
            continue
        for number in sites.touched(record.chromosome, record.position, record.end):
            meaning = sites.meaning(number, record.position, record.ref, record.alts, record.end)
            if meaning is not None:
                into = plain if meaning.kind == "reference" else changes
                _note(file, record, meaning, into[number])
    return [
        [change[sample] or block[sample] for change, block in zip(changes, plain, strict=True)]
        for sample in range(width)
    ]


def _note(
    file: VcfFile, record: VcfRecord, meaning: Meaning, into: list[Observation | None]
) -> None:
    """Note what each sample of a record holds at a locus."""
    parsed: dict[bytes, Observation | None] = {}
    alone = record.keys == ("GT",)
    for sample, cell in enumerate(record.cells):
        if cell not in parsed:
            fields = (cell,) if alone else cell.split(b":")
            parsed[cell] = _observation(file, record, meaning, fields)
        found = parsed[cell]
        if found is None:
            continue
        known = into[sample]
        into[sample] = found if known is None else merged(known, found) or _CONFLICT


def _observation(
    file: VcfFile, record: VcfRecord, meaning: Meaning, fields: Sequence[bytes]
) -> Observation | None:
    """Return what one sample holds; None where its cell says nothing about the locus."""
    values = dict(zip(record.keys, fields, strict=False))
    text = values.get("GT", b"")
    indices = _indices(file, record, text)
    carried = [i for i in indices if i]
    failed = record.failed or values.get("FT", b".").decode("latin-1")
    passed = failed in ("", ".", "PASS")
    silent = (
        all(i is None for i in indices)
        # Who does not carry an indel that begins elsewhere may still have anything here.
        or (meaning.kind == "beside" and not any(meaning.held[i] for i in carried))
        # A block of reference without reads is no observation.
        or (meaning.kind == "reference" and b"0" in (values.get("DP"), values.get("MIN_DP")))
        or (not passed and not carried and failed != _NO_VARIANT)
    )
    if silent:
        return None
    if carried and not passed:
        return Observation((f"a variant that failed the filter {failed!r}",) * len(indices))
    held = tuple(None if i is None else meaning.held[i] for i in indices)
    phased = b"|" in text
    block = values.get("PS", b".").decode("latin-1") if phased else ""
    return Observation(held, phased, "" if block == "." else block)


def _indices(file: VcfFile, record: VcfRecord, text: bytes) -> list[int | None]:
    """Read a genotype as indices of the record's alleles; None where one is not called."""
    if text == b"":
        return [None]
    if not _GENOTYPE.fullmatch(text):
        raise file.error(record.line, f"a genotype (GT) is {text.decode('latin-1')!r}")
    parts = _SEPARATOR.split(text.lstrip(b"/|"))
    indices = [None if one == b"." else int(one) for one in parts]
    if max((i for i in indices if i is not None), default=0) > len(record.alts):
        raise file.error(
            record.line,
            f"a genotype is {text.decode()!r}, but the record lists "
            f"{counted(len(record.alts), 'alternative')}",
        )
    return indices


def _check_build(file: VcfFile, build: str | None) -> None:
    said, build = file.header.build, build and build_named(build)
    if build is not None and said is not None and said != build:
        raise DataError(
            f"{file.name}: its header says {said}, but the build was given as {build}: give the "
            "build that the positions are of."
        )
    found = build or said or BUILD
    if found != BUILD:
        raise DataError(
            f"{file.name}: is of genome build {found}, and the alleles are defined on {BUILD}: "
            "bring it there first, for instance with GATK LiftoverVcf, and normalise it."
        )


def _check_place(
    file: VcfFile, record: VcfRecord, sites: Sites, places: Mapping[str, Locus]
) -> None:
    """Refuse a record that shows that the file is of another build."""
    wrong = sites.wrong_base(record.chromosome, record.position, record.ref)
    if wrong is not None:
        at, base = wrong
        given = record.ref[at - record.position]
        raise file.error(
            record.line,
            f"the reference allele has {given} at chr{record.chromosome}:{at}, where {BUILD} has "
            f"{base}: the file is of another build, or the record is wrong",
        )
    locus = places.get(record.rsid)
    if locus is not None and abs(locus.position - record.position) > _FAR:
        raise file.error(
            record.line,
            f"{record.rsid} is at chr{record.chromosome}:{record.position}, but in {BUILD} at "
            f"{locus.name}: the file is of another build",
        )


def genotype_table(
    paths: Iterable[Path | str],
    columns: Mapping[str, GenotypeColumn] | None = None,
    build: str | None = None,
    patient: str = "sample",
) -> Table:
    """Read VCFs as a table with one row a sample.

    Args:
        paths: the VCFs.
        columns: by name, what each column gives; None gives every gene's diplotype, phenotype and,
            where it has one, activity.
        build: as for `call_genotypes`.
        patient: name of the column of sample names.

    Returns:
        A table with the column of samples first; a cell is empty where there is no call.

    Raises:
        DataError: as `call_genotypes`, or a column asks for a gene or a position that is not known.
    """
    files = [Path(path) for path in paths]
    wanted = standard_columns() if columns is None else columns
    if patient in wanted:
        raise DataError(
            f"the mapping makes a column '{patient}' of genotypes, which is the patients' column: "
            "give it another name."
        )
    unknown = next((c.gene for c in wanted.values() if c.gene and c.gene not in GENES), None)
    if unknown is not None:
        raise DataError(
            f"the mapping asks for the gene {unknown!r}; genes that are called: {', '.join(GENES)}."
        )
    genes = tuple(gene for gene in GENES if any(c.gene == gene for c in wanted.values()))
    calls = call_genotypes(files, build, genes)
    bases = _bases(files, [c.position for c in wanted.values() if c.position], build)
    cells = _cells(calls, wanted, bases, patient)
    return Table(
        source=", ".join(path.name for path in files),
        unit="sample",
        places=tuple(range(1, len(calls) + 1)),
        columns=cells,
        header=tuple(cells),
        typed=frozenset(name for name, c in wanted.items() if c.give == "activity"),
        notes=tuple(_uncalled(calls)),
    )


def _uncalled(calls: Mapping[str, Mapping[str, Call]]) -> Iterator[str]:
    """Say of how many samples a gene is not called."""
    for gene in next(iter(calls.values()), {}):
        left = sum(genes[gene].diplotype is None for genes in calls.values())
        if left:
            yield f"{gene} is not called of {left} of {counted(len(calls), 'sample')}"


def write_calls(path: Path, calls: Mapping[str, Mapping[str, Call]]) -> None:
    """Write calls of all genes as CSV, one row a sample, readable by its owner alone."""
    cells = _cells(calls, standard_columns(), {}, "sample")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(cells)
    writer.writerows(zip(*cells.values(), strict=True))
    write_private(path, text.getvalue().encode())


def standard_columns() -> dict[str, GenotypeColumn]:
    """Name the columns of a table of all genes: CYP2C9, CYP2C9_phenotype, CYP2C9_activity, …."""
    found: dict[str, GenotypeColumn] = {}
    for gene in GENES:
        table = gene_table(gene)
        found[gene] = GenotypeColumn(gene=gene)
        if table.phenotypes:
            found[f"{gene}_phenotype"] = GenotypeColumn(gene=gene, give="phenotype")
        if table.activity:
            found[f"{gene}_activity"] = GenotypeColumn(gene=gene, give="activity")
    return found


def _cells(
    calls: Mapping[str, Mapping[str, Call]],
    columns: Mapping[str, GenotypeColumn],
    bases: Mapping[str, Mapping[str, str]],
    patient: str,
) -> dict[str, tuple[str, ...]]:
    """Write each column's cells, the samples' names first; "" where there is no call."""
    cells: dict[str, tuple[str, ...]] = {patient: tuple(calls)}
    for name, column in columns.items():
        if column.gene is None:
            cells[name] = tuple(bases[column.position or ""][sample] for sample in calls)
        else:
            given = (getattr(calls[sample][column.gene], column.give) for sample in calls)
            cells[name] = tuple("" if one is None else f"{one}" for one in given)
    return cells


def _bases(
    files: Sequence[Path], rsids: Sequence[str], build: str | None
) -> dict[str, dict[str, str]]:
    """Read the two bases of each sample at positions by rs number, on the genome's strand."""
    tables: list[GeneTable] = [gene_table(gene) for gene in GENES]
    known = {locus.rsid: locus for table in tables for locus in table.loci if locus.rsid}
    for rsid in rsids:
        if rsid not in known:
            raise DataError(
                f"the mapping asks for the position {rsid!r}, which defines no allele of the genes "
                f"that are called ({', '.join(GENES)})."
            )
    found: dict[str, dict[str, str]] = {rsid: {} for rsid in rsids}
    loci = [known[rsid] for rsid in rsids]
    for path in files if loci else ():
        file = VcfFile(path)
        for sample, row in zip(file.header.samples, observe(file, Sites(loci), build), strict=True):
            for locus, one in zip(loci, row, strict=True):
                held = () if one is None else one.held
                plain = [locus.choices[x] for x in held if isinstance(x, int) and x >= 0]
                whole = bool(held) and len(plain) == len(held)
                found[locus.rsid][sample] = "/".join(sorted(plain)) if whole else ""
    return found
