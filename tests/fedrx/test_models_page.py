"""docs/models.md names every model and hyper-parameter there is, with its default."""

import json
import re
from pathlib import Path

import pytest

from fedrx.study_templates import TASKS
from fedrx_models.registry import FACTORIES
from fedrx_protocol.study.targets import TARGETS

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("model", FACTORIES)
def test_every_hyper_parameter_stands_there(model):
    shown = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", SECTIONS[model], re.MULTILINE))
    fields = FACTORIES[model].config.model_fields
    assert set(shown) == set(fields)
    for key, default in shown.items():
        value = fields[key].get_default(call_default_factory=True)
        assert default.strip("`") == json.dumps(value)


def test_every_kind_and_task_stands_there():
    for word in (*TARGETS, *TASKS):
        assert f"`{word}`" in PAGE
