"""Documents nested or large beyond sense are refused with a sentence, wherever they are read."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import with_config

from fedrx_client.data.mapping import TableMapping
from fedrx_common.canonical_json import MalformedMessage, from_json
from fedrx_common.documents import DEEPEST, STRICT, DocumentInvalid, read, read_json, read_toml
from fedrx_common.errors import DataError, StudyError
from fedrx_protocol.privacy.errors import ReleaseInvalid
from fedrx_protocol.privacy.events import Release
from fedrx_protocol.study.study import Study

LISTS = "[" * 100_000
TABLES = '{"a":' * 100_000
TOML = {
    "lists": f"a = {LISTS}",
    "closed lists": f"a = {'[' * 200}{']' * 200}",
    "tables": "a = " + "{a = " * 100_000,
    "dotted": ".".join("a" * 500) + " = 1",
    "decimal": "a = " + "9" * 5000,
    "hexadecimal": "a = 0x" + "f" * 5000,
}
JSON = {
    "lists": LISTS,
    "tables": TABLES,
    "closed lists": f'{{"a":{"[" * 200}{"]" * 200}}}',
    "decimal": f'{{"a":{"9" * 5000}}}',
    "large": f'{{"a":{2**64}}}',
    "encoding": b'{"a":"\xff"}',
}


@pytest.mark.parametrize("text", TOML.values(), ids=TOML.keys())
def test_toml(text):
    with pytest.raises(DocumentInvalid):
        read_toml(text)
    with pytest.raises(StudyError, match=r"^s\.toml: [^\n]+\.$"):
        Study.parse(text, source="s.toml")
    with pytest.raises(DataError, match=r"^m\.toml: [^\n]+\.$"):
        TableMapping.parse(text, source="m.toml")


@pytest.mark.parametrize("text", JSON.values(), ids=JSON.keys())
def test_json(text):
    with pytest.raises(DocumentInvalid):
        read_json(text)
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(MalformedMessage, match=r"^It is n[^\n]+\.$"):
        from_json(data, source="It")
    if isinstance(text, str):
        with pytest.raises(ReleaseInvalid):
            Release.from_json(text)


def test_as_deep_as_may_be():
    deep = "[" * DEEPEST + "1" + "]" * DEEPEST
    assert read_json(deep) == json.loads(deep)
    with pytest.raises(DocumentInvalid, match="deep"):
        read_json(f"[{deep}]")


@given(st.recursive(st.integers(-(2**64) + 1, 2**64 - 1) | st.text(), st.lists, max_leaves=20))
def test_ordinary_documents_are_read_as_they_are(document):
    assert read_json(json.dumps(document)) == document


@with_config(STRICT)
@dataclass(frozen=True)
class Kept:
    names: tuple[str, ...]
    kind: Literal["one", "other"] = "one"
    share: float | None = None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"names": ["a", "b"]}', Kept(("a", "b"))),
        ('{"kind": "other", "names": [], "share": 1}', Kept((), "other", 1.0)),
    ],
)
def test_a_state_file_becomes_its_dataclass(tmp_path, text, kept):
    file = tmp_path / "kept.json"
    file.write_text(text)
    assert read(file, Kept) == kept


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", "not what was written"),
        ('{"kind": "one"}', "names: Field required"),
        ('{"names": [1]}', r"names\.0: Input should be a valid string"),
        ('{"names": [], "kind": "third"}', "kind: "),
        ('{"names": [], "share": "1"}', "share: "),
        ('{"names": [], "more": 1}', "more: "),
        ('{"names": ' + LISTS, "nested more than"),
    ],
)
def test_a_state_file_of_other_fields_or_types_is_refused_with_a_reason(tmp_path, text, reason):
    file = tmp_path / "kept.json"
    file.write_text(text)
    with pytest.raises(DocumentInvalid, match=reason):
        read(file, Kept)


def test_a_state_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "gone.json", Kept)
