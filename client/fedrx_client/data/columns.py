"""One column of text to one typed array: numbers, categories, flags, and rules for the missing."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.mapping import (
    CategorySource,
    FlagSource,
    Imputation,
    NumberSource,
    TableOptions,
)
from fedrx_client.data.sources import Unknown
from fedrx_client.data.table import Table
from fedrx_client.data.units import Conversion, conversion
from fedrx_protocol.errors import DataError

_HINT = 'correct it, or set unknown = "missing" for it in the mapping'
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DECADE_BIN = re.compile(r"(\d{1,3})\s*[-–]\s*(\d{1,3})|(\d{1,3})\s*\+")


@dataclass(frozen=True, eq=False)
class Parsed:
    """A typed column, and how many values were not understood and count as missing."""

    values: NDArray[Any]
    unknown: int = 0


@dataclass(frozen=True)
class Reading:
    """What a column is read with: the table and its codes for 'not recorded'."""

    table: Table
    options: TableOptions

    def cells(self, column: str) -> list[str | None]:
        """The column's text, `None` where nothing was recorded."""
        missing = self.options.not_recorded
        return [None if cell in missing else cell for cell in self.table.columns[column]]


@dataclass(frozen=True)
class Limits:
    """Unit and range of a number, as the study allows it."""

    unit: str
    minimum: float
    maximum: float
    convert: Conversion

    @classmethod
    def of(cls, unit: str, to: str, minimum: float, maximum: float) -> "Limits":
        """The limits, in the study's unit `to`, of a column in `unit`.

        Raises:
            DataError: the units do not fit.
        """
        convert = conversion(unit, to)
        if convert is None:
            raise DataError(f"'{unit}' cannot be converted to '{to}'.")
        return cls(to, minimum, maximum, convert)


def read_numbers(
    reading: Reading, source: NumberSource, limits: Limits, hint: str = _HINT
) -> Parsed:
    """Numbers in the study's unit, NaN where missing, `(rows,)` float64.

    Args:
        reading: the table.
        source: column and unit.
        limits: what the study allows.
        hint: what a person can do about a value that is refused.

    Raises:
        DataError: for a value that is no number or out of range, unless the mapping says that
            such values count as missing.
    """
    parse = _decade if source.parse == "decade_bin" else number_parser(reading.options.decimal)
    values = np.full(len(reading.table), np.nan)
    unknown = 0
    for row, cell in enumerate(reading.cells(source.column)):
        if cell is None:
            continue
        value = parse(cell)
        converted = None if value is None else limits.convert(value)
        if converted is not None and limits.minimum <= converted <= limits.maximum:
            values[row] = converted
            continue
        unknown += _unknown(
            reading.table.where(row, source.column),
            _complaint(cell, converted, source, limits),
            source.unknown,
            hint,
        )
    return Parsed(values, unknown)


def read_categories(
    reading: Reading, source: CategorySource, allowed: tuple[str, ...] | None
) -> Parsed:
    """The study's values as text, `None` where missing, `(rows,)` of objects.

    Args:
        reading: the table.
        source: column and value map.
        allowed: the study's values; `None` for a helper column that only conditions use.

    Raises:
        DataError: for a value that is neither mapped nor the study's, unless the mapping says
            that such values count as missing.
    """
    known = _known_codes(source, allowed)
    values = np.full(len(reading.table), None, dtype=object)
    unknown = 0
    for row, cell in enumerate(reading.cells(source.column)):
        if cell is None:
            continue
        if known is None:
            values[row] = cell
        elif cell in known:
            values[row] = known[cell]
        else:
            complaint = f"{cell!r} is not known; allowed: {', '.join(known)}"
            where = reading.table.where(row, source.column)
            unknown += _unknown(where, complaint, source.unknown)
    return Parsed(values, unknown)


def read_flags(reading: Reading, source: FlagSource, hint: str = _HINT) -> Parsed:
    """True, False, or `None` where no column says anything, `(rows,)` of objects.

    Args:
        reading: the table.
        source: columns and codes.
        hint: what a person can do about a code that is refused.

    Raises:
        DataError: for a code that is neither yes nor no, unless the mapping says that such codes
            count as missing.
    """
    values = np.full(len(reading.table), None, dtype=object)
    unknown = 0
    for column in source.any_of:
        for row, cell in enumerate(reading.cells(column)):
            if cell in source.yes:
                values[row] = True
            elif cell in source.no:
                values[row] = bool(values[row])
            elif cell is not None:
                codes = ", ".join((*source.yes, *source.no))
                complaint = f"{cell!r} is neither yes nor no; allowed: {codes}"
                where = reading.table.where(row, column)
                unknown += _unknown(where, complaint, source.unknown, hint)
    return Parsed(values, unknown)


def impute(
    reading: Reading,
    rule: Imputation,
    values: NDArray[Any],
    categories: Mapping[str, NDArray[Any]],
) -> NDArray[np.bool_]:
    """Fill missing categories in place by one rule.

    Args:
        reading: the table.
        rule: where to read from, and when.
        values: the feature's values so far, `(rows,)`; changed.
        categories: all mapped categories before any imputation, which conditions look at.

    Returns:
        Which rows were filled, `(rows,)`.
    """
    applies = np.array([value is None for value in values], dtype=np.bool_)
    for name, wanted in rule.only_if.items():
        applies &= np.array([value in wanted for value in categories[name]], dtype=np.bool_)
    for column, codes in rule.only_if_column.items():
        applies &= np.isin(np.array(reading.table.columns[column]), codes)
    cells = reading.cells(rule.column)
    for row in np.flatnonzero(applies):
        values[row] = rule.values.get(cells[row] or "")
        applies[row] = values[row] is not None
    return applies


def _known_codes(
    source: CategorySource, allowed: tuple[str, ...] | None
) -> Mapping[str, str] | None:
    """What each code in the file means; `None` if any text may stand there."""
    if source.values is not None:
        return source.values
    return None if allowed is None else {value: value for value in allowed}


def _unknown(where: str, complaint: str, policy: Unknown, hint: str = _HINT) -> int:
    """Count a value as missing, or refuse it, as the mapping says."""
    if policy == "missing":
        return 1
    raise DataError(f"{where}: {complaint}; {hint}.")


def _complaint(cell: str, converted: float | None, source: NumberSource, limits: Limits) -> str:
    if converted is None:
        kind = "an age range such as '60 - 69'" if source.parse == "decade_bin" else "a number"
        return f"{cell!r} is not {kind}"
    unit = f" {source.unit}" if source.parse == "number" else ""
    return (
        f"{cell!r}{unit} is outside the study's range of "
        f"{limits.minimum:g} to {limits.maximum:g} {limits.unit}"
    )


def number_parser(decimal: str) -> Callable[[str], float | None]:
    """What turns a cell into a number, `None` for one that is none, or beyond all floats."""

    def parse(cell: str) -> float | None:
        text = cell.replace(",", ".") if decimal == "," else cell
        if not _NUMBER.fullmatch(text):
            return None
        number = float(text)
        return number if math.isfinite(number) else None

    return parse


def _decade(cell: str) -> float | None:
    """Read '60 - 69' as 6 and '90+' as 9; a range that is no whole decade is not understood."""
    match = _DECADE_BIN.fullmatch(cell)
    if match is None:
        return None
    low, high, open_ended = match.groups()
    start = int(low or open_ended)
    whole = start % 10 == 0 and (high is None or int(high) == start + 9)
    return float(start // 10) if whole else None
