"""Write the shipped JSON Schemas, and the reference pages from them: `make reference`.

A test holds what is written here equal to what this script would write now.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrx.file_schemas import FileKind, make_schema

ROOT = Path(__file__).resolve().parents[1]

_INTRODUCTIONS: dict[FileKind, str] = {
    "study": """# The study file

Everything that a consortium agrees on before the first patient is touched, in one TOML file.
`fedrx study new` writes one with comments, `fedrx study check` reads it, and
[choosing a model](models.md) says which model is for what.""",
    "mapping": """# The mapping file

How a hospital's own table, records or database become the features of a study, in one TOML file.
`fedrx data propose` writes a first one and `fedrx site check` tries it. The pages on
[FHIR](data_fhir.md) and [genotypes](data_genotypes.md) show whole ones.""",
}
_TYPES = {
    "string": "text",
    "number": "number",
    "integer": "whole number",
    "boolean": "true or false",
}
# Tables that have no word of their own in the file.
_FORMS = {
    "FormulaColumn": "formula",
    "RecordColumn": "records",
    "GenotypeColumn": "genotype",
    "AbsentSource": "not measured",
}
_EDITOR = """This page is generated from the JSON Schema that FedRx ships. An editor completes and
checks the file by the same schema:

```
fedrx study schema{flag} > {name}.schema.json
```

and as the first line of the file, for editors that use Taplo (Even Better TOML in VS Code):

```
#:schema ./{name}.schema.json
```

In JetBrains' editors the same file is set under *JSON Schema Mappings*. The schema checks each key;
what concerns several keys together, `{command}` says.
"""


def page(kind: FileKind, schema: dict[str, Any]) -> str:
    """Write the reference page of a file: a section for each table, a row for each key."""
    commands = {"study": "fedrx study check", "mapping": "fedrx site check"}
    flags = {"study": "", "mapping": " --mapping"}
    head = _EDITOR.format(flag=flags[kind], name=kind, command=commands[kind])
    lines = [_INTRODUCTIONS[kind], "", head, "## The whole file", ""]
    lines += _table(schema)
    seen: set[str] = set()
    for key, value in schema["properties"].items():
        lines += _sections(_bracket(key, value), value, schema["$defs"], seen)
    return "\n".join(lines).rstrip() + "\n"


def _bracket(key: str, value: dict[str, Any]) -> str:
    if value.get("type") == "array":
        return f"[[{key}]]"
    named = "patternProperties" in value or isinstance(value.get("additionalProperties"), dict)
    return f"[{key}.NAME]" if named else f"[{key}]"


def _sections(
    place: str, value: dict[str, Any], defs: dict[str, Any], seen: set[str]
) -> Iterator[str]:
    """Write what the tables below a key say; each kind of table once."""
    for name in _tables(value):
        if name in seen:
            continue
        seen.add(name)
        table = defs[name]
        if "oneOf" in table:  # a model: one table for each
            yield from _sections(place, table, defs, seen)
            continue
        consts = [
            one["const"]
            for key, one in table["properties"].items()
            if key in ("kind", "name") and "const" in one
        ]
        form = _FORMS.get(name) or "".join(consts)
        yield from (f"## `{place}`" + (f": {form}" if form else ""), "")
        yield from (table.get("description", ""), "")
        yield from _table(table)
        for key, inner in table["properties"].items():
            below = place.strip("[]")
            yield from _sections(_bracket(f"{below}.{key}", inner), inner, defs, seen)


def _tables(value: dict[str, Any]) -> Iterator[str]:
    """Name the tables that a value can be, or hold."""
    if "$ref" in value:
        yield value["$ref"].rpartition("/")[2]
    for one in (*value.get("oneOf", ()), *value.get("anyOf", ())):
        yield from _tables(one)
    for key in ("items", "additionalProperties"):
        if isinstance(value.get(key), dict):
            yield from _tables(value[key])
    for one in value.get("patternProperties", {}).values():
        yield from _tables(one)


def _table(table: dict[str, Any]) -> Iterator[str]:
    if not table["properties"]:
        yield from ("It has no keys.", "")
        return
    yield from ("| key | value | default | meaning |", "|---|---|---|---|")
    needed = table.get("required", ())
    for key, value in table["properties"].items():
        default = "needed" if key in needed else _code(value.get("default"))
        meaning = value.get("description", "").replace("\n", " ").replace("|", "\\|")
        yield f"| `{key}` | {_value(value)} | {default} | {meaning} |"
    yield ""


def _code(value: object) -> str:
    return "" if value in (None, [], "") else f"`{json.dumps(value, ensure_ascii=False)}`"


def _value(value: dict[str, Any]) -> str:  # noqa: PLR0911 - a line for each form
    """Say in words which values are allowed."""
    if "const" in value:
        return _code(value["const"])
    if "enum" in value:
        return ", ".join(_code(one) for one in value["enum"])
    if "$ref" in value or "oneOf" in value:
        return "table"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_value(one) for one in value["anyOf"]))
    if value.get("type") == "array":
        if "prefixItems" in value:
            return f"list of {len(value['prefixItems'])}"
        inner = _value(value.get("items", {}))
        return "tables" if inner == "table" else f"list: {inner}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties") or {}
        text = isinstance(inner, dict) and inner.get("type") == "string"
        return "table: name = text" if text else "tables by name"
    bounds = [
        f"{sign} {value[key]:,}" if isinstance(value[key], int) else f"{sign} {value[key]:g}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in value
    ]
    return ", ".join([_TYPES[value["type"]], *bounds])


def written() -> dict[Path, str]:
    """Every file that this script writes, with its text."""
    files = {}
    kinds: tuple[FileKind, ...] = ("study", "mapping")
    for kind in kinds:
        schema = make_schema(kind)
        text = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        files[ROOT / "fedrx" / "schemas" / f"{kind}.schema.json"] = text
        files[ROOT / "docs" / f"{kind}-file.md"] = page(kind, schema)
    return files


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
