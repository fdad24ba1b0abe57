"""Ids of patients and sites: the hospital decides which spellings are one id.

Two patients taken for one share one promise of privacy; one patient taken for two gets half of it.
Therefore ids that differ only in case, width, Unicode form, zeros in front or ".0" behind are
refused, until the mapping has `similar_ids = "same"` or `"different"`.
"""

import re
import unicodedata
from collections.abc import Collection, Hashable, Sequence

from fedrx_client.data.mapping import TableOptions
from fedrx_client.data.table import Table, rows_by_key
from fedrx_common.errors import DataError

_FLOAT = re.compile(r"(\d+)\.0+")
_ZEROS = re.compile(r"\A0+(?=\w)")
_CURE = 'set table.similar_ids of the mapping to "same" or "different"'


def normal_id(text: str) -> str:
    """Return the form in which ids that people and programs write differently are equal."""
    if text.isascii():
        folded = text.lower().strip()
    else:
        folded = unicodedata.normalize("NFKC", text).casefold()
        folded = unicodedata.normalize("NFKC", folded).strip()
    number = _FLOAT.fullmatch(folded)
    return _ZEROS.sub("", number[1] if number else folded)


def ids_in(table: Table, column: str, options: TableOptions) -> tuple[str, ...]:
    """Return a column's ids, row by row; in their normal form where similar ones are the same."""
    ids = table.columns[column]
    return tuple(map(normal_id, ids) if options.similar_ids == "same" else ids)


def refuse_similar(
    table: Table,
    column: str,
    options: TableOptions,
    groups: Sequence[Hashable] | None = None,
    what: str = "patient",
) -> None:
    """Refuse two spellings of what may be one id, unless the mapping decides.

    Args:
        table: the table.
        column: its column of ids.
        options: what the mapping decides.
        groups: row by row, where an id belongs: ids of two sites are never alike.
        what: what the ids are of.

    Raises:
        DataError: naming both rows.
    """
    if options.similar_ids is not None:
        return
    ids, first = list(table.columns[column]), dict[tuple[Hashable, str], int]()
    for row, one in enumerate(ids):
        group = None if groups is None else groups[row]
        other = first.setdefault((group, normal_id(one)), row)
        if ids[other] != one:
            raise DataError(
                f"{table.where(row, column)}: {what} {one!r} may be {ids[other]!r} of {table.unit} "
                f"{table.places[other]}, written differently; correct it, or {_CURE}."
            )


def rows_beside(
    other: Table, column: str, options: TableOptions, main: Table, ids: Collection[str]
) -> dict[str, int]:
    """Find the row of each patient in a file beside the main table.

    Args:
        other: that file.
        column: its column of ids.
        options: what the mapping decides on similar ids.
        main: the main table.
        ids: ids of all its patients, as `ids_in` gives them.

    Raises:
        DataError: a patient has two rows, or an id is that of a patient, written differently.
    """
    rows = rows_by_key(other, column, ids_in(other, column, options))
    if options.similar_ids is None:
        known = set(ids)
        spelled = {normal_id(one): one for one in known}
        for one, row in rows.items():
            alike = spelled.get(normal_id(one))
            if alike is not None and one not in known:
                raise DataError(
                    f"{other.where(row, column)}: patient {one!r} may be {alike!r} of "
                    f"{main.source}, written differently; correct it, or {_CURE}."
                )
    return rows
