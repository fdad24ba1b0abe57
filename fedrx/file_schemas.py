"""JSON Schemas of the study file and of the mapping file: editors complete and check TOML by them.

They are made from the classes that read the files, and shipped as made, so that printing one does
not wait for torch. A schema checks keys, types and ranges; `fedrx study check` and
`fedrx site check` find what concerns several keys together.
"""

from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pydantic import BaseModel

FileKind = Literal["study", "mapping"]

_TITLES = {"study": "FedRx study file", "mapping": "FedRx mapping file"}


def shipped_schema(kind: FileKind) -> str:
    """Read the shipped schema, as JSON text."""
    folder = resources.files("fedrx").joinpath("schemas")
    return folder.joinpath(f"{kind}.schema.json").read_text(encoding="utf-8")


def make_schema(kind: FileKind) -> dict[str, Any]:
    """Make the schema from the classes that read such a file, as a JSON Schema of draft 2020-12."""
    from fedrx_client.data.mapping import TableMapping
    from fedrx_models.registry import FACTORIES
    from fedrx_protocol.study.study import Study

    if kind == "mapping":
        made = _schema_of(TableMapping)
        del made["properties"]["source"]  # the file's own name, which no file gives
    else:
        made = _schema_of(Study)
        # A model's hyper-parameters are beside its name, and no others.
        models: dict[str, Any] = {}
        for name, factory in FACTORIES.items():
            table = _schema_of(factory.config)
            word = {"const": name, "type": "string", "description": "which model"}
            table["properties"] = {"name": word, **table["properties"]}
            models[f"Model.{name}"] = {**table, "required": ["name"]}
        made["$defs"] |= models
        made["$defs"]["ModelSection"] = {
            "description": made["$defs"]["ModelSection"]["description"],
            "oneOf": [{"$ref": f"#/$defs/{name}"} for name in models],
        }
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": _TITLES[kind], **made}


def _schema_of(root: "type[BaseModel]") -> dict[str, Any]:
    """Make the schema of a table of TOML: no null, and no titles that repeat a key."""
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
    from pydantic_core import core_schema

    class TomlSchema(GenerateJsonSchema):
        """Pydantic's generator, for a language that knows no null."""

        def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
            return self.generate_inner(schema["schema"])

        def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 - pydantic's
            return False

        def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
            made = super().model_schema(schema)
            made.pop("title", None)
            return made

        def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
            made = super().default_schema(schema)
            if made.get("default") is None or isinstance(made["default"], dict):
                made.pop("default", None)  # a section's defaults are those of its keys
            return made

        def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
            made = super().dict_schema(schema)
            if "patternProperties" in made:
                made["additionalProperties"] = False
            return made

    return root.model_json_schema(schema_generator=TomlSchema)
