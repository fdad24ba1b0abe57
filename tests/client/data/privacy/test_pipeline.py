"""The pipeline's digest: what changes a cohort changes it, and nothing else does."""

import re

import pytest

from fedrx_client.data.mapping import TableMapping
from fedrx_client.data.privacy.pipeline import PipelineChanged, pipeline_digest, require_pipeline
from fedrx_protocol.study.study import Study

STUDY = """
name = "s"
[cohort]
patients = 60
largest_site = 40
[model]
name = "linear"
[target]
name = "dose"
unit = "mg/week"
minimum = 1
maximum = 400
mean = 30
scale = 10
[[features]]
name = "weight"
kind = "number"
unit = "kg"
minimum = 20
maximum = 250
mean = 80
scale = 20
"""
MAPPING = """
[table]
patient = "id"
missing = ["", "NA"]
[join]
file = "stays.csv"
by = "stay"
[target]
column = "dose"
unit = "mg/week"
[features.weight]
kind = "number"
column = "kg"
unit = "kg"
"""
SCHEMA = Study.parse(STUDY).feature_schema


def digest(text=MAPPING, source="mapping.toml"):
    return pipeline_digest(TableMapping.parse(text, source=source), SCHEMA)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("stays.csv", "aufenthalte.csv"),
        ("[features.weight]", "# a comment\n[features.weight]"),
        ('column = "kg"\nunit = "kg"', 'unit = "kg"\ncolumn = "kg"'),
        ('patient = "id"', 'patient = "id"\ndelimiter = ","'),
    ],
)
def test_names_of_files_comments_order_and_written_defaults_play_no_part(old, new):
    assert digest(MAPPING.replace(old, new)) == digest() == digest(source="other.toml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('unit = "kg"', 'unit = "lb"'),
        ('column = "kg"', 'column = "weight"'),
        ('"NA"', '"-9"'),
        ('[join]\nfile = "stays.csv"\nby = "stay"\n', ""),
        ('unit = "kg"', 'unit = "kg"\nunknown = "missing"'),
    ],
)
def test_what_changes_a_cohort_changes_it(old, new):
    assert digest(MAPPING.replace(old, new)) != digest()


def test_another_study_changes_it():
    other = Study.parse(STUDY.replace("maximum = 250", "maximum = 200")).feature_schema
    assert pipeline_digest(TableMapping.parse(MAPPING), other) != digest()


def test_a_study_that_pins_one_takes_no_other():
    mapping = TableMapping.parse(MAPPING, source="mapping.toml")
    free = Study.parse(STUDY)
    require_pipeline(free, mapping)
    require_pipeline(free.with_(cohort={"pipeline": digest()}), mapping)
    pinned = free.with_(cohort={"pipeline": "ab" * 32})
    with pytest.raises(PipelineChanged, match=re.escape("but study 's' agreed on abababababab")):
        require_pipeline(pinned, mapping)


def test_a_study_without_the_key_keeps_its_digest():
    free = Study.parse(STUDY)
    assert "pipeline" not in free.model_dump(mode="json")["cohort"]
    assert (
        free.digest == "fc2f620a50db7563e793f8b43465ed0770bf9d4e8861f7f8685477de71471427"
    )  # of the release before
    assert free.with_(cohort={"pipeline": "ab" * 32}).digest != free.digest
