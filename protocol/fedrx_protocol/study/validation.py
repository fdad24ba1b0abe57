"""What is wrong with a study file: a sentence a finding, with key, value and what is allowed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from fedrx_common.text import escaped, quoted
from fedrx_protocol.study.base import DIGEST_PATTERN, NAME_PATTERN
from fedrx_protocol.study.omics import GENE_PATTERN, Block
from fedrx_protocol.study.schema import CategoryFeature, FlagFeature, NumberFeature
from fedrx_protocol.study.targets import TARGETS, Drug
from fedrx_protocol.study.visits import Horizon, Marker, Treatment, VisitsSection

# Features by kind; pydantic puts the kind into the place of an error, where there is no key.
_KINDS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {"number": NumberFeature, "category": CategoryFeature, "flag": FlagFeature}
)
# Entries of lists whose entries are all alike.
_ENTRIES: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "blocks": Block,
        "drugs": Drug,
        "horizons": Horizon,
        "markers": Marker,
        "treatments": Treatment,
        "visits": VisitsSection,
    }
)
_SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        GENE_PATTERN: "use letters, digits, '.', '_', ':' and '-', a letter or digit first",
        NAME_PATTERN: "use a-z, 0-9 and _, a letter first, 64 of them at most",
        DIGEST_PATTERN: (
            "give all 64 hex digits of the earlier study's digest, as they stand in the Details "
            "of its run's report"
        ),
    }
)
_LONGEST_KEY = 60  # characters of a part of a key that is not known
_SUBJECT = re.compile("^(Input|String)")  # what pydantic begins its rules with
_TABLES = ("model_type", "model_attributes_type")


def messages(error: ValidationError, source: str, root: type[BaseModel]) -> list[str]:
    """One sentence for each finding.

    Args:
        error: What pydantic found.
        source: Names the file.
        root: The model that was validated; its keys are what is allowed.
    """
    items = [dict(item) for item in error.errors()]
    if any(item["type"] == "missing" and item["input"] == {} for item in items):
        return [f"{source}: is empty; `fedrx study new` writes a study to start from."]
    sentences = []
    for item in own(items):
        if item["type"] == "extra_forbidden":
            allowed = ", ".join(_allowed_keys(item["loc"][:-1], root))
            sentence = f"unknown key '{_key(item['loc'])}'; allowed here: {allowed}"
        else:
            sentence = sentence_of(item)
        sentences.append(f"{source}: {sentence}.")
    return sentences


def own(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out the findings that only follow from another one."""
    kept = []
    for item in items:
        # A list may count as too short only because one of its entries was refused.
        place = item["loc"]
        inner = (other["loc"] for other in items if len(other["loc"]) > len(place))
        if item["type"] != "too_short" or not any(loc[: len(place)] == place for loc in inner):
            kept.append(item)
    return kept


def sentence_of(item: Mapping[str, Any], section: str = "") -> str:
    """What one finding says of a key that is known, without the full stop.

    Args:
        item: As pydantic found it.
        section: The table that was validated, where it was not the whole file.
    """
    key = ".".join(part for part in (section, _key(item["loc"])) if part)
    context = item.get("ctx", {})
    match item["type"]:
        case "missing":
            sentence = f"key '{key}' is missing"
        case "value_error":
            sentence = f"'{key}': {context['error']}" if key else str(context["error"])
        case "union_tag_not_found":
            sentence = f"key '{key}.kind' is missing: use {_either(_KINDS)}"
        case "union_tag_invalid":
            kinds = TARGETS if item["loc"] == ("target",) else _KINDS
            sentence = f"'{key}.kind' is {quoted(context['tag'])}: use {_either(kinds)}"
        case _:
            sentence = f"'{key}' is {quoted(item['input'])}: {_rule(item, context)}"
    return sentence


def _key(location: tuple[str | int, ...]) -> str:
    """The key as it is in the file, without the kinds that pydantic puts in between."""
    words = []
    for last, part in zip((None, *location), location, strict=False):
        of_feature = isinstance(last, int) and part in _KINDS
        of_target = last == "target" and part in TARGETS
        if not of_feature and not of_target:
            words.append(escaped(str(part)[:_LONGEST_KEY]))
    return ".".join(words)


def _rule(item: Mapping[str, Any], context: dict[str, Any]) -> str:
    """What a value of the wrong type or size should have been."""
    if item["type"] in _TABLES:
        return "it must be a table of keys and values"
    pattern = str(context.get("pattern"))
    rules = {
        "tuple_type": "it must be a list",
        "too_short": f"at least {context.get('min_length')} needed",
        "too_long": f"at most {context.get('max_length')} allowed",
        "string_pattern_mismatch": _SPELLINGS.get(pattern, f"it must match {pattern}"),
    }
    return rules.get(item["type"]) or _SUBJECT.sub("it", str(item["msg"]))


def _allowed_keys(location: tuple[str | int, ...], root: type[BaseModel]) -> list[str]:
    """Keys of the table at `location`; a list's entries are known by the kind after the number."""
    model = root
    for part in location:
        kinds = TARGETS if part in TARGETS else _KINDS
        if part in kinds:
            model = kinds[str(part)]
        elif part in _ENTRIES:
            model = _ENTRIES[str(part)]
        elif part in model.model_fields:
            inner = model.model_fields[str(part)].annotation
            model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else model
    return list(model.model_fields)


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"
