"""The shipped JSON Schemas are those of the classes that read the files, and so are the pages."""

import importlib.util
import json
import tomllib
from pathlib import Path

import jsonschema_rs
import pytest

from fedrx.file_schemas import shipped_schema
from fedrx.study_templates import TASKS, new_study
from fedrx_client.data.mapping import TableMapping
from fedrx_common.errors import MisuseError
from fedrx_models.registry import FACTORIES, check_config
from fedrx_protocol.study.study import Study

ROOT = Path(__file__).parents[2]
FILES = [*(ROOT / "examples").rglob("*.toml"), *(ROOT / "fedrx" / "templates").glob("*.toml")]
DOCUMENTS = {
    f"{path.parent.name}/{path.name}": tomllib.loads(path.read_text()) for path in sorted(FILES)
}
STUDIES = {name: one for name, one in DOCUMENTS.items() if "cohort" in one}
MAPPINGS = {name: one for name, one in DOCUMENTS.items() if "table" in one}


@pytest.fixture(scope="module")
def validators():
    return {
        kind: jsonschema_rs.validator_for(json.loads(shipped_schema(kind)))
        for kind in ("study", "mapping")
    }


def test_what_is_shipped_and_printed_is_what_the_classes_give():
    path = ROOT / "docs" / "generate_reference.py"
    spec = importlib.util.spec_from_file_location("generate_reference", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    old = [
        file.name
        for file, text in script.written().items()
        if file.read_text(encoding="utf-8") != text
    ]
    assert old == [], "run `make reference`"


@pytest.mark.parametrize("kind", ["study", "mapping"])
def test_a_schema_is_one_itself_and_tells_what_each_key_means(kind):
    schema = json.loads(shipped_schema(kind))
    assert jsonschema_rs.meta.is_valid(schema)
    for name, table in {"": schema, **schema["$defs"]}.items():
        for key, value in table.get("properties", {}).items():
            assert value.get("description"), f"{name}.{key}"


def test_every_file_that_we_ship_was_read():
    assert len(STUDIES) >= 9
    assert len(MAPPINGS) >= 5
    assert {*DOCUMENTS} - {*STUDIES, *MAPPINGS} == {"warfarin/services.toml"}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_that_we_ship_is_valid(validators, name):
    assert [str(one) for one in validators["study"].iter_errors(STUDIES[name])] == []


@pytest.mark.parametrize("name", MAPPINGS)
def test_every_mapping_that_we_ship_is_valid(validators, name):
    assert [str(one) for one in validators["mapping"].iter_errors(MAPPINGS[name])] == []


@pytest.mark.parametrize("model", FACTORIES)
def test_a_new_study_of_every_model_and_task_is_valid(validators, model):
    for task in TASKS:
        try:
            text = new_study(model, task)
        except MisuseError:
            continue  # not a task of this model
        assert [str(e) for e in validators["study"].iter_errors(tomllib.loads(text))] == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("privcy",), {}),
        (("privacy", "epsilom"), 1.0),
        (("privacy", "epsilon"), "1"),
        (("privacy", "epsilon"), 0.0),
        (("privacy", "mode"), "central"),
        (("model", "hidden"), [8]),  # of an mlp, not of a linear model
        (("model", "name"), "nonsense"),
        (("target", "kind"), "number"),
        (("target", "rate"), 0.5),  # of a binary target
        (("features", 0, "unit"), 3),
    ],
    ids=str,
)
def test_what_a_study_may_not_say_is_not_valid(validators, place, value):
    document = json.loads(json.dumps(STUDIES["templates/warfarin.toml"]))
    set_at(document, place, value)
    assert not validators["study"].is_valid(document)
    with pytest.raises(MisuseError):
        read(document)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("tabel",), {}),
        (("source",), "mapping.toml"),
        (("table", "delimter"), ";"),
        (("features", "Age"), {"kind": "flag", "any_of": ["x"]}),
        (("features", "sex"), {"kind": "flag", "columns": ["x"]}),
        (("features", "sex"), {"measured": True}),
        (("columns",), {"bmi": {"formula": "a / b", "unit": "kg"}}),
        (("sql",), {"tables": "cdm"}),
    ],
    ids=str,
)
def test_what_a_mapping_may_not_say_is_not_valid(validators, place, value):
    document = json.loads(json.dumps(MAPPINGS["warfarin/iwpc.toml"]))
    set_at(document, place, value)
    assert not validators["mapping"].is_valid(document)


def test_an_editor_is_given_the_keys_that_the_reader_takes(validators):
    text = '[table]\npatient = "person_id"\n[sql]\nschema = "cdm"\nvocabulary = "vocabulary"\n'
    assert validators["mapping"].is_valid(tomllib.loads(text))
    sql = TableMapping.parse(text).sql
    assert (sql.tables, sql.vocabulary) == ("cdm", "vocabulary")


def read(document):
    check_config(Study.from_document(document, source="study").model)


def set_at(document, place, value):
    *above, last = place
    for part in above:
        document = document[part]
    document[last] = value
