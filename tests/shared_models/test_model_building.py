"""A study's model section: every mistake is one sentence that names the key."""

import numpy as np
import pytest
from flux_cohorts import flux_schema
from omics_cohorts import omics_schema

from fedrx_common.errors import StudyError
from fedrx_models.contract import get_vector, weight_spec
from fedrx_models.registry import FACTORIES, build_model, check_config
from fedrx_protocol.study.study import ModelSection


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"name": "forest"}, "'model.name' is 'forest': allowed are linear, mlp."),
        (
            {"name": "linear", "hidden": [3]},
            "unknown key 'model.hidden' for model 'linear'; allowed here: huber_delta.",
        ),
        ({"name": "linear", "huber_delta": 0}, "'model.huber_delta' is 0: .*greater than 0"),
        ({"name": "linear", "huber_delta": "x"}, "'model.huber_delta' is 'x': .*number"),
        ({"name": "mlp", "hidden": []}, r"'model.hidden' is \[\]: .*at least 1"),
        ({"name": "mlp", "hidden": [8, 0]}, "'model.hidden.1' is 0: .*greater than or equal to 1"),
        ({"name": "mlp", "hidden": [8] * 9}, "'model.hidden' is .* at most 8"),
        ({"name": "mlp", "hidden": 32}, "^'model.hidden' is 32: it must be a list.$"),
        ({"name": "mlp", "hidden": [0]}, "^'model.hidden.0' is 0: it should be .* equal to 1.$"),
        ({"name": "genomic_cnn", "kernel": 4}, "^'model.kernel': a kernel must be odd"),
        (
            {"name": "genomic_transformer", "size": 30, "heads": 4},
            "^'model': size 30 must be a multiple of heads 4.$",
        ),
        ({"name": "mlp", "activation": "swish"}, "'model.activation' is 'swish': .*gelu"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(schema, keys, sentence):
    with pytest.raises(StudyError, match=sentence):
        build_model(ModelSection(**keys), schema, seed=0)


def test_every_finding_has_its_own_line():
    section = ModelSection(name="mlp", huber_delta=-1, activation="swish")
    with pytest.raises(StudyError) as error:
        check_config(section)
    assert len(str(error.value).splitlines()) == 2


def test_defaults_are_filled_in():
    assert check_config(ModelSection(name="mlp")).hidden == (32,)


@pytest.mark.parametrize("name", list(FACTORIES))
def test_a_model_remembers_how_it_was_built(name):
    schema = flux_schema() if FACTORIES[name].family == "flux" else omics_schema()
    model = build_model(ModelSection(name=name), schema, seed=0)
    assert model.name == name
    assert model.schema == schema
    assert model.config == check_config(ModelSection(name=name))


def test_without_a_seed_the_hidden_layers_differ(schema):
    first, second = (get_vector(build_model(ModelSection(name="mlp"), schema)) for _ in range(2))
    assert not np.array_equal(first, second)


def test_hidden_layers_have_the_wanted_sizes(schema):
    model = build_model(ModelSection(name="mlp", hidden=[7, 5], linear_path=False), schema, seed=0)
    # 6 columns -> 7 -> 5 -> 1, and the interval's half-width
    assert weight_spec(model).size == (6 * 7 + 7) + (7 * 5 + 5) + (5 + 1) + 1


def test_factories_cannot_be_changed():
    with pytest.raises(TypeError):
        FACTORIES["forest"] = FACTORIES["linear"]
