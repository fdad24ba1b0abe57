"""Reads a database: OMOP's tables one by one, or the table that one read-only query gives."""

import re
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Integer, Select, String, bindparam, column, inspect, or_, select, table
from sqlalchemy import literal_column as literal
from sqlalchemy.sql.expression import ColumnElement, TableClause

from fedrx_client.data.column_sources import QuerySource
from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.readers.concepts import VOCABULARY
from fedrx_client.data.readers.database import OpenDatabase, open_database
from fedrx_client.data.readers.omop import read_omop
from fedrx_client.data.readers.records import Records
from fedrx_client.data.readers.source import Source
from fedrx_client.data.table import Table, as_text
from fedrx_common.errors import DataError
from fedrx_protocol.study.base import first_repeated

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
      | (?P<quoted>[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*`
        | \$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$)
      | (?P<open>['"`]|/\*)
      | (?P<end>;)
      | (?P<word>[^\W\d]\w*)
      | (?P<other>\d\w*|.)""",
    re.VERBOSE | re.DOTALL,
)
_WRITING = frozenset({"insert", "update", "delete", "merge", "into", "truncate", "drop", "alter"})


def read_database(source: Source, mapping: TableMapping, wanted: Container[str]) -> Records:
    """Read OMOP's tables of a database.

    Args:
        source: the database.
        mapping: with the codes of each column.
        wanted: names of the columns that are used.

    Raises:
        DataError: naming the database, and table and row where it is one of them.
    """
    options = mapping.sql or QuerySource()
    with open_database(source, options.timeout_s) as database:
        return read_omop(DatabaseTables(database, options), mapping, wanted)


def read_query(source: Source, mapping: TableMapping, wanted: Container[str]) -> Table:
    """Read the table that the mapping's query gives; typed values become text, as of Parquet.

    Args:
        source: the database.
        mapping: with the query in `[sql]`.
        wanted: columns to keep.

    Raises:
        DataError: the query is not one that only reads, fails, or gives no rows.
    """
    options = mapping.sql or QuerySource()
    query = only_reading(options.query or "", mapping.source)
    with open_database(source, options.timeout_s) as database:
        header, rows = database.stream(query)
        doubled = first_repeated(header)
        if doubled is not None:
            raise DataError(f"{source.name}: the query gives column '{doubled}' more than once.")
        kept = [i for i, name in enumerate(header) if name in wanted]
        cells: list[list[str]] = [[] for _ in kept]
        numeric, count = [True] * len(kept), 0
        for row in rows:
            count += 1
            for at, i in enumerate(kept):
                value = row[i]
                if isinstance(value, bytes | memoryview | list | dict):
                    raise DataError(
                        f"{source.name}, row {count}, column '{header[i]}': is not one value but "
                        f"{type(value).__name__}; turn it into text in the query."
                    )
                cells[at].append(as_text(value))
                numeric[at] &= value is None or (_is_number(value))
    if not count:
        raise DataError(f"{source.name}: the query gives no rows.")
    return Table(
        source=source.name,
        unit="row",
        places=tuple(range(1, count + 1)),
        columns={header[i]: tuple(one) for i, one in zip(kept, cells, strict=True)},
        header=header,
        typed=frozenset(header[i] for i, yes in zip(kept, numeric, strict=True) if yes),
    )


def only_reading(query: str, source: str) -> str:
    """Return the query without what follows its end, once it is sure to be one that reads.

    The database refuses to write in any case; this says so before it is asked.

    Args:
        query: as the mapping has it.
        source: the mapping's name, for errors.

    Raises:
        DataError: it is several statements, or anything but SELECT or WITH.
    """
    words, end = list[str](), len(query)
    for token in _TOKEN.finditer(query):
        kind = token.lastgroup if token.lastgroup != "tag" else "quoted"
        if kind == "open":
            raise DataError(f"{source}: 'sql.query' has a quote or comment that is not closed.")
        blank = kind == "comment" or token[0].isspace()
        if end < len(query) and not blank and kind != "end":
            raise DataError(f"{source}: 'sql.query' has several statements; give one SELECT.")
        if kind == "end":
            end = min(end, token.start())
        elif kind == "word":
            words.append(token[0].lower())
        elif not blank and not words and token[0] != "(":
            break
    if not words or words[0] not in ("select", "with"):
        raise DataError(f"{source}: 'sql.query' must begin with SELECT or WITH; it may only read.")
    writing = [word for word in words if word in _WRITING]
    if writing:
        raise DataError(
            f"{source}: 'sql.query' has the word {writing[0].upper()}; it may only read (put the "
            "word in double quotes if it is a column's name)."
        )
    return query[:end]


class DatabaseTables:
    """OMOP's tables in a database, as `read_omop` reads them.

    Args:
        database: in a read-only transaction.
        options: the schemas that hold the tables.
    """

    def __init__(self, database: OpenDatabase, options: QuerySource) -> None:
        self.name = database.name
        self._database = database
        self._schemas = {True: options.vocabulary or options.tables, False: options.tables}
        self._listed: dict[str | None, dict[str, str]] = {}
        self._columns: dict[str, dict[str, str]] = {}

    def columns(self, name: str) -> Collection[str]:
        """Return a table's columns in small letters; none where there is no such table."""
        if name not in self._columns:
            found = self._find(name)
            # Asks for no row: a database's own catalogue differs from one to the next.
            names: tuple[str, ...] = ()
            if found is not None:
                nothing: Select[Any] = select(literal("*")).select_from(found).limit(0)
                names, rows = self._database.stream(nothing)
                list(rows)
            self._columns[name] = {one.lower(): one for one in names}
        return self._columns[name].keys()

    def rows(
        self,
        name: str,
        columns: Sequence[str],
        where: Mapping[str, Collection[int] | Collection[str]],
    ) -> Iterator[tuple[str, ...]]:
        """Give rows as text; with `where`, those with one of its values in any of its columns."""
        there, found = {one: self._columns[name].get(one) for one in columns}, self._find(name)
        if found is None:
            return
        real_ones: list[ColumnElement[Any]] = [column(real) for real in there.values() if real]
        chosen: Select[Any] = select(*real_ones).select_from(found)
        conditions = []
        for one, values in where.items():
            numbers = all(isinstance(value, int) for value in values)
            # Numbers are written into the statement: databases bind only some ten thousand.
            listed = bindparam(
                None,
                sorted(values),
                Integer() if numbers else String(),
                expanding=True,
                literal_execute=numbers,
            )
            conditions.append(column(self._columns[name][one]).in_(listed))
        if conditions:
            chosen = chosen.where(or_(*conditions))
        # Where a column is not there, its cells are empty.
        order = [i if real else None for i, real in _numbered(there)]
        for row in self._database.stream(chosen)[1]:
            yield tuple("" if i is None else as_text(row[i]) for i in order)

    def _find(self, name: str) -> TableClause | None:
        schema = self._schemas[name in VOCABULARY]
        if schema not in self._listed:
            catalogue = inspect(self._database.connection)
            names = catalogue.get_table_names(schema) + catalogue.get_view_names(schema)
            if self._database.connection.dialect.name == "postgresql":
                names += catalogue.get_materialized_view_names(schema)
            self._listed[schema] = {one.lower(): one for one in names}
        real = self._listed[schema].get(name)
        return None if real is None else table(real, schema=schema)


def _numbered(there: Mapping[str, str | None]) -> Iterator[tuple[int, str | None]]:
    """Number the columns that are there, as the statement gives them."""
    at = 0
    for real in there.values():
        yield at, real
        at += real is not None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)
