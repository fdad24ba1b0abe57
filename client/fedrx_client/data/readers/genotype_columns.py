"""Makes the columns that `[columns.NAME]` takes from called genotypes, patient by patient."""

from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path

from fedrx_client.data.column_sources import GenotypeColumn, GenotypesSource
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.genotypes import genotype_table
from fedrx_client.data.readers.source import Source
from fedrx_client.data.readers.tables import read_table
from fedrx_client.data.table import Table, rows_by_key
from fedrx_common.errors import DataError


def read_vcf(source: Source, mapping: TableMapping, wanted: Container[str]) -> Table:
    """Read a VCF that is the source itself: one row a sample, whose name is the patient's id.

    Raises:
        DataError: the file is damaged, of another build, or a sample has no patient.
    """
    return _by_patient(Path(source.location), source, mapping, _made(mapping, wanted))


def with_genotypes(
    table: Table, source: Source, mapping: TableMapping, wanted: Container[str]
) -> Table:
    """Add the wanted columns of genotypes from the VCF that `[genotypes]` names.

    A patient without a sample has empty cells.

    Raises:
        DataError: the VCF is damaged, is not named, or has no patient of the table; or a column of
            the name is there already.
    """
    made = _made(mapping, wanted)
    if not made or source.kind == "vcf":
        return table
    file = mapping.genotypes and mapping.genotypes.file
    if not file:
        raise DataError(
            f"{mapping.source}: [columns.{next(iter(made))}] takes a genotype, but no VCF is "
            "named; name it in `file` of [genotypes]."
        )
    for name in made:
        if name in table.columns or name in table.header:
            raise DataError(
                f"{table.source}: column '{name}' is there, but [columns.{name}] of the mapping "
                "makes one of that name; give the made column another name."
            )
    calls = _by_patient(source.beside(file), source, mapping, made)
    key = mapping.table.patient
    table.require((key,))
    rows = {patient: row for row, patient in enumerate(calls.columns[key])}
    patients = tuple(table.columns[key])
    if rows.keys().isdisjoint(patients):
        raise DataError(
            f"{calls.source}: no sample has the name of a patient in column '{key}' of "
            f"{table.source}; say whose samples they are in `samples` of [genotypes]."
        )
    columns: dict[str, list[str]] = {}
    for name in made:
        cells = tuple(calls.columns[name])
        columns[name] = [cells[rows[one]] if one in rows else "" for one in patients]
    origin = tuple(
        f"sample {rows[one] + 1} of {calls.source}" if one in rows else "a patient without sample"
        for one in patients
    )
    return replace(
        table,
        columns={**table.columns, **columns},
        typed=table.typed | calls.typed,
        origins={**table.origins, **dict.fromkeys(columns, origin)},
        notes=(*table.notes, *calls.notes),
    )


def _made(mapping: TableMapping, wanted: Container[str]) -> dict[str, GenotypeColumn]:
    return {
        name: one
        for name, one in mapping.columns.items()
        if isinstance(one, GenotypeColumn) and name in wanted
    }


def _by_patient(
    path: Path, source: Source, mapping: TableMapping, made: Mapping[str, GenotypeColumn]
) -> Table:
    """Call a VCF, and name each sample by its patient's id."""
    options, key = mapping.genotypes or GenotypesSource(), mapping.table.patient
    found = genotype_table([path], made, options.build, key)
    if options.samples is None:
        return found
    whose = read_table(source.beside(options.samples), mapping.table, {"sample", "patient"})
    whose.require(("sample", "patient"))
    rows = rows_by_key(whose, "sample", tuple(whose.columns["sample"]), "sample")
    rows_by_key(whose, "patient", tuple(whose.columns["patient"]))
    for sample in found.columns[key]:
        if sample not in rows:
            raise DataError(
                f"{whose.source}: sample {sample!r} of {path.name} has no row; add whose it is."
            )
    ids = tuple(whose.columns["patient"])
    patients = [ids[rows[sample]] for sample in found.columns[key]]
    return replace(found, columns={**found.columns, key: patients})
