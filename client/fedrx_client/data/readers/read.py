"""The one way in: a source and a mapping give a table, whatever the format."""

from collections.abc import Collection

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.source import Source
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
    raise DataError(f"{source.name}: cannot be read yet.")
