"""Every registered model as ONNX gives what the model gives, or says why it cannot."""

import json
from datetime import date

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from flux_cohorts import flux_schema
from omics_cohorts import omics_schema

from fedrx_common.errors import MisuseError
from fedrx_models import onnx_export
from fedrx_models.card import ModelCard, ModelUnusable
from fedrx_models.cohort.encoding import column_names
from fedrx_models.cohort.visits import VisitColumns
from fedrx_models.contract import get_vector, set_vector
from fedrx_models.files import ModelFile
from fedrx_models.onnx_export import NotExportable, export_onnx, input_names, output_names
from fedrx_models.registry import FACTORIES, build_model
from fedrx_protocol.study.study import ModelSection

REFUSED: dict[str, str] = {}  # by model: the reason; none today
CASES = [(name, "forecast") for name, one in FACTORIES.items() if one.family == "flux"]
CASES += [
    (name, "panel" if name == "drug_gene_gnn" else "continuous")
    for name, one in FACTORIES.items()
    if one.family != "flux"
]
CASES += [("linear", "binary"), ("mlp", "survival"), ("mlp", "panel")]


def shaken(name, kind):
    """A model moved away from its start, at which a forecast is the last value."""
    schema = flux_schema() if kind == "forecast" else omics_schema(kind)
    model = build_model(ModelSection(name=name), schema, seed=1)
    vector = get_vector(model)
    set_vector(model, vector + np.random.default_rng(0).normal(0, 0.1, vector.shape))
    return ModelFile(model, "ab" * 32, ModelCard(study="s", made=date(2026, 1, 2)), "cd" * 32)


def answers(written, model, patients):
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    batch = model.made_up(patients)
    given = {one.name: getattr(batch, one.name).numpy() for one in session.get_inputs()}
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, given), strict=True))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_file_gives_what_the_model_gives_or_says_why_not(name, kind):
    file = shaken(name, kind)
    if name in REFUSED:
        with pytest.raises(NotExportable, match=REFUSED[name]):
            export_onnx(file)
        return
    written = export_onnx(file)
    found = answers(written, file.model, 5)  # a number that the export did not try
    predicted = file.model.predict(file.model.made_up(5))
    first = output_names(file.model.schema)[0]
    np.testing.assert_allclose(found[first], predicted.mean, rtol=1e-5, atol=1e-5)
    if kind in {"continuous", "panel"}:
        np.testing.assert_allclose(found["low"], predicted.lower, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found["high"], predicted.upper, rtol=1e-5, atol=1e-5)
        assert not np.allclose(found["low"], found["high"])


@pytest.mark.parametrize(("name", "kind"), [("mlp", "continuous"), ("last_value", "forecast")])
def test_the_metadata_say_what_each_column_is(name, kind):
    file = shaken(name, kind)
    graph = onnx.load_model_from_string(export_onnx(file))
    told = {one.key: one.value for one in graph.metadata_props}
    schema = file.model.schema
    assert told["fedrx.digest"] == file.digest
    assert json.loads(told["fedrx.card"])["study"] == "s"
    inputs = json.loads(told["fedrx.inputs"])
    assert sorted(inputs) == sorted(one.name for one in graph.graph.input)
    assert set(inputs) <= set(input_names(schema))
    if kind == "continuous":
        assert [one["column"] for one in inputs["x"]] == list(column_names(schema))
        assert inputs["x"][0] | {"unit": "years", "mean": 60.0, "scale": 15.0} == inputs["x"][0]
        assert len(inputs["omics"]) == file.model.made_up(1).omics.shape[1]
        assert json.loads(told["fedrx.outputs"])["unit"] == "mg"
    else:
        assert len(inputs["visits"]) == VisitColumns.of(schema).size
        assert all(one["how"] for one in inputs["visits"])
    assert "a person decides" in graph.doc_string


def test_a_file_that_answers_otherwise_is_not_written(monkeypatch):
    """A trace could fix what depends on the patient; the comparison finds it."""
    other = shaken("mlp", "continuous")
    wrong = onnx_export._written(shaken("linear", "continuous").model)
    monkeypatch.setattr(onnx_export, "_written", lambda _model: wrong)
    with pytest.raises(NotExportable, match="gives another 'value'"):
        export_onnx(other)


def test_a_head_of_its_own_is_refused():
    file = shaken("linear", "continuous")
    file.model.head = torch.nn.Linear(1, 1)
    with pytest.raises(NotExportable, match="a head of its own"):
        export_onnx(file)


def test_a_withdrawn_model_is_not_exported():
    file = shaken("linear", "continuous")
    gone = ModelCard(study="s", made=date(2026, 1, 2), withdrawn="wrong")
    with pytest.raises(ModelUnusable, match="wrong"):
        export_onnx(ModelFile(file.model, file.study_digest, gone, file.digest))
    assert issubclass(NotExportable, MisuseError)
