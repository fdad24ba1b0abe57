"""Columns computed from columns: a small language of arithmetic, parsed and evaluated here.

`weight / (height/100)^2`, `log(crp)`, `days(admitted, coalesce(died, 'last contact'))`. A formula
is data: there is no name in it but columns and the functions of a closed list, no loop and no
assignment. What is missing makes the result missing, except in `coalesce` and `known`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from fedrx_client.data.harmonise.dates import years_between

Kind = Literal["number", "date"]
Floats = NDArray[np.float64]
Dates = NDArray[np.datetime64]

LONGEST = 500
"""Characters of a formula."""
_DEEPEST = 40
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[^\W\d]\w*)|(?P<quoted>'[^']*'|\"[^\"]*\")|(?P<sign>[-+*/^(),]))",
)


class FormulaInvalid(ValueError):
    """A formula that cannot be parsed; the text says where and what is allowed."""


class FormulaHasNoValue(ValueError):
    """A row for which arithmetic has no answer, such as a division by zero.

    Args:
        row: the first such row.
        why: what was asked, in words.
    """

    def __init__(self, row: int, why: str) -> None:
        super().__init__(why)
        self.row, self.why = row, why


@dataclass(frozen=True)
class _Number:
    value: float


@dataclass(frozen=True)
class _Column:
    name: str
    kind: Kind


@dataclass(frozen=True)
class _Call:
    """A function or operator, applied."""

    name: str
    arguments: tuple["_Node", ...]
    kind: Kind


_Node = _Number | _Column | _Call


@dataclass(frozen=True)
class _Function:
    """What a function takes and gives.

    Attributes:
        least: number of arguments.
        most: the same at most.
        takes: kind of its arguments; None for that of the result, which then may be either.
        shown: how it is written, for errors.
    """

    least: int
    most: int
    takes: Kind | None
    shown: str


_MANY = 20
FUNCTIONS: Mapping[str, _Function] = MappingProxyType(
    {
        "abs": _Function(1, 1, "number", "abs(x)"),
        "coalesce": _Function(2, _MANY, None, "coalesce(a, b, ...)"),
        "days": _Function(2, 2, "date", "days(from, to)"),
        "exp": _Function(1, 1, "number", "exp(x)"),
        "floor": _Function(1, 1, "number", "floor(x)"),
        "hours": _Function(2, 2, "date", "hours(from, to)"),
        "known": _Function(1, 1, None, "known(a)"),
        "log": _Function(1, 1, "number", "log(x)"),
        "log10": _Function(1, 1, "number", "log10(x)"),
        "max": _Function(2, _MANY, None, "max(a, b, ...)"),
        "min": _Function(2, _MANY, None, "min(a, b, ...)"),
        "round": _Function(1, 2, "number", "round(x, digits)"),
        "sqrt": _Function(1, 1, "number", "sqrt(x)"),
        "year": _Function(1, 1, "date", "year(date)"),
        "years": _Function(2, 2, "date", "years(from, to)"),
    }
)
"""The closed list. `log` is natural; `known(a)` is 1 where `a` is recorded and else 0."""


@dataclass(frozen=True)
class Formula:
    """A parsed formula, which gives a number.

    Attributes:
        columns: what it reads, each as a number, a date, or "any" where only its presence counts.
    """

    root: _Node

    @property
    def columns(self) -> Mapping[str, frozenset[str]]:
        """Names of the columns, with the kinds in which they are read."""
        found: dict[str, set[str]] = {}
        for column, kind in _columns(self.root, counted=False):
            found.setdefault(column, set()).add(kind)
        return {name: frozenset(kinds) for name, kinds in found.items()}

    @classmethod
    def parse(cls, text: str) -> "Formula":
        """Parse a formula.

        Raises:
            FormulaInvalid: it is too long or too deep, or holds what the language has not.
        """
        if len(text) > LONGEST:
            raise FormulaInvalid(f"a formula has {LONGEST} characters at most")
        parser = _Parser(text)
        root = parser.sum("number", 0)
        parser.finish()
        return cls(root)

    def values(
        self, rows: int, numbers: "Read", dates: "Read", known: "Read", *, strict: bool = True
    ) -> Floats:
        """Compute the formula, `(rows,)` float64, NaN where it is missing.

        Args:
            rows: number of rows.
            numbers: gives a column as float64, NaN where missing.
            dates: gives a column as datetime64[us], NaT where missing.
            known: gives whether a cell of a column is recorded, as bool.
            strict: refuse a row for which arithmetic has no answer; else it is missing there.

        Raises:
            FormulaHasNoValue: if strict, where arithmetic has no answer.
        """
        work = _Evaluation(rows, numbers, dates, known, strict)
        with np.errstate(all="ignore"):
            return np.broadcast_to(work.number(self.root), (rows,)).copy()


Read = Callable[[str], NDArray[Any]]


def _columns(node: _Node, *, counted: bool) -> Iterator[tuple[str, str]]:
    if isinstance(node, _Column):
        yield node.name, "any" if counted else node.kind
    elif isinstance(node, _Call):
        for one in node.arguments:
            yield from _columns(one, counted=node.name == "known")


class _Parser:
    """A descent through the grammar; the kind that is needed goes down, so that columns have one.

    sum = product (("+" | "-") product)*; product = signed (("*" | "/") signed)*;
    signed = ("+" | "-") signed | power; power = part ("^" signed)?
    """

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._tokens = list(self._scan())

    def _scan(self) -> Iterator[tuple[str, str, int]]:
        text, end, at = self._text, len(self._text.rstrip()), 0
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                start = at + len(text[at:]) - len(text[at:].lstrip())
                self._refuse(f"'{text[start]}' has no meaning here", start)
            kind = cast("str", found.lastgroup)
            yield kind, found[kind], found.start(kind)
            at = found.end()

    def sum(self, kind: Kind, depth: int) -> _Node:
        """Parse a sum."""
        left = self._product(kind, depth + 1)
        while self._sees("+", "-"):
            left = self._arithmetic(kind, left, lambda: self._product("number", depth + 1))
        return left

    def _product(self, kind: Kind, depth: int) -> _Node:
        left = self._signed(kind, depth)
        while self._sees("*", "/"):
            left = self._arithmetic(kind, left, lambda: self._signed("number", depth))
        return left

    def _signed(self, kind: Kind, depth: int) -> _Node:
        if depth > _DEEPEST:
            self._refuse(f"is nested more than {_DEEPEST} levels deep", self._place())
        if self._sees("-", "+"):
            sign = self._next()[1]
            self._needs_number(kind)
            inner = self._signed(kind, depth + 1)
            return inner if sign == "+" else _Call("-", (_Number(0.0), inner), "number")
        base = self._part(kind, depth)
        if self._sees("^"):
            return self._arithmetic(kind, base, lambda: self._signed("number", depth + 1))
        return base

    def _arithmetic(self, kind: Kind, left: _Node, right: Callable[[], _Node]) -> _Node:
        self._needs_number(kind)
        sign = self._next()[1]
        return _Call(sign, (left, right()), "number")

    def _part(self, kind: Kind, depth: int) -> _Node:
        what, text, place = self._next()
        if what == "number":
            self._needs_number(kind, place)
            value = float(text)
            if not np.isfinite(value):
                self._refuse(f"{text} is too large", place)
            return _Number(value)
        if what == "quoted":
            if not text[1:-1].strip():
                self._refuse("a column's name is empty", place)
            return _Column(text[1:-1], kind)
        if what == "name":
            return self._call(text, place, kind, depth) if self._sees("(") else _Column(text, kind)
        if text != "(":
            hint = "; for a power write ^" if self._text[place - 1 : place + 1] == "**" else ""
            self._refuse(f"'{text}' where a number, a column or a function should be{hint}", place)
        inner = self.sum(kind, depth + 1)
        self._close()
        return inner

    def _call(self, name: str, place: int, kind: Kind, depth: int) -> _Node:
        function = FUNCTIONS.get(name)
        if function is None:
            self._refuse(f"'{name}' is not a function; allowed: {_listed()}", place)
        if function.takes is not None or name == "known":
            self._needs_number(kind, place)
        self._next()
        arguments = [self._argument(function.takes or kind, depth)]
        while self._sees(","):
            self._next()
            arguments.append(self._argument(function.takes or kind, depth))
        self._close()
        if not function.least <= len(arguments) <= function.most:
            self._refuse(f"{name} takes other arguments: {function.shown}", place)
        if name == "known" and not isinstance(arguments[0], _Column):
            self._refuse("known takes one column", place)
        return _Call(name, tuple(arguments), kind if function.takes is None else "number")

    def _argument(self, kind: Kind, depth: int) -> _Node:
        return self.sum(kind, depth + 1)

    def finish(self) -> None:
        """Refuse text behind the formula's end."""
        if self._at < len(self._tokens):
            _, text, place = self._tokens[self._at]
            self._refuse(f"'{text}' does not belong here", place)

    def _needs_number(self, kind: Kind, place: int | None = None) -> None:
        if kind == "date":
            at = self._place() if place is None else place
            self._refuse("a date is needed here, a column or coalesce, min or max of some", at)

    def _close(self) -> None:
        if not self._sees(")"):
            self._refuse("')' is missing", self._place())
        self._next()

    def _sees(self, *signs: str) -> bool:
        here = self._tokens[self._at : self._at + 1]
        return bool(here) and here[0][0] == "sign" and here[0][1] in signs

    def _next(self) -> tuple[str, str, int]:
        if self._at == len(self._tokens):
            self._refuse("the formula ends too early", len(self._text))
        self._at += 1
        return self._tokens[self._at - 1]

    def _place(self) -> int:
        return self._tokens[self._at][2] if self._at < len(self._tokens) else len(self._text)

    def _refuse(self, what: str, place: int) -> NoReturn:
        raise FormulaInvalid(f"at character {place + 1}: {what}")


