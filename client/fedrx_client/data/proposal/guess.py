"""Guesses which column is what a study asks for, and says of each guess how sure it is.

A guess weighs what a column is called against what its first cells look like. The best pair is
taken first; a column serves two things only where both are called like it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedrx_client.data.cells import NumberFormat
from fedrx_client.data.harmonise.codes.value_sets import analytes
from fedrx_client.data.harmonise.units import conversion, convertible_to
from fedrx_client.data.proposal.cells_seen import CellsSeen
from fedrx_client.data.proposal.names import ColumnName, meanings, plain_words, words_of
from fedrx_client.data.proposal.peek import Peek, is_personal
from fedrx_client.data.quality.scale import PublicReference, off_by
from fedrx_protocol.study.codes import code_key
from fedrx_protocol.study.schema import CategoryFeature, FlagFeature, Treatment

_NAMED = 0.5  # how alike a name must be to count
_CLOSE = 0.03  # two columns whose fits are so near: a person decides
_LONG_ENOUGH = 5
_UNSEEN = "no value in the rows that were looked at"
_PATIENT = {
    "patient id": 1.0,
    "patientid": 1.0,
    "patienten id": 1.0,
    "patient": 0.95,
    "subject id": 0.95,
    "subjectid": 0.95,
    "person id": 0.95,
    "personid": 0.95,
    "pat id": 0.95,
    "patid": 0.95,
    "uniquepid": 0.95,
    "pid": 0.9,
    "usubjid": 0.9,
    "subject": 0.85,
    "id": 0.8,
    "fallnummer": 0.7,
    "case id": 0.7,
    "stay id": 0.6,
    "sample id": 0.4,
}


@dataclass(frozen=True)
class Candidate:
    """A column that may be what is asked for.

    Attributes:
        column: its name.
        fit: how well it fits; above 0.
        settings: keys of the mapping's section beside the column, as TOML values.
        seen: what was looked at, in words, for a comment.
        doubts: what a person must decide, in words.
        more: further columns of the same flag.
    """

    column: str
    fit: float
    settings: tuple[tuple[str, Any], ...] = ()
    seen: str = ""
    doubts: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @property
    def sure(self) -> bool:
        """Whether a person need not decide."""
        return not self.doubts


@dataclass(frozen=True)
class Wanted:
    """Something that a study asks for, with a way to judge a column.

    Attributes:
        key: the mapping's section, e.g. "features.weight_kg".
        judge: how well a column fits, if at all.
    """

    key: str
    judge: Callable[[ColumnName, CellsSeen], Candidate | None]


class Columns:
    """The columns of a peeked table, taken apart."""

    def __init__(self, head: Peek) -> None:
        written = NumberFormat(head.decimal, head.thousands)
        self.rows = head.rows
        self.seen = {
            name: CellsSeen(cells, written)
            for name, cells in head.columns.items()
            if not is_personal(name)
        }
        self.names = {name: ColumnName.of(name) for name in self.seen}

    def best(self, wanted: Iterable[Wanted], taken: Iterable[str]) -> dict[str, Candidate]:
        """Pair things with columns, the best pair first.

        Args:
            wanted: things.
            taken: columns that serve something else, such as the patient's id.
        """
        closed = set(taken)
        pairs = [
            (candidate, one.key)
            for one in wanted
            for name in self.seen
            if name not in closed
            and (candidate := one.judge(self.names[name], self.seen[name])) is not None
        ]
        found: dict[str, Candidate] = {}
        used: set[str] = set()
        for candidate, key in sorted(pairs, key=lambda pair: -pair[0].fit):
            again = candidate.column in used and candidate.fit < 1.0
            if key not in found and not again:
                found[key] = candidate
                used.add(candidate.column)
        for candidate, key in pairs:
            best = found.get(key, candidate)
            rival = best.fit - _CLOSE <= candidate.fit and candidate.column not in used
            if candidate.column != best.column and rival:
                doubts = (*best.doubts, f"or '{candidate.column}'?")
                found[key] = replace(best, doubts=doubts)
        return found

    def patient(self, *, once: bool) -> str | None:
        """Guess the column of patients' ids; None where no name says it.

        Args:
            once: whether a patient has one row.
        """
        scores = {}
        for name, seen in self.seen.items():
            words = " ".join(plain_words(name))
            fit = max((v for k, v in _PATIENT.items() if f" {words}".endswith(f" {k}")), default=0)
            # An id says more alone than behind other words; a patient's row says it once.
            fit -= 0.02 * len(words.split())
            full = len(seen.recorded) == self.rows
            repeated = len(seen.codes) < len(seen.recorded)
            if fit > 0 and full and self.rows and not (once and repeated):
                scores[name] = fit
        return max(scores, key=lambda name: scores[name], default=None)

    def time(self, patient: str | None) -> str | None:
        """Guess the column of visits' times: numbers that rise within a patient."""
        best, most = None, 0.0
        ids = self.seen[patient].cells if patient is not None else ()
        for name, seen in self.seen.items():
            named = ColumnName.of(name)
            times = named.resembles(("time",)) if "time" in named.words else 0.0
            if "time" in " ".join(plain_words(name)) and not times:
                times = _NAMED
            if times <= 0 or seen.number_share < 1 or len(seen.recorded) < self.rows:
                continue
            if ids and not _rises(ids, seen):
                continue
            if times > most:
                best, most = name, times
        return best


