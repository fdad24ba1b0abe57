"""Reads omics blocks from their own files, and joins them to the main table by patient id."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrx_client.data.cells import Reading
from fedrx_client.data.columns import NumberRange, Parsed, read_numbers
from fedrx_client.data.ids import ids_in, rows_beside
from fedrx_client.data.mapping import NumberSource, TableMapping
from fedrx_client.data.readers.source import Source
from fedrx_client.data.readers.tables import read_table
from fedrx_client.data.sources import BlockSource
from fedrx_client.data.table import Table, Texts
from fedrx_common.errors import DataError
from fedrx_protocol.study.schema import FeatureSchema

_HINT = "correct it, or name it in the block's `missing`, or for '<5' set its `censored`"
_CELLS_AT_ONCE = 1 << 18


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
        chosen = [rows[patients[i]] for i in here]
        places = np.array(here, dtype=np.int64)
        limits = NumberRange.of(source.unit, block.unit, block.minimum, block.maximum)
        one_note: tuple[str, ...] = ()
        at_once = max(1, _CELLS_AT_ONCE // max(1, len(here)))
        for first in range(0, len(columns), at_once):
            names = columns[first : first + at_once]
            part = replace(table, columns={name: table.columns[name] for name in names})
            group = _read_group(Reading(part.select(chosen), mapping.table), source, names, limits)
            found[places, first : first + len(names)] = group.values.T
            # The same code in thousands of genes needs one sentence.
            one_note = one_note or group.notes
        notes += one_note
    return Blocks(values, strangers, tuple(notes))


def _read_group(
    reading: Reading, source: BlockSource, columns: Sequence[str], limits: NumberRange
) -> Parsed:
    """Read columns of one unit, `(columns, rows)`: as one long column, where nothing is to be said.

    What each call costs is paid once for many columns of few rows.

    Raises:
        DataError: naming the column, if a value cannot be used.
    """
    number = NumberSource(
        kind="number",
        column=columns[0],
        unit=source.unit,
        missing=source.missing,
        censored=source.censored,
    )
    table = reading.table
    long = pa.concat_arrays([table.texts(column).arrow for column in columns])
    whole = replace(
        table,
        places=table.places * len(columns),
        columns={columns[0]: Texts(long)},
    )
    if len(set(map(reading.written, columns))) == 1:
        try:
            parsed = read_numbers(Reading(whole, reading.options), number, limits, _HINT)
        except DataError:
            pass  # below, with the name of its column
        else:
            if not parsed.notes:
                return Parsed(parsed.values.reshape(len(columns), -1))
    one_by_one = [
        read_numbers(reading, number.model_copy(update={"column": column}), limits, _HINT)
        for column in columns
    ]
    values = np.stack([one.values for one in one_by_one])
    return Parsed(values, notes=next((one.notes for one in one_by_one if one.notes), ()))
