"""Turns one column of text into one typed array, and fills in missing categories by rules."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.cells import Distinct, NumberFormat, Reading
from fedrx_client.data.harmonise.alleles.spellings import normal_diplotype, normal_genotype
from fedrx_client.data.harmonise.units import Conversion, conversion
from fedrx_client.data.mapping import CategorySource, FlagSource, Imputation, NumberSource
from fedrx_client.data.sources import Censored, Codes, Unknown
from fedrx_common.errors import DataError, counted

REPAIR = 'correct it, or set unknown = "missing" for it in the mapping'
_COUNTED = {
    "limit": "as the limit",
    "half": "as half of the limit ('>': as the limit)",
    "missing": "as not recorded",
}
_DECADE_BIN = re.compile(r"(\d{1,3})\s*[-–]\s*(\d{1,3})|(\d{1,3})\s*\+")


@dataclass(frozen=True, eq=False)
class Parsed:
    """A typed column, and what a person should know about it.

    Attributes:
        values: the column.
        unknown: values that were not understood and count as missing.
        notes: sentences on values whose reading may not be what was meant.
    """

    values: NDArray[Any]
    unknown: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NumberRange:
    """Unit and range of a number, as the study allows it; `same` if the table has that unit."""

    unit: str
    minimum: float
    maximum: float
    convert: Conversion
    same: bool = False

    def converted(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert many values, NaN where they are."""
        if self.same:
            return values
        known, found = np.flatnonzero(~np.isnan(values)), np.full(len(values), np.nan)
        found[known] = [self.convert(value) for value in values[known].tolist()]
        return found

    def allow(self, value: float) -> bool:
        """Return whether a converted value is plausible."""
        return self.minimum <= value <= self.maximum

    @classmethod
    def of(
        cls, unit: str, to: str, minimum: float, maximum: float, analyte: str | None = None
    ) -> "NumberRange":
        """Make the limits, in the study's unit `to`, of a column in `unit` of an analyte.

        Raises:
            DataError: the units do not fit.
        """
        convert = conversion(unit, to, analyte)
        if convert is None:
            raise DataError(f"'{unit}' cannot be converted to '{to}'.")
        return cls(to, minimum, maximum, convert, same=unit == to)


def read_numbers(
    reading: Reading, source: NumberSource, limits: NumberRange, hint: str = REPAIR
) -> Parsed:
    """Read numbers in the study's unit, NaN where missing, `(rows,)` float64.

    Args:
        reading: the table.
        source: column and unit.
        limits: what the study allows.
        hint: what a person can do about a value that is refused.

    Raises:
        DataError: for a value that is not a number or out of range, unless the mapping says that
            such values count as missing.
    """
    written, binned = reading.written(source.column), source.parse == "decade_bin"
    cells = reading.distinct(source.column, source.missing)
    if binned:
        decades = [_decade(text) for text in cells.texts]
        values = np.array([np.nan if one is None else one for one in decades], dtype=np.float64)
        values[~cells.recorded] = np.nan
    else:
        values = written.read_all(cells.texts, cells.recorded)
    limited = read_limits(written, source.censored, cells, values)
    unread = cells.recorded & np.isnan(values) & ~limited
    converted = limits.converted(values)
    # NaN compares as false: what could not be read is not refused twice.
    outside = (converted < limits.minimum) | (converted > limits.maximum)
    refused = unread | outside
    unknown = 0
    if refused.any():
        rows = np.flatnonzero(refused[cells.codes])
        row = int(rows[0])
        cell = cells.texts[cells.codes[row]]
        if outside[cells.codes[row]]:
            unit = "" if binned else f" {source.unit}"
            complaint = (
                f"{cell!r}{unit} is outside the study's range of "
                f"{limits.minimum:g} to {limits.maximum:g} {limits.unit}"
            )
        elif binned:
            complaint = f"{cell!r} is not an age range such as '60 - 69'"
        else:
            complaint = f"{cell!r} is not a number{otherwise(cell, written)}"
            if hint == REPAIR and written.read_limit(cell, "limit") is not None:
                hint = "say what such values are: `censored` is 'limit', 'half' or 'missing'"
        _unknown(reading.table.where(row, source.column), complaint, source.unknown, hint)
        unknown = len(rows)
        converted[refused] = np.nan
    notes = [] if binned else [*plausible_codes(reading, source.column, limits, source.missing)]
    if limited.any():
        count = counted(int(limited[cells.codes].sum()), "value")
        notes.append(
            f"{reading.table.source}, column '{source.column}': {count} with '<' or '>' counted "
            f"{_COUNTED[source.censored]}, as `censored` of the mapping says."
        )
    return Parsed(converted[cells.codes], unknown, tuple(notes))