def number(
    name: str, reference: PublicReference, minimum: float, maximum: float, *, molar: bool = False
) -> Callable[[ColumnName, CellsSeen], Candidate | None]:
    """Judge columns for a number of the study.

    Args:
        name: the study's.
        reference: its public mean and scale.
        minimum: no plausible value is smaller, in the study's unit.
        maximum: or larger.
        molar: whether the mapping may name an analyte there, so that moles become grams and back.
    """
    words = words_of(name, reference.unit)

    def judge(column: ColumnName, seen: CellsSeen) -> Candidate | None:
        fit = column.resembles(words)
        if fit < _NAMED:
            return None
        if not seen.recorded:
            unit = column.unit or reference.unit
            return Candidate(column.name, 0.8 * fit, (("unit", unit),), doubts=(_UNSEEN,))
        if reference.unit == "decade" and seen.decade_share > 0.8:
            binned = (("parse", "decade_bin"), ("unit", "decade"))
            return Candidate(column.name, fit + 0.1, binned, "ranges of ages")
        if seen.number_share < 0.8:
            return None
        unit, doubts = _unit(column, seen, reference)
        convert = conversion(unit, reference.unit)
        settings: tuple[tuple[str, Any], ...] = (("unit", unit),)
        if convert is None and molar and (analyte := _analyte(words)):
            convert = conversion(unit, reference.unit, analyte)
            if convert is not None:
                settings += (("analyte", analyte),)
                doubts = [f"converted with the molar mass of {analyte}: is that what it measures?"]
        values = seen.numbers if convert is None else np.array([convert(x) for x in seen.numbers])
        inside = float(((values >= minimum) & (values <= maximum)).mean())
        if inside < 0.5 and convert is not None and not doubts:
            doubts.append(f"most values are outside the study's {minimum:g} to {maximum:g}")
        codes = seen.sentinels(minimum, maximum)
        if codes:
            settings += (("missing", codes),)
            doubts.append("are these codes for 'not recorded'?")
        low, high = np.percentile(seen.numbers, [5, 95])
        return Candidate(
            column.name,
            fit + 0.1 * inside,
            settings,
            f"numbers, most between {_rough(low)} and {_rough(high)}",
            tuple(doubts),
        )

    return judge


def category(feature: CategoryFeature) -> Callable[[ColumnName, CellsSeen], Candidate | None]:
    """Judge columns for a category of the study: by name, or by its values alone."""
    words = words_of(feature.name)
    hints = set(plain_words(feature.description))

    def judge(column: ColumnName, seen: CellsSeen) -> Candidate | None:
        named = column.resembles(words)
        if named >= _NAMED and not seen.recorded:
            return Candidate(column.name, 0.8 * named, doubts=(_UNSEEN,))
        known = seen.meaning(feature.values, feature.name)
        count = len(seen.recorded)
        fits = sum(seen.codes[code] for code in known) / count if count else 0.0
        by_value = fits >= 0.6 and len(set(known.values())) >= 2
        if not by_value and (named < _NAMED or not seen.few_codes):
            return None
        filled = count / len(seen.cells) if seen.cells else 0.0
        hinted = len(hints.intersection(plain_words(column.name))) / 20
        fit = named + 0.6 * fits + 0.2 * filled + min(hinted, 0.15)
        settings: tuple[tuple[str, Any], ...] = ()
        keys = {code_key(value, feature.name) for value in feature.values}
        if any(code_key(code, feature.name) not in keys for code in known):
            settings = (("values", known),)
        strange = [code for code in seen.codes if code not in known]
        doubts = []
        if strange and seen.few_codes:
            doubts.append(f"what do these codes mean: {', '.join(map(repr, strange))}?")
        elif strange:
            doubts.append(f'{len(strange)} other codes: name them, or unknown = "missing"')
        if not named:
            doubts.append("the values fit, the name does not say it")
        shown = ", ".join(map(repr, known)) or "none of the study's values"
        return Candidate(column.name, fit, settings, f"codes {shown}", tuple(doubts))

    return judge


