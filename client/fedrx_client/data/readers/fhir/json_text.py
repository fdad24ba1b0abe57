"""Decodes JSON value by value, with every digit that a number is written with."""

import json
import re
from decimal import Decimal
from typing import Any

from fedrx_common.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")


def skip_space(text: str, at: int) -> int:
    """Return the place of the next character that is not white space."""
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _refuse(_text: str) -> float:
    raise ValueError


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse)


def decoded(text: str, at: int, source: str, place: str) -> tuple[Any, int]:
    """Decode the JSON value at a place; numbers keep every digit that they are written with."""
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        line = f"line {text.count(chr(10), 0, error.pos) + 1}, column {error.colno}"
        raise DataError(f"{source}, {place}: is not valid JSON ({line}).") from None
    except RecursionError:
        raise DataError(f"{source}, {place}: is nested too deeply for FHIR.") from None
    except (ValueError, ArithmeticError):  # NaN, or a number of thousands of digits
        raise DataError(f"{source}, {place}: holds a number that JSON does not have.") from None