def read_limits(
    written: NumberFormat, rule: Censored, cells: Distinct, values: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Read values such as '<5' by a rule, in place.

    Args:
        written: how the column writes numbers.
        rule: what such values are.
        cells: the column.
        values: `(texts,)`, numbers, NaN where there is none yet; changed.

    Returns:
        Which texts are such values, `(texts,)`; none where the rule is "error".
    """
    limited = np.zeros(len(values), dtype=np.bool_)
    if rule == "error":
        return limited
    for i in np.flatnonzero(cells.recorded & np.isnan(values)).tolist():
        limit = written.read_limit(cells.texts[i], rule)
        if limit is not None:
            limited[i], values[i] = True, np.nan if rule == "missing" else limit
    return limited


def plausible_codes(
    reading: Reading, column: str, limits: NumberRange, missing: Codes
) -> tuple[str, ...]:
    """Point out the table's codes for "not recorded" that may be values of this column.

    Args:
        reading: the table.
        column: a column of numbers.
        limits: what the study allows.
        missing: the column's own codes, which are meant.
    """
    parse, own = reading.written(column).read, reading.keys(missing)
    plausible = set()
    for code in reading.keys(reading.options.missing) - own:
        value = parse(code)
        if value is not None and limits.allow(limits.convert(value)):
            plausible.add(code)
    if not plausible:
        return ()
    counts = Counter(key for key in map(reading.key, reading.table.columns[column]) if key)
    return tuple(
        f"{reading.table.source}, column '{column}': {counted(counts[code], 'value')} '{code}' "
        "counted as not recorded, because table.missing says so, though the study's range allows "
        "it; name the code in the `missing` of the columns whose code it is, if it is none here."
        for code in sorted(plausible)
        if counts[code]
    )


def read_categories(
    reading: Reading, source: CategorySource, allowed: tuple[str, ...] | None, name: str = ""
) -> Parsed:
    """Read the study's values as text, `None` where missing, `(rows,)` of objects.

    Args:
        reading: the table.
        source: column and value map.
        allowed: the study's values; `None` for a helper column that only conditions use.
        name: the feature's name.

    Raises:
        DataError: for a value that is neither mapped nor the study's, unless the mapping says
            that such values count as missing.
    """
    codes = source.values
    if codes is None and allowed is not None:
        codes = {value: value for value in allowed}
    known = None if codes is None else {reading.key(c, name): v for c, v in codes.items()}
    absent = reading.keys(source.missing, name)
    cells = reading.distinct(source.column, source.missing)
    normal = _normal_genotype_of(source)
    meanings = np.full(len(cells.texts), None, dtype=object)
    strange = np.zeros(len(cells.texts), dtype=np.bool_)
    reasons: dict[int, str] = {}
    for i, cell in enumerate(cells.texts):
        key = reading.key(cell, name) if cells.recorded[i] else None
        if key is None or key in absent:
            continue
        if normal is not None:
            try:
                cell = normal(cell)  # noqa: PLW2901 - its normal form
            except ValueError as error:
                strange[i], reasons[i] = True, str(error)
                continue
            key = reading.key(cell, name)
        meanings[i] = cell if known is None else known.get(key)
        strange[i] = known is not None and key not in known
    unknown = 0
    if strange.any():
        rows = np.flatnonzero(strange[cells.codes])
        cell = cells.texts[cells.codes[rows[0]]]
        complaint = reasons.get(
            int(cells.codes[rows[0]]), f"{cell!r} is not known; allowed: {', '.join(codes or ())}"
        )
        _unknown(reading.table.where(int(rows[0]), source.column), complaint, source.unknown)
        unknown = len(rows)
    return Parsed(meanings[cells.codes], unknown)


def _normal_genotype_of(source: CategorySource) -> Callable[[str], str] | None:
    """Return what brings a laboratory's spelling to its normal form, or raises `ValueError`."""
    if source.parse == "diplotype":
        return lambda text: normal_diplotype(text, source.gene or "")
    if source.parse == "genotype":
        return lambda text: normal_genotype(text, source.position or "", source.strand)
    return None


def read_flags(reading: Reading, source: FlagSource, hint: str = REPAIR) -> Parsed:
    """Read True, False, or `None` where no column has a code, `(rows,)` of objects.

    Args:
        reading: the table.
        source: columns and codes.
        hint: what a person can do about a code that is refused.

    Raises:
        DataError: for a code that is neither yes nor no, unless the mapping says that such codes
            count as missing.
    """
    values = np.full(len(reading.table), None, dtype=object)
    yes, no = reading.keys(source.yes), reading.keys(source.no)
    unknown = 0
    for column in source.any_of:
        cells = reading.distinct(column, source.missing)
        keys = [
            reading.key(cell) if recorded else None
            for cell, recorded in zip(cells.texts, cells.recorded, strict=True)
        ]
        said_yes = np.array([key in yes for key in keys], dtype=np.bool_)
        said_no = np.array([key in no for key in keys], dtype=np.bool_)
        strange = np.array([key is not None and key not in yes | no for key in keys], np.bool_)
        values[said_yes[cells.codes]] = True
        values[said_no[cells.codes] & (values == None)] = False  # noqa: E711 - of each element
        if strange.any():
            rows = np.flatnonzero(strange[cells.codes])
            cell = cells.texts[cells.codes[rows[0]]]
            listed = ", ".join((*source.yes, *source.no))
            complaint = f"{cell!r} is neither yes nor no; allowed: {listed}"
            where = reading.table.where(int(rows[0]), column)
            _unknown(where, complaint, source.unknown, hint)
            unknown += len(rows)
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
        known_codes = reading.keys(codes)
        cells = reading.table.columns[column]
        applies &= np.array([reading.key(cell) in known_codes for cell in cells], dtype=np.bool_)
    known = {reading.key(code): value for code, value in rule.values.items()}
    found = reading.cells(rule.column)
    for row in np.flatnonzero(applies):
        values[row] = known.get(reading.key(found[row] or ""))
        applies[row] = values[row] is not None
    return applies


def _unknown(where: str, complaint: str, policy: Unknown, hint: str = REPAIR) -> None:
    """Refuse a value, unless the mapping decides that such values count as missing."""
    if policy != "missing":
        raise DataError(f"{where}: {complaint}; {hint}.")


def otherwise(cell: str, written: NumberFormat) -> str:
    """Name the settings of a mapping by which a cell would be a number; empty if there are none."""
    swapped = "." if written.decimal == "," else ","
    found = []
    if NumberFormat(written.decimal, swapped).read(cell) is not None:
        found.append(f"one with table.thousands = '{swapped}'")
    if NumberFormat(swapped, written.decimal).read(cell) is not None:
        found.append(f"one with table.decimal = '{swapped}'")
    if not found:
        return ""
    return f" where decimal is '{written.decimal}' (but {', or '.join(found)})"


def _decade(cell: str) -> float | None:
    """Read '60 - 69' as 6 and '90+' as 9; another range gives `None`."""
    match = _DECADE_BIN.fullmatch(cell)
    if match is None:
        return None
    low, high, open_ended = match.groups()
    start = int(low or open_ended)
    whole = start % 10 == 0 and (high is None or int(high) == start + 9)
    return float(start // 10) if whole else None