def _listed() -> str:
    return ", ".join(function.shown for function in FUNCTIONS.values())


@dataclass(frozen=True)
class _Evaluation:
    """The evaluation of one formula."""

    rows: int
    numbers: Read
    dates: Read
    known: Read
    strict: bool

    def number(self, node: _Node) -> Floats:
        """Compute a node that gives numbers, `(rows,)`."""
        if isinstance(node, _Number):
            return np.full(self.rows, node.value)
        if isinstance(node, _Column):
            return self.numbers(node.name)
        if node.name == "known":
            (column,) = node.arguments
            return self.known(cast("_Column", column).name).astype(np.float64)
        if node.name in ("days", "hours", "year", "years"):
            return self._of_dates(node)
        parts = [self.number(one) for one in node.arguments]
        if node.name == "coalesce":
            return _first_known(parts, np.isnan)
        found = _ARITHMETIC[node.name](*parts)
        present = ~np.any([np.isnan(part) for part in parts], axis=0)
        lost = np.flatnonzero(present & ~np.isfinite(found))
        if lost.size and self.strict:
            row = int(lost[0])
            shown = [f"{part[row]:g}" for part in parts]
            asked = (
                f"{node.name}({', '.join(shown)})"
                if node.name in FUNCTIONS
                else f"{shown[0]} {node.name} {shown[1]}"
            )
            raise FormulaHasNoValue(row, asked)
        return np.where(present & np.isfinite(found), found, np.nan)

    def _of_dates(self, node: _Call) -> Floats:
        parts = [self._date(one) for one in node.arguments]
        present = ~np.any([np.isnat(part) for part in parts], axis=0)
        found = np.full(self.rows, np.nan)
        if node.name in ("days", "hours"):
            unit = np.timedelta64(1, "D" if node.name == "days" else "h")
            found[present] = (parts[1][present] - parts[0][present]) / unit
            return found
        moments = [cast("list[datetime]", part[present].tolist()) for part in parts]
        if node.name == "year":
            found[present] = [one.year for one in moments[0]]
        else:
            found[present] = [years_between(a, b) for a, b in zip(*moments, strict=True)]
        return found

    def _date(self, node: _Node) -> Dates:
        """Compute a node that gives dates, `(rows,)`; the parser made sure that it does."""
        if isinstance(node, _Column):
            return self.dates(node.name)
        call = cast("_Call", node)
        parts = [self._date(one) for one in call.arguments]
        if call.name == "coalesce":
            return _first_known(parts, np.isnat)
        extreme = np.minimum if call.name == "min" else np.maximum
        return cast("Dates", extreme.reduce(parts))  # NaT where one is


def _first_known(
    parts: list[NDArray[Any]], missing: Callable[[NDArray[Any]], NDArray[np.bool_]]
) -> NDArray[Any]:
    found = parts[0].copy()
    for part in parts[1:]:
        gaps = missing(found)
        found[gaps] = part[gaps]
    return found


def _rounded(value: Floats, digits: Floats | None = None) -> Floats:
    """Round halves away from zero, as on paper; digits beyond 15 are those of the number itself."""
    power = 10.0 ** np.clip(np.zeros(1) if digits is None else np.trunc(digits), -15, 15)
    return np.sign(value) * np.floor(np.abs(value) * power + 0.5) / power


_ARITHMETIC: Mapping[str, Callable[..., Floats]] = MappingProxyType(
    {
        "+": np.add,
        "-": np.subtract,
        "*": np.multiply,
        "/": np.divide,
        "^": np.power,
        "abs": np.abs,
        "exp": np.exp,
        "floor": np.floor,
        "log": np.log,
        "log10": np.log10,
        "max": lambda *parts: np.maximum.reduce(parts),
        "min": lambda *parts: np.minimum.reduce(parts),
        "round": _rounded,
        "sqrt": np.sqrt,
    }
)
