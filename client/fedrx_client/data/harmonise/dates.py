"""Reads dates by a declared format, and measures the time between two of them."""

import re
from datetime import MAXYEAR, UTC, datetime, timedelta

ISO = "iso"
"""The format of dates that need no declaration: 2024-01-31, or with a time 2024-01-31T08:30."""

_DIRECTIVES = "%Y, %y, %m, %d, %H, %M, %S, %f, %b, %B, %p, %I and %%"
_KNOWN = set("YymdHMSfbBpI%")
_ISO = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?)?"
)


def check_date_format(date_format: str) -> None:
    """Raise `ValueError` unless dates can be read by the format."""
    if date_format == ISO:
        return
    given = re.findall(r"%(.?)", date_format.replace("%%", ""))
    strange = [letter for letter in given if letter not in _KNOWN]
    if strange:
        raise ValueError(f"'%{strange[0]}' is not known in a date; allowed: {_DIRECTIVES}")
    if not {"Y", "y"} & set(given):
        raise ValueError(f"a date needs its year: write '{ISO}', or for instance '%d.%m.%Y'")
    if len(set(given)) != len(given):
        raise ValueError("the format names a part of the date twice")


def read_date(text: str, date_format: str = ISO) -> datetime | None:
    """Read a date, in UTC where it has a time zone and else as it is; None if it is none."""
    try:
        if date_format != ISO:
            return datetime.strptime(text, date_format)  # noqa: DTZ007 - it has no time zone
        if not _ISO.fullmatch(text):
            return None
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    if found.tzinfo is None:
        return found
    try:
        return found.astimezone(UTC).replace(tzinfo=None)
    except OverflowError:
        return None


def years_between(start: datetime, end: datetime) -> float:
    """Return the years from one moment to another, whole at each anniversary of the first.

    Between anniversaries the share of the year that has passed is added, so that an age of 60 is
    reached on the birthday and not a leap day early or late. 29 February has its anniversary on
    1 March in other years.
    """
    if end < start:
        return -years_between(end, start)
    whole = end.year - start.year
    if _anniversary(start, whole) > end:
        whole -= 1
    last = _anniversary(start, whole)
    if start.year + whole == MAXYEAR:
        return whole + (end - last) / timedelta(days=366)  # Python has no year 10000
    return whole + (end - last) / (_anniversary(start, whole + 1) - last)


def _anniversary(of: datetime, years: int) -> datetime:
    try:
        return of.replace(year=of.year + years)
    except ValueError:  # 29 February
        return of.replace(year=of.year + years, month=3, day=1)
