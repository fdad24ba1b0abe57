"""Omics blocks from files of their own, joined to the main table by patient id."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.columns import Limits, Reading, read_numbers
from fedrx_client.data.mapping import NumberSource, TableMapping
from fedrx_client.data.table import Table, read_table, rows_by_patient
from fedrx_protocol.errors import DataError
from fedrx_protocol.schema import Block, FeatureSchema

_HINT = "correct it, or name it among the mapping's missing codes"


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of some patients.

    Attributes:
        values: by block, `(patients, genes)`; NaN where missing.
        strangers: by file, rows of patients who are not in the main table.
    """

    values: dict[str, NDArray[np.float64]]
    strangers: dict[str, int]


def read_blocks(
    patients: list[str], main: Table, mapping: TableMapping, schema: FeatureSchema, folder: Path
) -> Blocks:
    """All blocks of the study.

    Args:
        patients: ids of those who were kept, in the order of the main table, all different.
        main: the main table, with those who were not kept.
        mapping: which file and columns.
        schema: the study's blocks.
        folder: where the main table lies; the files lie beside it.

    Raises:
        DataError: naming file, line and column, if anything cannot be used; if an id stands
            twice in a file; or if a file has rows, and none of them is of a patient of the main
            table.
    """
    values, strangers = {}, {}
    for block in schema.blocks:
        source = mapping.blocks[block.name]
        table = read_table(folder / source.file, mapping.table, may_be_empty=True)
        table.require((source.patient, *source.gene_columns(block)))
        rows = rows_by_patient(table, source.patient)
        strangers[table.source] = _strangers(rows, table, source.patient, main, mapping)
        values[block.name] = _values(patients, rows, table, block, mapping)
    return Blocks(values, strangers)


def _strangers(
    rows: Mapping[str, int], table: Table, column: str, main: Table, mapping: TableMapping
) -> int:
    """How many of a file's patients are not in the main table; not all of them may be so."""
    strange = len(rows.keys() - set(main.columns[mapping.table.patient]))
    if rows and strange == len(rows):
        raise DataError(
            f"{table.source}: not one of its {len(rows):,} patients is in {main.source}: check "
            f"column '{column}' (were zeros in front of the ids lost?), or give a file with its "
            "header only, where the site has no such block."
        )
    return strange


def _values(
    patients: list[str],
    rows: Mapping[str, int],
    table: Table,
    block: Block,
    mapping: TableMapping,
) -> NDArray[np.float64]:
    """One block, `(patients, genes)`; NaN where missing."""
    places = [(i, rows[patient]) for i, patient in enumerate(patients) if patient in rows]
    values = np.full((len(patients), len(block.genes)), np.nan)
    here, there = [i for i, _ in places], [row for _, row in places]
    chosen = table.select(there)
    source = mapping.blocks[block.name]
    limits = Limits.of(source.unit, block.unit, block.minimum, block.maximum)
    reading = Reading(chosen, mapping.table)
    for j, column in enumerate(source.gene_columns(block)):
        number = NumberSource(kind="number", column=column, unit=source.unit)
        values[here, j] = read_numbers(reading, number, limits, _HINT).values
    return values
