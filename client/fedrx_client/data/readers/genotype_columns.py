"""Makes the columns that `[columns.NAME]` takes from called genotypes, patient by patient."""

import threading
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fedrx_client.data.column_sources import GenotypeColumn, GenotypesSource
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.genotypes import genotype_table
from fedrx_client.data.readers.source import Source
from fedrx_client.data.readers.tables import read_table
from fedrx_client.data.table import Table, rows_by_key
from fedrx_common.errors import DataError


@dataclass(frozen=True, eq=False)
class CalledGenotypes:
    """The genotypes of a file by patient.

    Attributes:
        table: a row for each patient.
        rows: by patient's id, the row.
    """

    table: Table
    rows: Mapping[str, int]


CallGenotypes = Callable[
    [Path, Source, TableMapping, Mapping[str, GenotypeColumn]], CalledGenotypes
]
"""From a VCF, the source that it is beside, a mapping and its columns, to what is called."""


def call_file(
    path: Path, source: Source, mapping: TableMapping, made: Mapping[str, GenotypeColumn]
) -> CalledGenotypes:
    """Call a VCF, and name each sample by its patient's id."""
    table = _by_patient(path, source, mapping, made)
    key = mapping.table.patient
    return CalledGenotypes(table, {one: row for row, one in enumerate(table.columns[key])})


class RememberedCalls:
    """Calls a VCF once for as long as it and its list of samples stay as they are.

    For a server that answers for one mapping, a patient at a time.
    """

    def __init__(self) -> None:
        self._found: tuple[object, CalledGenotypes] | None = None
        self._lock = threading.Lock()

    def __call__(
        self,
        path: Path,
        source: Source,
        mapping: TableMapping,
        made: Mapping[str, GenotypeColumn],
    ) -> CalledGenotypes:
        """Call a VCF, or remember what it was called."""
        samples = mapping.genotypes and mapping.genotypes.samples
        whose = None if not samples else _state(source.beside(samples))
        key = (path, _state(path), whose, mapping.source, tuple(made))
        with self._lock:
            if self._found is None or self._found[0] != key:
                self._found = key, call_file(path, source, mapping, made)
            return self._found[1]


def _state(path: Path) -> tuple[int, int, int] | None:
    """Tell one state of a file from another; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_vcf(source: Source, mapping: TableMapping, wanted: Container[str]) -> Table:
    """Read a VCF that is the source itself: one row a sample, whose name is the patient's id.

    Raises:
        DataError: the file is damaged, of another build, or a sample has no patient.
    """
    return _by_patient(Path(source.location), source, mapping, _made(mapping, wanted))


def with_genotypes(
    table: Table,
    source: Source,
    mapping: TableMapping,
    wanted: Container[str],
    *,
    call: CallGenotypes = call_file,
) -> Table:
    """Add the wanted columns of genotypes from the VCF that `[genotypes]` names.

    A patient without a sample has empty cells.

    Args:
        table: the patients.
        source: beside which the VCF is.
        mapping: names the VCF and the columns.
        wanted: columns that are wanted.
        call: how the VCF is called.

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
    called = call(source.beside(file), source, mapping, made)
    calls, rows = called.table, called.rows
    key = mapping.table.patient
    table.require((key,))
    patients = tuple(table.columns[key])
    if rows.keys().isdisjoint(patients):
        raise DataError(
            f"{calls.source}: no sample has the name of a patient in column '{key}' of "
            f"{table.source}; say whose samples they are in `samples` of [genotypes]."
        )
    columns: dict[str, list[str]] = {}
    for name in made:
        cells = calls.columns[name]
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
