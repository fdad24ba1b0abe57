"""Reads bundles and NDJSON exports from files: entry by entry, line by line."""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from fedrx_client.data.readers.fhir.collect import Collection, keep_all
from fedrx_client.data.readers.fhir.json_text import decoded, skip_space
from fedrx_client.data.readers.fhir.resources import Keep
from fedrx_client.data.readers.pivot import natural_key
from fedrx_client.data.readers.records import Records
from fedrx_common.errors import DataError

_PACKED = re.compile(r"\.(gz|bgz)\Z")
_LONGEST_LINE = 1 << 26
"""Characters of a line of NDJSON: one resource is never near it."""


def read_fhir(path: Path, keep: Keep = keep_all) -> Records:
    """Read a bundle (`.json`), an NDJSON export (`.ndjson`), either packed, or a folder of them.

    Args:
        path: the file or folder.
        keep: whether a record with such codes is wanted; every other one is passed over unchecked.

    Raises:
        DataError: naming file, entry and field, if anything in it cannot be used.
    """
    collection = Collection(path.name, keep)
    files = [path]
    if path.is_dir():
        names = {one: _PACKED.sub("", one.name.lower()) for one in path.iterdir() if one.is_file()}
        found = [one for one, name in names.items() if name.endswith((".json", ".ndjson"))]
        files = sorted(found, key=lambda one: natural_key(one.name))
    for file in files:
        inside = f"{file.name}, " if path.is_dir() else ""
        try:
            with _opened(file) as text:
                if _PACKED.sub("", file.name.lower()).endswith(".ndjson"):
                    _read_lines(text, collection, inside)
                else:
                    _read_bundle(text.read(), collection, inside)
        except UnicodeDecodeError:
            raise DataError(
                f"{file.name}: is not UTF-8 text, as FHIR is; export it again."
            ) from None
        except (OSError, EOFError, zlib.error) as error:  # a damaged archive is any of them
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "damaged"
            raise DataError(f"{file.name}: cannot be read: {reason}.") from None
    return collection.records()


def _opened(path: Path) -> TextIO:
    if _PACKED.search(path.name.lower()):
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _read_lines(text: TextIO, collection: Collection, inside: str) -> None:
    number = 0
    while line := text.readline(_LONGEST_LINE):
        number += 1
        place = f"{inside}line {number}"
        if len(line) == _LONGEST_LINE:
            raise DataError(f"{collection.source}, {place}: is longer than any resource of FHIR.")
        if line.strip():
            content, end = decoded(line, skip_space(line, 0), collection.source, place)
            if skip_space(line, end) != len(line):
                raise DataError(f"{collection.source}, {place}: holds more than one resource.")
            collection.add(place, content)


def _read_bundle(text: str, collection: Collection, inside: str) -> None:
    """Read a Bundle without holding more than one of its entries, or one resource alone."""
    source = collection.source
    file = inside.removesuffix(", ")
    kind, entries = "", 0
    # The entries may come before the bundle's type, so both are looked for in one pass.
    for key, value in _members(text, source, file):
        if key == "resourceType" and isinstance(value, str):
            kind = value
        elif key == "entry":
            entries += 1
            collection.add_entry(f"{inside}entry {entries}", value)
    if kind == "Bundle":
        return
    if entries or not kind:
        where = f"{source}, {file}" if file else source
        raise DataError(
            f"{where}: is not FHIR: its resourceType is missing, or not Bundle; give a bundle or "
            "an NDJSON export of FHIR R4."
        )
    content, _ = decoded(text, skip_space(text, 0), source, file or "the file")
    collection.add(f"{inside}resource 1", content)


def _members(text: str, source: str, file: str) -> Iterator[tuple[str, Any]]:
    """Give the members of the object that a text is; of the list `entry` each element by itself."""
    where = f"{source}, {file}" if file else source
    at = skip_space(text, 0)

    def expect(characters: str, what: str) -> str:
        nonlocal at
        found = text[at : at + 1]
        if not found or found not in characters:
            line = text.count("\n", 0, at) + 1
            raise DataError(f"{where}, line {line}: is not valid JSON: {what} is missing.")
        at = skip_space(text, at + 1)
        return found

    expect("{", "'{'")
    if text[at : at + 1] == "}":
        expect("}", "'}'")
    else:
        separator = ","
        while separator == ",":
            if text[at : at + 1] != '"':
                expect('"', "a name in quotes")
            key, at = decoded(text, at, source, file or "the file")
            at = skip_space(text, at)
            expect(":", "':'")
            if key == "entry" and text[at : at + 1] == "[":
                expect("[", "'['")
                inner = "]" if text[at : at + 1] == "]" and expect("]", "']'") else ","
                number = 0
                while inner == ",":
                    number += 1
                    place = f"{file}, entry {number}".removeprefix(", ")
                    value, at = decoded(text, at, source, place)
                    at = skip_space(text, at)
                    yield "entry", value
                    inner = expect(",]", "',' or ']'")
            else:
                value, at = decoded(text, at, source, file or "the file")
                at = skip_space(text, at)
                yield key, value
            separator = expect(",}", "',' or '}'")
    if at != len(text):
        raise DataError(
            f"{where}: is not valid JSON: there is more after its end; a file with "
            "a resource in each line is named .ndjson."
        )
