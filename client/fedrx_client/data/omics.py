"""Reads omics blocks from their own files, and joins them to the main table by patient id."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.cells import Reading
from fedrx_client.data.columns import NumberRange, read_numbers
from fedrx_client.data.ids import ids_in, rows_beside
from fedrx_client.data.mapping import NumberSource, TableMapping
from fedrx_client.data.readers.source import Source
from fedrx_client.data.readers.tables import read_table
from fedrx_client.data.sources import BlockSource
from fedrx_client.data.table import Table
from fedrx_common.errors import DataError
from fedrx_protocol.study.schema import FeatureSchema

_HINT = "correct it, or name it in the block's `missing`, or for '<5' set its `censored`"


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of some patients.

    Attributes:
        values: by block, `(patients, genes)`; NaN where missing.
        strangers: by file, rows of patients who are not in the main table.
        notes: sentences on values whose reading may not be what was meant.
    """

    values: dict[str, NDArray[np.float64]]
    strangers: dict[str, int]
    notes: tuple[str, ...] = ()


def read_blocks(
    patients: list[str], main: Table, mapping: TableMapping, schema: FeatureSchema, place: Source
) -> Blocks:
    """Read all blocks of the study.

    Args:
        patients: ids of those who were kept, in the order of the main table, all different.
        main: the main table, with those who were not kept.
        mapping: which file and columns.
        schema: the study's blocks.
        place: the main table's source, which the files are beside.

    Raises:
        DataError: naming file, line and column, if anything cannot be used; if an id is twice
            in a file; or if a file has rows, and none of them is of a patient of the main table.
    """
    values, strangers, notes = {}, {}, list[str]()
    ids = ids_in(main, mapping.table.patient, mapping.table)
    for block in schema.blocks:
        found = np.full((len(patients), len(block.genes)), np.nan)
        values[block.name] = found
        source = mapping.blocks[block.name]
        if not isinstance(source, BlockSource):
            continue
        columns = source.gene_columns(block)
        table = read_table(
            place.beside(source.file), mapping.table, {source.patient, *columns}, may_be_empty=True
        )
        table.require((source.patient, *columns))
        rows = rows_beside(table, source.patient, mapping.table, main, ids)
        strange = len(rows.keys() - set(ids))
        if rows and strange == len(rows):
            raise DataError(
                f"{table.source}: not one of its {len(rows):,} patients is in {main.source}: check "
                f"column '{source.patient}', or say measured = false where the site has no such "
                "block."
            )
        strangers[table.source] = strange
        here = [i for i, patient in enumerate(patients) if patient in rows]
        reading = Reading(table.select([rows[patients[i]] for i in here]), mapping.table)
        places = np.array(here, dtype=np.int64)
        limits = NumberRange.of(source.unit, block.unit, block.minimum, block.maximum)
        one_note: tuple[str, ...] = ()
        for j, column in enumerate(columns):
            number = NumberSource(
                kind="number",
                column=column,
                unit=source.unit,
                missing=source.missing,
                censored=source.censored,
            )
            parsed = read_numbers(reading, number, limits, _HINT)
            found[places, j] = parsed.values
            # The same code in thousands of genes needs one sentence.
            one_note = one_note or parsed.notes
        notes += one_note
    return Blocks(values, strangers, tuple(notes))
