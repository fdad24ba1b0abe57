"""The one way in: a source and a mapping give a table, whatever the format."""

from collections.abc import Collection

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.omop import read_omop
from fedrx_client.data.readers.omop_folder import FolderTables
from fedrx_client.data.readers.pivot import pivot
from fedrx_client.data.readers.source import Source
from fedrx_client.data.readers.sql import read_database, read_query
from fedrx_client.data.table import Table, read_table
from fedrx_common.errors import DataError


def read_source(source: Source, mapping: TableMapping, wanted: Collection[str]) -> Table:
    """Read the columns that a mapping names.

    Args:
        source: where the patients are.
        mapping: how they are written, and which columns it makes.
        wanted: columns that the mapping names, of the source or made.

    Raises:
        DataError: naming source, record and field, if anything in it cannot be used.
    """
    if source.kind == "table" and source.path is not None:
        return read_table(source.path, mapping.table, wanted)
    if source.kind == "omop" and source.path is not None:
        return pivot(read_omop(FolderTables(source.path), mapping, wanted), mapping, wanted)
    if source.kind == "sql" and mapping.sql is not None and mapping.sql.query is not None:
        return read_query(source, mapping, wanted)
    if source.kind == "sql":
        return pivot(read_database(source, mapping, wanted), mapping, wanted)
    raise DataError(f"{source.name}: cannot be read yet.")
