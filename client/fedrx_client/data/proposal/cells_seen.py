"""What the first cells of a column look like: missing codes, numbers, different codes."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedrx_client.data.cells import NumberFormat
from fedrx_client.data.proposal.names import meanings, plain_words
from fedrx_protocol.study.codes import code_key

MOST_CODES = 12
_LONGEST_CODE = 40
_MISSING = frozenset(
    {"", "na", "n/a", "nan", "null", "none", "nd", "n.d.", "?", ".", "-", "--", "k.a.", "missing"}
)
_SENTINELS = frozenset({-9.0, -99.0, -999.0, -1.0, 99.0, 999.0, 9999.0, 888.0})
_TWO_LETTERS = re.compile(r"[ACGT]{2}")
_DECADE = re.compile(r"\d{1,3}\s*[-–]\s*\d{1,3}|\d{1,3}\s*\+")

YES: Mapping[str, bool] = {
    **dict.fromkeys(
        ("1", "y", "yes", "ja", "j", "true", "t", "oui", "si", "pos", "positive"), True
    ),
    **dict.fromkeys(("0", "n", "no", "nein", "false", "non", "neg", "negative", "f"), False),
}
FEMALE: Mapping[str, bool] = {
    **dict.fromkeys(("f", "female", "w", "weiblich", "femme", "woman", "frau", "mujer"), True),
    **dict.fromkeys(
        ("m", "male", "mann", "männlich", "maennlich", "homme", "man", "hombre"), False
    ),
}


@dataclass(frozen=True)
class CellsSeen:
    """The first cells of one column.

    Attributes:
        cells: stripped texts.
        written: how numbers are written.
    """

    cells: tuple[str, ...]
    written: NumberFormat

    @cached_property
    def recorded(self) -> tuple[str, ...]:
        """The cells that hold something."""
        return tuple(cell for cell in self.cells if cell.lower() not in _MISSING)

    @property
    def missing_codes(self) -> set[str]:
        """Texts that stand for "not recorded", without the empty one."""
        return {cell for cell in self.cells if cell and cell.lower() in _MISSING}

    @cached_property
    def codes(self) -> Counter[str]:
        """The different cells, and how often each comes."""
        return Counter(self.recorded)

    @property
    def few_codes(self) -> bool:
        """Whether the cells are codes, few and short, and no text of their own."""
        few = 0 < len(self.codes) <= MOST_CODES
        return few and max(map(len, self.codes)) <= _LONGEST_CODE

    @cached_property
    def numbers(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The cells that are numbers."""
        read = [self.written.read(cell) for cell in self.recorded]
        return np.array([one for one in read if one is not None], dtype=np.float64)

    @property
    def number_share(self) -> float:
        """Which part of what is recorded is a number; 0 where nothing is."""
        return len(self.numbers) / len(self.recorded) if self.recorded else 0.0

    @property
    def decade_share(self) -> float:
        """Which part of what is recorded is a range of ages such as '60 - 69'."""
        found = sum(bool(_DECADE.fullmatch(cell)) for cell in self.recorded)
        return found / len(self.recorded) if self.recorded else 0.0

    def sentinels(self, minimum: float, maximum: float) -> list[str]:
        """List numbers outside a range that programs write for "not recorded"."""
        found: dict[str, None] = {}
        for cell in self.codes:
            value = self.written.read(cell)
            if value in _SENTINELS and not minimum <= float(value or 0) <= maximum:
                found[cell] = None
        return list(found)

    def meaning(self, values: Iterable[str], feature: str) -> dict[str, str]:
        """Map the codes that are a study's values, in whatever case, to those values."""
        exact = {code_key(value, feature): value for value in values}
        folded = {value.casefold(): value for value in exact.values()}
        words = {" ".join(plain_words(value)): value for value in exact.values()}
        sexes = {FEMALE[value.casefold()]: value for value in values if value.casefold() in FEMALE}
        found = {}
        for code in self.codes:
            spelled = f"{code[0]}/{code[1]}" if _TWO_LETTERS.fullmatch(code) else code
            value = exact.get(code_key(spelled, feature)) or folded.get(code.casefold())
            value = value or words.get(" ".join(plain_words(code)) or "-")
            female = FEMALE.get(code.casefold())
            if value is None and len(sexes) == 2 and female is not None:
                value = sexes[female]
            if value is not None:
                found[code] = value
        return found

    def yes_and_no(self, words: tuple[str, ...]) -> tuple[list[str], list[str]] | None:
        """Sort the codes into yes and no of a thing; None where one of them is neither.

        Args:
            words: what the thing is called: a code that is one of them is a yes.
        """
        if not self.few_codes:
            return None
        sorted_ = {True: list[str](), False: list[str]()}
        for code in self.codes:
            meant = _meant(code, words)
            if meant is None:
                return _named(list(self.codes), words)
            sorted_[meant].append(code)
        return sorted_[True], sorted_[False]


def _meant(code: str, words: tuple[str, ...]) -> bool | None:
    """Say whether a code is a yes; of a sex, whether it is the one in question."""
    folded = code.casefold()
    if "female" in words or "male" in words:
        female = FEMALE.get(folded)
        return None if female is None else female == ("female" in words)
    number = folded.removesuffix(".0")
    return YES.get(number)


def _named(codes: list[str], words: tuple[str, ...]) -> tuple[list[str], list[str]] | None:
    """Sort two codes of which one is what the thing is called."""
    if len(codes) != 2:
        return None
    fits = [set(meanings(plain_words(code))) <= set(words) for code in codes]
    if fits == [True, False]:
        return [codes[0]], [codes[1]]
    return ([codes[1]], [codes[0]]) if fits == [False, True] else None
