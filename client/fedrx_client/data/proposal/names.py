"""What a column's name says: words, synonyms, and a unit in brackets or at the end."""

import csv
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from importlib import resources
from types import MappingProxyType

_IN_BRACKETS = re.compile(r"[(\[]([^()\[\]]{1,24})[)\]]")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[a-z0-9]+")
_ALIKE = 0.84  # of two words' letters: a slip of the pen or another language's ending
_LONG_ENOUGH = 5  # letters, below which words that are alike are too often others

# Spellings of units, in lower case without blanks, as FedRx writes them.
_UNITS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("kg", "kgs", "kilogram", "kilograms"), "kg"),
        **dict.fromkeys(("lb", "lbs", "pound", "pounds"), "lb"),
        **dict.fromkeys(("g", "gram", "grams"), "g"),
        "cm": "cm",
        "mm": "mm",
        "m": "m",
        **dict.fromkeys(("in", "inch", "inches"), "in"),
        **dict.fromkeys(("ft", "feet"), "ft"),
        **dict.fromkeys(("year", "years", "yr", "yrs", "y", "jahre", "jahr", "a"), "year"),
        **dict.fromkeys(("month", "months", "monate", "mo"), "month"),
        **dict.fromkeys(("day", "days", "tage", "d"), "day"),
        **dict.fromkeys(("hour", "hours", "h", "hr", "hrs", "stunden"), "hour"),
        **dict.fromkeys(("minute", "minutes", "min", "offset"), "minute"),
        **dict.fromkeys(("decade", "decades"), "decade"),
        **dict.fromkeys(("mg/dl", "mgdl"), "mg/dL"),
        **dict.fromkeys(("g/dl", "gdl"), "g/dL"),
        **dict.fromkeys(("g/l", "gl"), "g/L"),
        **dict.fromkeys(("mg/l", "mgl"), "mg/L"),
        **dict.fromkeys(("umol/l", "µmol/l", "μmol/l", "umoll", "micromol/l"), "umol/L"),
        **dict.fromkeys(("mmol/l", "mmoll"), "mmol/L"),
        **dict.fromkeys(("u/l", "iu/l"), "U/L"),
        **dict.fromkeys(("k/ul", "k/µl", "10^9/l", "10e9/l", "10*3/ul", "g/nl"), "K/uL"),
        **dict.fromkeys(("mmhg",), "mmHg"),
        **dict.fromkeys(("mg/week", "mg/wk", "mg/woche"), "mg/week"),
        **dict.fromkeys(("mg/day", "mg/d", "mg/tag"), "mg/day"),
        **dict.fromkeys(("%", "percent", "pct"), "%"),
        **dict.fromkeys(("c", "°c", "celsius"), "C"),
        **dict.fromkeys(("/min", "bpm", "1/min"), "/min"),
    }
)
# These say nothing of what a column holds.
_EMPTY_WORDS = (
    "a an the of or and on in at with is was by for to value values result recorded current "
    "total measured consensus therapeutic per subject patient level count first last baseline "
    "serum plasma blood"
)
_EMPTY = frozenset(_EMPTY_WORDS.split())


@dataclass(frozen=True)
class ColumnName:
    """A column's name, taken apart.

    Attributes:
        name: as in the table.
        words: its meanings, in order; a synonym is replaced by its meaning.
        unit: the unit that it names, as FedRx writes it; "" where it names none.
    """

    name: str
    words: tuple[str, ...]
    unit: str = ""

    @classmethod
    def of(cls, name: str) -> "ColumnName":
        """Take a column's name apart."""
        unit, rest = "", name
        for match in _IN_BRACKETS.finditer(name):
            found = known_unit(match[1])
            if found:
                unit, rest = found, rest.replace(match[0], " ")
        words = plain_words(rest)
        if not unit and len(words) > 1:
            for size in (2, 1):  # creatinine_mg_dl, weight_kg
                found = known_unit("".join(words[-size:])) if len(words) > size else ""
                if found:
                    unit, words = found, words[:-size]
                    break
        return cls(name, meanings(words), unit)

    def resembles(self, words: tuple[str, ...]) -> float:
        """Say how well the name fits a thing's words, from 0 to 1.

        Args:
            words: as `meanings` gives them.
        """
        if not words or not self.words:
            return 0.0
        hit = [max(_alike(word, own) for own in self.words) for word in words]
        back = [max(_alike(own, word) for word in words) for own in self.words]
        fit = sum(hit) / len(hit)
        # Further words make a column another thing: "wound height" is no height.
        return fit * (0.6 + 0.4 * sum(back) / len(back)) if min(hit) > 0 else 0.4 * fit


def known_unit(text: str) -> str:
    """Return a unit as FedRx writes it; "" for text that is no unit."""
    return _UNITS.get(text.lower().replace(" ", ""), "")


def words_of(name: str, unit: str = "") -> tuple[str, ...]:
    """Return the meanings of a name in a study, without its unit's letters."""
    words = plain_words(name)
    letters = set(_WORD.findall(unit.lower())) | {unit.lower()}
    kept = [word for word in words if word not in letters and known_unit(word) != unit]
    return meanings([word for word in kept if word != "log"] or words)


def meanings(words: list[str]) -> tuple[str, ...]:
    """Replace words, alone or two and three together, by what they mean; drop empty ones."""
    known, found, i = _synonyms(), list[str](), 0
    while i < len(words):
        for size in (3, 2, 1):
            joined = "".join(words[i : i + size])
            if i + size <= len(words) and joined in known:
                found.append(known[joined])
                i += size
                break
        else:
            if words[i] not in _EMPTY:
                found.append(words[i])
            i += 1
    return tuple(dict.fromkeys(found))


def plain_words(text: str) -> list[str]:
    """Take a text apart into lower-case words of plain letters and digits."""
    plain = text.replace("ß", "ss").replace("ö", "oe").replace("ä", "ae").replace("ü", "ue")
    folded = unicodedata.normalize("NFKD", _CAMEL.sub(" ", plain)).encode("ascii", "ignore")
    return _WORD.findall(folded.decode().lower())


def _alike(one: str, other: str) -> float:
    if one == other:
        return 1.0
    if min(len(one), len(other)) < _LONG_ENOUGH:
        return 0.0
    ratio = SequenceMatcher(None, one, other).ratio()
    return ratio if ratio >= _ALIKE else 0.0


@lru_cache(maxsize=1)
def _synonyms() -> Mapping[str, str]:
    file = resources.files("fedrx_client.data.proposal").joinpath("synonyms.csv")
    rows = csv.DictReader(file.read_text("utf-8").splitlines())
    found: dict[str, str] = {}
    for row in rows:
        found[row["meaning"].replace("_", "")] = row["meaning"]
        for word in row["words"].split():
            found.setdefault(word, row["meaning"])
    return MappingProxyType(found)
