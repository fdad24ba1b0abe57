"""Which site each row of a table belongs to: one for all, what a column says, or dealt out.

A live site has one. The others are for a simulation, which owns the patients of all its sites.
"""

import hashlib
from collections.abc import Callable

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.table import Table
from fedrx_protocol.errors import DataError, counted

SitesOf = Callable[[Table], list[str]]
"""From the rows that are kept to the site of each."""

_PART = "part-"


def the_one(site: str) -> SitesOf:
    """All rows belong to one site."""
    return lambda table: [site] * len(table)


def in_column(column: str, mapping: TableMapping) -> SitesOf:
    """A column names the site; raises `DataError` for a row without one."""

    def sites_of(table: Table) -> list[str]:
        sites = list(table.columns[column])
        for row, site in enumerate(sites):
            if site in mapping.table.not_recorded:
                raise DataError(f"{table.where(row, column)}: the row belongs to no site.")
        return sites

    return sites_of


def dealt(sites: int, mapping: TableMapping) -> SitesOf:
    """Patients of a table without sites are dealt out to `part-1`, `part-2`, ... in turns.

    The order is that of a hash of their ids: the same in every run, whatever the order of the
    rows, and parts differ by one patient at most. Raises `DataError` for fewer patients than sites.
    """

    def sites_of(table: Table) -> list[str]:
        column = table.columns[mapping.table.patient]
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
    """Sort key that puts "2" before "10", and numbers before names."""
    return (0, int(site), site) if site.isascii() and site.isdigit() else (1, 0, site)