def flag(
    part: FlagFeature | Treatment,
) -> Callable[[ColumnName, CellsSeen], Candidate | None]:
    """Judge columns for a yes or no: by name, by its codes' names, or by the description."""
    words = words_of(part.name)
    sex = {"female", "male"} & set(words) or "sex" in words
    called = ("sex",) if sex else words
    hints = [word for word in plain_words(part.description) if len(word) >= _LONG_ENOUGH]

    def judge(column: ColumnName, seen: CellsSeen) -> Candidate | None:
        fit = column.resembles(called)
        codes = seen.yes_and_no(words)
        spelled = codes is not None and _codes_say_it(codes, words)
        hinted = bool(column.words) and any(word in hints for word in column.words[:1])
        if fit < _NAMED and not spelled and not hinted:
            return None
        if not seen.recorded:
            score = max(0.8 * fit, 0.4 * hinted)
            usual = (("yes", ["1"]), ("no", ["0"]))
            return Candidate(column.name, score, usual, doubts=(_UNSEEN,))
        if not seen.few_codes:
            return None
        doubts = []
        if codes is None:
            listed = ", ".join(map(repr, seen.codes))
            doubts.append(f"which of {listed} is yes?")
            codes = (["1"], ["0"])
        if fit < _NAMED and not spelled:
            doubts.append("its name says something else")
        settings = (("yes", codes[0] or ["1"]), ("no", codes[1] or ["0"]))
        shown = f"codes {', '.join(map(repr, seen.codes))}"
        score = max(fit, 0.9 * spelled, 0.45 * hinted) + 0.1 * (not doubts)
        return Candidate(column.name, score, settings, shown, tuple(doubts))

    return judge


def outcome_flag(name: str) -> Callable[[ColumnName, CellsSeen], Candidate | None]:
    """Judge columns for an outcome or an event that is yes or no."""
    return flag(FlagFeature(name=name, kind="flag"))


def _codes_say_it(codes: tuple[list[str], list[str]], words: tuple[str, ...]) -> bool:
    said = {word for code in codes[0] for word in meanings(plain_words(code))}
    return bool(said) and said <= set(words)


def _unit(column: ColumnName, seen: CellsSeen, reference: PublicReference) -> tuple[str, list[str]]:
    """Choose the unit of a column: that of its name, else the one in which its values are usual."""
    if column.unit:
        if conversion(column.unit, reference.unit) is None:
            doubt = f"the name says {column.unit}, which is not converted to {reference.unit}"
            return column.unit, [doubt]
        return column.unit, []
    away = {unit: _away(seen, unit, reference) for unit in convertible_to(reference.unit)}
    if away[reference.unit] <= 2.5:
        return reference.unit, []
    best = min(away, key=lambda unit: away[unit])
    if best != reference.unit and away[best] <= 1.5:
        return best, [f"the name says no unit; the values look like {best}"]
    found = off_by(seen.numbers, reference)
    like = "are unusual" if found is None else f"look like {found.unit}"
    return reference.unit, [f"the name says no unit, and the values {like}"]


def _analyte(words: tuple[str, ...]) -> str:
    """Find which analyte of known molar mass a name's meanings say; "" if none."""
    said = set("_".join(words).split("_"))
    return max((one for one in analytes() if said.issuperset(one.split("_"))), key=len, default="")


def _rough(value: float) -> str:
    """Write a number with two digits that count, so that it is no single patient's."""
    return f"{float(f'{value:.2g}'):,.10g}"


def _away(seen: CellsSeen, unit: str, reference: PublicReference) -> float:
    """Say how far the median is from the public mean, in standard deviations."""
    convert = conversion(unit, reference.unit)
    if convert is None or not len(seen.numbers):
        return math.inf
    median = convert(float(np.median(seen.numbers)))
    if reference.log:
        return abs(math.log(median) - reference.mean) / reference.scale if median > 0 else math.inf
    return abs(median - reference.mean) / reference.scale


def _rises(ids: tuple[str, ...], seen: CellsSeen) -> bool:
    """Say whether times rise from row to row of a patient, and do so at all."""
    last: dict[str, float] = {}
    rose = False
    for patient, cell in zip(ids, seen.cells, strict=True):
        value = seen.written.read(cell)
        if value is None or value <= last.get(patient, -math.inf):
            return False
        rose |= patient in last
        last[patient] = value
    return rose
