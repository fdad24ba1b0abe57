"""Omics blocks from files of their own, joined to the main table by patient id."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.columns import number_parser
from fedrx_client.data.mapping import TableMapping, TableOptions
from fedrx_client.data.sources import BlockSource
from fedrx_client.data.table import Table, read_table, rows_by_patient
from fedrx_protocol.errors import DataError
from fedrx_protocol.schema import Block, FeatureSchema


def read_blocks(
    patients: list[str], mapping: TableMapping, schema: FeatureSchema, folder: Path
) -> dict[str, NDArray[np.float64]]:
    """All blocks of the study, by name, `(patients, genes)`; NaN where missing.

    Args:
        patients: ids in the order of the main table.
        mapping: which file and columns.
        schema: the study's blocks.
        folder: where the main table lies; the files lie beside it.

    Raises:
        DataError: naming file, line and column, if anything cannot be used; or if an id stands
            twice, in a file or in the main table, where it could belong to either.
    """
    if schema.blocks and len(set(patients)) != len(patients):
        raise DataError(
            f"{mapping.source}: patients of two sites have the same id, so that a block's row "
            "could belong to either; make ids unique over all sites."
        )
    return {
        block.name: _read_block(patients, mapping.blocks[block.name], block, mapping.table, folder)
        for block in schema.blocks
    }


def _read_block(
    patients: list[str], source: BlockSource, block: Block, options: TableOptions, folder: Path
) -> NDArray[np.float64]:
    table = read_table(folder / source.file, options, may_be_empty=True)
    columns = source.gene_columns(block)
    table.require((source.patient, *columns))
    rows = rows_by_patient(table, source.patient)
    places = [(i, rows[patient]) for i, patient in enumerate(patients) if patient in rows]
    values = np.full((len(patients), len(block.genes)), np.nan)
    here, there = [i for i, _ in places], [row for _, row in places]
    chosen = table.select(there)
    for j, column in enumerate(columns):
        values[here, j] = _column(chosen, column, block, options)
    return values


def _column(table: Table, column: str, block: Block, options: TableOptions) -> list[float]:
    """One gene's values, checked against the block's range; NaN where not recorded."""
    parse, missing = number_parser(options.decimal), options.not_recorded
    values = []
    for row, cell in enumerate(table.columns[column]):
        value = float("nan") if cell in missing else parse(cell)
        if value is None or value < block.minimum or value > block.maximum:
            raise DataError(
                f"{table.where(row, column)}: {cell!r} is no number of the study's range, "
                f"{block.minimum:g} to {block.maximum:g} {block.unit}; correct it, or name it "
                "among the mapping's missing codes."
            )
        values.append(value)
    return values
