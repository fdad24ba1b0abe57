"""Which site each row of a table belongs to: one for all, a column's, or dealt out.

A live site has one. The others are for a simulation, which owns the patients of all its sites.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from fedrx_client.data.cells import Reading
from fedrx_client.data.ids import ids_in, normal_id, refuse_similar
from fedrx_client.data.mapping import TableMapping, TableOptions
from fedrx_client.data.table import Table
from fedrx_common.errors import DataError, counted

NO_TARGET = "no target recorded"


@dataclass(frozen=True)
class Kept:
    """Which rows of a table take part.

    Attributes:
        rows: those that do.
        reasons: row by row, why it does not; `None` for one that does.
        dropped: by reason, rows that do not.
    """

    rows: list[int]
    reasons: list[str | None]
    dropped: dict[str, int]


def kept_rows(reading: Reading, mapping: TableMapping, has_outcome: Sequence[bool]) -> Kept:
    """Find the rows to keep, and why the others are dropped.

    Args:
        reading: the whole table.
        mapping: its filters.
        has_outcome: whether a row has an outcome; without one, nothing can be learned from it.

    Raises:
        DataError: no row is left.
    """
    names = [*(one.reason for one in mapping.filters), NO_TARGET]
    reasons: list[str | None] = [None if here else NO_TARGET for here in has_outcome]
    # The first reason that applies counts, so the last filter is looked at first.
    for one in reversed(mapping.filters):
        cells = reading.distinct(one.column, one.missing)
        if one.present:
            passes = cells.recorded
        else:
            keep = reading.keys(one.keep)
            passes = np.array([reading.key(text) in keep for text in cells.texts], dtype=np.bool_)
        for row in np.flatnonzero(~passes[cells.codes]).tolist():
            reasons[row] = one.reason
    counts = Counter(reasons)
    dropped = {name: counts[name] for name in names}
    kept = [row for row, reason in enumerate(reasons) if reason is None]
    if not kept:
        told = ", ".join(f"{reason} {count}" for reason, count in dropped.items() if count)
        raise DataError(f"{reading.table.source}: no row is left; dropped: {told}.")
    return Kept(kept, reasons, dropped)


SitesOf = Callable[[Table], list[str]]
"""From the rows that are kept to the site of each."""

_PART = "part-"


def the_one(site: str) -> SitesOf:
    """Give all rows to one site."""
    return lambda table: [site] * len(table)


def column_partition(column: str, mapping: TableMapping) -> SitesOf:
    """Read the site from a column; raises `DataError` for a row without one."""

    def sites_of(table: Table) -> list[str]:
        reading = Reading(table, mapping.table)
        for row, site in enumerate(reading.cells(column)):
            if site is None:
                why = reading.absence(row, column)
                raise DataError(f"{table.where(row, column)}: the row belongs to no site{why}.")
        refuse_similar(table, column, mapping.table, what="site")
        # Of several spellings of one site, the first in the alphabet names it.
        names: dict[str, str] = {}
        for site in sorted(set(table.columns[column])):
            names.setdefault(_site_key(site, mapping.table), site)
        return [names[_site_key(site, mapping.table)] for site in table.columns[column]]

    return sites_of


def left_out(
    reading: Reading, column: str, reasons: Sequence[str | None], there: Collection[str]
) -> tuple[str, ...]:
    """Write a sentence on each site of a table of which no patient is kept.

    Args:
        reading: the whole table.
        column: its column of sites.
        reasons: row by row, why it is dropped; `None` where no filter did.
        there: the sites that have patients.
    """
    known = {_site_key(site, reading.options) for site in there}
    lost: dict[str, Counter[str]] = {}
    for site, reason in zip(reading.cells(column), reasons, strict=True):
        if site is not None and _site_key(site, reading.options) not in known:
            lost.setdefault(site, Counter())[reason or "nothing to forecast"] += 1
    return tuple(
        f"Site '{site}' is left out: none of its {counted(counts.total(), 'row')} is kept "
        f"({', '.join(f'{reason} {count:,}' for reason, count in counts.items())})."
        for site, counts in sorted(lost.items(), key=lambda item: natural(item[0]))
    )


def _site_key(site: str, options: TableOptions) -> str:
    return normal_id(site) if options.similar_ids == "same" else site


def iid_partition(sites: int, mapping: TableMapping) -> SitesOf:
    """Deal the patients of a table without sites out to `part-1`, `part-2`, ... in turns.

    The order is that of a hash of their ids: the same in every run, whatever the order of the
    rows, and parts differ by one patient at most. Raises `DataError` for fewer patients than sites.
    """

    def sites_of(table: Table) -> list[str]:
        refuse_similar(table, mapping.table.patient, mapping.table)
        column = ids_in(table, mapping.table.patient, mapping.table)
        order = sorted(set(column), key=lambda patient: hashlib.sha256(patient.encode()).digest())
        if len(order) < sites:
            raise DataError(
                f"{table.source}: has {counted(len(order), 'patient')}, too few for {sites} sites: "
                "ask for fewer."
            )
        width = len(str(sites))  # so that names sort as numbers do
        site = {one: f"{_PART}{1 + i % sites:0{width}}" for i, one in enumerate(order)}
        return [site[patient] for patient in column]

    return sites_of


def natural(site: str) -> tuple[int, int, str]:
    """Return a sort key that puts "2" before "10", and numbers before names."""
    return (0, int(site), site) if site.isascii() and site.isdigit() else (1, 0, site)
