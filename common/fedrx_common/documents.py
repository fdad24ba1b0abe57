"""Documents from outside: one reader of TOML, one of JSON, one of typed state, and what all refuse.

A document that is nested too deep, or holds too large a number, is refused here with a sentence, so
that later code never meets Python's own limits.
"""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

STRICT = ConfigDict(strict=True, extra="forbid")
"""How the dataclass of a state file is read: `@with_config(STRICT)`. No value is converted."""

StateT = TypeVar("StateT")
DEEPEST = 64  # lists and tables in each other; a study has 6
_LARGEST = 2**64  # the seeds and ids of other programs have 64 bits

Pairs = Callable[[list[tuple[str, Any]]], Any]


class DocumentInvalid(ValueError):
    """A text that is not a document; the reason follows the document's name in a sentence."""


def read_toml(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        DocumentInvalid: it is not TOML, is nested too deep, or holds too large a number.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DocumentInvalid(f"not valid TOML: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # Python reads no integer of more than 4300 digits
        raise _too_large() from None
    require_bounded(document)
    return document


def read_json(data: bytes | str, pairs: Pairs | None = None) -> Any:  # noqa: ANN401 - whatever it holds
    """Read JSON.

    Args:
        data: the document; bytes are UTF-8, 16 or 32, as the standard says.
        pairs: makes a table of its keys and values; a dict if left out.

    Raises:
        DocumentInvalid: it is not JSON, is nested too deep, or holds too large a number.
    """
    try:
        document = json.loads(data, object_pairs_hook=pairs)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise DocumentInvalid("not valid JSON") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise _too_large() from None
    require_bounded(document)
    return document


def read(path: Path, model: type[StateT]) -> StateT:
    """Read a party's own state file: JSON of exactly the fields and types of a dataclass.

    What is signed or hashed is not read here: its bytes count, see `fedrx_common.canonical_json`.

    Args:
        path: the file.
        model: a dataclass under `@with_config(STRICT)`; fields with a default may be missing.

    Raises:
        DocumentInvalid: it is not JSON, or holds other fields or types.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    read_json(data)
    adapter: TypeAdapter[StateT] = TypeAdapter(model)
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DocumentInvalid(f"not what was written: {where}: {first['msg']}") from None


def require_bounded(document: object) -> None:
    """Refuse a value that is nested too deep or holds too large an integer.

    Raises:
        DocumentInvalid: it is, or does.
    """
    level = [document]
    for _ in range(DEEPEST + 1):  # what is in the deepest list or table counts too
        if not level:
            return
        if any(isinstance(value, int) and not -_LARGEST < value < _LARGEST for value in level):
            raise _too_large()
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list | tuple):
                inner.extend(value)
        level = inner
    if level:
        raise _too_deep()


def _too_deep() -> DocumentInvalid:
    return DocumentInvalid(f"nested more than {DEEPEST} deep, which no document of ours is")


def _too_large() -> DocumentInvalid:
    return DocumentInvalid("not for this program: an integer in it has more than 64 bits")
