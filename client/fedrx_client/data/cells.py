"""Reads a cell's text as nothing, a number, or a code.

Every column takes the same steps: text; codes for "not recorded" of the table and of the column;
then a number by the file's separators, or a code by its normal form; then unit and range. A reader
of another format only has to give a `Table`.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from fedrx_client.data.mapping import TableOptions
from fedrx_client.data.table import Table
from fedrx_protocol.study.codes import code_key

# How people and programs write the separators that look alike.
_LIKE = str.maketrans({"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2019": "'"})


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

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        whole, point = r"\d+", re.escape(self.decimal)
        if self.thousands is not None:
            whole = rf"(?:[1-9]\d{{0,2}}(?:{re.escape(self.thousands)}\d{{3}})+|\d+)"
        return re.compile(rf"[+-]?(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?")


_POINT = NumberFormat()


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
        absent, decimal = self.keys(("", *self.options.missing, *missing)), self.options.decimal
        return [
            None if code_key(cell, decimal=decimal) in absent else cell
            for cell in self.table.columns[column]
        ]

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
