"""Reads a cell's text as nothing, a number, or a code.

Every column takes the same steps: text; codes for "not recorded" of the table and of the column;
then a number by the file's separators, or a code by its normal form; then unit and range. Each
different text of a column is read once. A reader of another format only has to give a `Table`.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from fedrx_client.data.mapping import TableOptions
from fedrx_client.data.sources import Censored
from fedrx_client.data.table import Table, Texts
from fedrx_protocol.study.codes import code_key

# How people and programs write the separators that look alike.
_ALIKE = {"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2019": "'"}
_LIKE = str.maketrans(_ALIKE)
_LIMIT = re.compile(r"(?P<sign>[<>≤≥]|[<>]=)\s*(?P<number>.+)")


@dataclass(frozen=True)
class NumberFormat:
    """How a file writes numbers.

    Attributes:
        decimal: '.' or ','.
        thousands: what groups digits by three, if anything does: '.', ',', ' ' or "'".
    """

    decimal: str = "."
    thousands: str | None = None

    def read(self, text: str) -> float | None:
        """Return the number, or `None` for text that is not a number, or beyond all floats.

        A separator that is not the decimal one can only group thousands, and only where the format
        has them: a number is never read with a size that it may not have.
        """
        grouping = self.thousands or ""
        text = text.translate(_LIKE) if self.thousands in (" ", "'") else text
        if not self._pattern.fullmatch(text):
            return None
        digits = text.replace(grouping, "") if grouping else text
        number = float(digits.replace(self.decimal, "."))
        return number if math.isfinite(number) else None

    def read_all(self, texts: Texts, recorded: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Read many texts as `read` does each of them.

        Args:
            texts: the texts.
            recorded: `(texts,)`, which of them to read.

        Returns:
            The numbers, `(texts,)`, NaN for what is none or was not to be read.
        """
        found = np.full(len(texts), np.nan)
        cells = texts.arrow.filter(pa.array(recorded))
        if self == _POINT:
            try:  # at once; of what Arrow reads, only the names of infinity and NaN are no numbers
                found[recorded] = np.asarray(cells.cast(pa.float64()))
                found[~np.isfinite(found)] = np.nan
            except pa.ArrowInvalid:
                found[:] = np.nan
            else:
                return found
        if self.thousands in (" ", "'"):
            for written, meant in _ALIKE.items():
                cells = compute.replace_substring(cells, written, meant)
        plain = compute.match_substring_regex(cells, f"^(?:{self._pattern.pattern})$")
        digits = cells.filter(plain)
        if self.thousands is not None:
            digits = compute.replace_substring(digits, self.thousands, "")
        if self.decimal != ".":
            digits = compute.replace_substring(digits, self.decimal, ".")
        rows, is_plain = np.flatnonzero(recorded), np.asarray(plain)
        found[rows[is_plain]] = np.asarray(digits.cast(pa.float64()))
        found[~np.isfinite(found)] = np.nan
        # Digits of other scripts are numbers too.
        for row in rows[~is_plain].tolist():
            number = None if texts[row].isascii() else self.read(texts[row])
            found[row] = np.nan if number is None else number
        return found

    def read_limit(self, text: str, rule: Censored) -> float | None:
        """Read `<5` or `>5` by a rule that gives a number; `None` for other text."""
        match = _LIMIT.fullmatch(text)
        number = None if match is None else self.read(match["number"])
        if match is None or number is None:
            return None
        return number / 2 if rule == "half" and match["sign"][0] in "<≤" else number

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        whole, point = r"\d+", re.escape(self.decimal)
        if self.thousands is not None:
            whole = rf"(?:[1-9]\d{{0,2}}(?:{re.escape(self.thousands)}\d{{3}})+|\d+)"
        return re.compile(rf"[+-]?(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?")


_POINT = NumberFormat()
_FEW = 8  # different texts


@dataclass(frozen=True, eq=False)
class Distinct:
    """A column as its different texts.

    Attributes:
        texts: the different texts, as they first come.
        codes: `(rows,)`, which of them each row has.
        recorded: `(texts,)`, whether a text is a value and not a code for "not recorded".
    """

    texts: Texts
    codes: NDArray[np.int32]
    recorded: NDArray[np.bool_]


@dataclass(frozen=True)
class Reading:
    """What columns are read with: the table, how it is written, its codes for 'not recorded'."""

    table: Table
    options: TableOptions

    def key(self, code: str, feature: str = "") -> str:
        """Return the normal form of a code of this file, by which codes are compared."""
        return code_key(code, feature, decimal=self.options.decimal)

    def keys(self, codes: Collection[str], feature: str = "") -> frozenset[str]:
        """Return the normal forms of several codes."""
        return frozenset(self.key(code, feature) for code in codes)

    def cells(self, column: str, missing: Collection[str] = ()) -> list[str | None]:
        """Return the column's text, `None` where nothing was recorded.

        Args:
            column: its name.
            missing: codes for "not recorded" of this column, beside the table's.
        """
        column_of = self.distinct(column, missing)
        texts = np.array([*column_of.texts, None], dtype=object)[:-1]
        texts[~column_of.recorded] = None
        cells: list[str | None] = texts[column_of.codes].tolist()
        return cells

    def distinct(self, column: str, missing: Collection[str] = ()) -> Distinct:
        """Return the column's different texts, and which of them are recorded values.

        Args:
            column: its name.
            missing: codes for "not recorded" of this column, beside the table's.
        """
        texts, codes = self.table.texts(column).distinct()
        absent = self.keys(("", *self.options.missing, *missing))
        if len(texts) <= _FEW:  # as of one patient at a bedside, where Arrow's calls cost more
            there = [self.key(text) not in absent for text in texts]
            return Distinct(texts, codes, np.array(there, dtype=np.bool_))
        recorded = ~np.asarray(compute.is_in(texts.arrow, pa.array(absent, pa.large_string())))
        # Only these are not their own normal form.
        odd = np.asarray(compute.ends_with(texts.arrow, "0"))
        odd = odd | np.asarray(compute.match_substring(texts.arrow, "/"))
        odd |= ~np.asarray(compute.string_is_ascii(texts.arrow))
        for i, text in zip(
            np.flatnonzero(odd).tolist(), texts.take(np.flatnonzero(odd)), strict=True
        ):
            recorded[i] = self.key(text) not in absent
        return Distinct(texts, codes, recorded)

    def written(self, column: str) -> NumberFormat:
        """Return how the column writes numbers; typed numbers have a decimal point."""
        if column in self.table.typed:
            return _POINT
        return NumberFormat(self.options.decimal, self.options.thousands)

    def absence(self, row: int, column: str) -> str:
        """Explain in words why a filled cell counts as not recorded; no words for an empty one."""
        cell = self.table.columns[column][row]
        if not cell:
            return ""
        return (
            f" ({cell!r} is in table.missing, which holds for every column: name it in the "
            "`missing` of the columns whose code it is)"
        )
