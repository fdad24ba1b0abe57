"""How two studies differ, value by value, so that a person sees what is new before saying yes.

A difference is a value, not a text: a terminal and a web page show the same ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedrx_protocol.study.study import Study


@dataclass(frozen=True)
class StudyChange:
    """One value that differs.

    Attributes:
        where: its name in the study file, e.g. `privacy.epsilon`; of a named entry in a list
            `features.age.unit`, of a whole entry `features.age`.
        before: a JSON value; None where there was none.
        after: a JSON value; None where there is none.
    """

    where: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.where}: {_words(self.before)} -> {_words(self.after)}"


def study_changes(before: Study, after: Study) -> tuple[StudyChange, ...]:
    """Every agreed value in which two studies differ, in the order of the study file.

    Args:
        before: e.g. the study that was approved.
        after: e.g. the study that is about to be.
    """
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return tuple(_changes("", old, new))


def _changes(where: str, before: object, after: object) -> Iterator[StudyChange]:
    if before == after:
        return
    old, new = _by_name(before), _by_name(after)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield StudyChange(where, before, after)
    elif old == new:
        # The order of features is agreed too: it is the order of the model's inputs.
        yield StudyChange(f"{where}, order", list(old), list(new))
    else:
        for key in dict.fromkeys([*old, *new]):
            yield from _changes(f"{where}.{key}" if where else key, old.get(key), new.get(key))


def _by_name(value: object) -> object:
    """A list of named entries as a map, so that an entry is compared with its namesake."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        names = [one.get("name") for one in value]
        if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
            return dict(zip(names, value, strict=True))
    return value


def _words(value: object) -> str:
    match value:
        case None:
            return "not there"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case list():
            return ", ".join(map(_words, value)) or "none"
        case dict():
            return ", ".join(f"{key} {_words(one)}" for key, one in value.items()) or "empty"
    return str(value)
