"""The one way in: a source and a mapping give a table, whatever the format."""

from collections.abc import Callable, Collection, Container, Mapping
from pathlib import Path
from types import MappingProxyType

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.formula_columns import formula_inputs, with_formulas
from fedrx_client.data.readers.genotype_columns import (
    CallGenotypes,
    call_file,
    read_vcf,
    with_genotypes,
)
from fedrx_client.data.readers.omop import read_omop
from fedrx_client.data.readers.omop_folder import FolderTables
from fedrx_client.data.readers.pivot import pivot
from fedrx_client.data.readers.records import Records
from fedrx_client.data.readers.selection import Selection
from fedrx_client.data.readers.source import Source, SourceKind
from fedrx_client.data.readers.tables import read_table
from fedrx_client.data.readers.wide_to_long import WideColumns, as_long
from fedrx_client.data.table import Table, joined
from fedrx_common.errors import DataError


def read_source(source: Source, mapping: TableMapping, wanted: Collection[str]) -> Table:
    """Read the columns that a mapping names, and make those that it makes.

    The order: the source; the columns of the file that `[join]` names; wide columns turned into
    rows; genotypes; formulas, which may use all of these.

    Args:
        source: where the patients are.
        mapping: how they are written, and which columns it makes.
        wanted: columns that the mapping names, of the source or made.

    Raises:
        DataError: naming source, record and field, if anything in it cannot be used.
    """
    names = {*wanted, mapping.table.patient, *formula_inputs(mapping, wanted)}
    if mapping.join is not None:
        names.add(mapping.join.by)
    columns: Container[str] = names if mapping.long is None else WideColumns(mapping.long, names)
    table = _read(source, mapping, columns)
    if mapping.join is not None:
        other = read_table(source.beside(mapping.join.file), mapping.table, columns)
        table = joined(table, other, mapping.join.by)
    if mapping.long is not None:
        table = as_long(table, mapping.long, mapping.table, names)
    table = with_genotypes(table, source, mapping, names)
    return with_formulas(table, mapping, wanted)


def table_of_records(
    records: Records,
    source: Source,
    mapping: TableMapping,
    wanted: Collection[str],
    *,
    call: CallGenotypes = call_file,
) -> Table:
    """Make the columns that a mapping names of records that are in memory, as at a bedside.

    Args:
        records: of one patient or more.
        source: beside which the files are that the mapping names.
        mapping: how columns are made.
        wanted: columns that the mapping names.
        call: how the VCF is called that `[genotypes]` names.

    Raises:
        DataError: naming record and field, if anything in it cannot be used.
    """
    names = {*wanted, mapping.table.patient, *formula_inputs(mapping, wanted)}
    table = with_genotypes(pivot(records, mapping, names), source, mapping, names, call=call)
    return with_formulas(table, mapping, wanted)


def _read(source: Source, mapping: TableMapping, columns: Container[str]) -> Table:
    """Read a source of whatever kind."""
    return _READERS[source.kind](source, mapping, columns)


def _read_table(source: Source, mapping: TableMapping, columns: Container[str]) -> Table:
    return read_table(_path(source), mapping.table, columns)


def _read_fhir(source: Source, mapping: TableMapping, columns: Container[str]) -> Table:
    from fedrx_client.data.readers.fhir.files import read_fhir  # noqa: PLC0415 - it takes 2 s

    selection = Selection.of(mapping, columns)
    return pivot(read_fhir(_path(source), selection.wants), mapping, columns)


def _read_server(source: Source, mapping: TableMapping, columns: Container[str]) -> Table:
    from fedrx_client.data.readers.fhir import server  # noqa: PLC0415 - as above

    selection = Selection.of(mapping, columns)
    return pivot(
        server.read_server(source, selection, token=server.bearer_token()), mapping, columns
    )


def _read_omop(source: Source, mapping: TableMapping, columns: Container[str]) -> Table:
    return pivot(read_omop(FolderTables(_path(source)), mapping, columns), mapping, columns)


def _read_sql(source: Source, mapping: TableMapping, columns: Container[str]) -> Table:
    from fedrx_client.data.readers import sql  # noqa: PLC0415 - it takes half a second

    if mapping.sql is not None and mapping.sql.query is not None:
        return sql.read_query(source, mapping, columns)
    return pivot(sql.read_database(source, mapping, columns), mapping, columns)


def _path(source: Source) -> Path:
    """Return the file or folder of a source that has one."""
    if source.path is None:
        raise DataError(f"{source.name}: is not a file or folder; name one.")
    return source.path


_READERS: Mapping[SourceKind, Callable[[Source, TableMapping, Container[str]], Table]] = (
    MappingProxyType(
        {
            "table": _read_table,
            "fhir": _read_fhir,
            "server": _read_server,
            "vcf": read_vcf,
            "omop": _read_omop,
            "sql": _read_sql,
        }
    )
)
