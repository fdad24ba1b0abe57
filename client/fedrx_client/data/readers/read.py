"""The one way in: a source and a mapping give a table, whatever the format."""

from collections.abc import Collection, Container

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.formula_columns import formula_inputs, with_formulas
from fedrx_client.data.readers.genotype_columns import read_vcf, with_genotypes
from fedrx_client.data.readers.omop import read_omop
from fedrx_client.data.readers.omop_folder import FolderTables
from fedrx_client.data.readers.pivot import pivot
from fedrx_client.data.readers.records import Records
from fedrx_client.data.readers.selection import Selection
from fedrx_client.data.readers.source import Source
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


def table_of_records(records: Records, mapping: TableMapping, wanted: Collection[str]) -> Table:
    """Make the columns that a mapping names of records that are in memory, as at a bedside.

    Raises:
        DataError: naming record and field, if anything in it cannot be used.
    """
    names = {*wanted, mapping.table.patient, *formula_inputs(mapping, wanted)}
    return with_formulas(pivot(records, mapping, names), mapping, wanted)


def _read(source: Source, mapping: TableMapping, columns: Container[str]) -> Table:
    """Read one kind of source; each kind has a line here or in `_records`."""
    if source.kind == "table" and source.path is not None:
        return read_table(source.path, mapping.table, columns)
    if source.kind == "vcf":
        return read_vcf(source, mapping, columns)
    if source.kind == "sql" and mapping.sql is not None and mapping.sql.query is not None:
        from fedrx_client.data.readers.sql import read_query  # noqa: PLC0415 - half a second

        return read_query(source, mapping, columns)
    return pivot(_records(source, mapping, columns), mapping, columns)


def _records(source: Source, mapping: TableMapping, columns: Container[str]) -> Records:
    """Read one kind of source that holds records."""
    if source.kind == "fhir" and source.path is not None:
        from fedrx_client.data.readers.fhir.files import read_fhir  # noqa: PLC0415 - it takes 2 s

        return read_fhir(source.path, Selection.of(mapping, columns).wants)
    if source.kind == "server":
        from fedrx_client.data.readers.fhir import server  # noqa: PLC0415 - as above

        return server.read_server(
            source, Selection.of(mapping, columns), token=server.bearer_token()
        )
    if source.kind == "omop" and source.path is not None:
        return read_omop(FolderTables(source.path), mapping, columns)
    if source.kind == "sql":
        from fedrx_client.data.readers.sql import read_database  # noqa: PLC0415 - as above

        return read_database(source, mapping, columns)
    raise DataError(f"{source.name}: cannot be read yet.")
