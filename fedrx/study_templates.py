"""Study files to start from: a task's template, with any model that can do the task.

The section of the model is written from the model's own configuration, so that every
hyper-parameter is there with its default and its meaning, and none can be forgotten.
"""

import json
import re
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

from fedrx_common.errors import MisuseError
from fedrx_models.contract import UNDER_NOISE
from fedrx_models.registry import FACTORIES, build_model, family_of, models_of
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection, Study

TASKS: Mapping[str, str] = MappingProxyType(
    {
        "dose": "warfarin.toml",
        "response": "response.toml",
        "toxicity": "toxicity.toml",
        "survival": "survival.toml",
        "forecast": "forecast.toml",
        "anticoagulation": "anticoagulation.toml",
    }
)
"""Template of each task."""

_DEFAULT_TASK = "response"
_FLUX_TASK = "forecast"
_DOSE_MODELS = ("linear", "mlp")  # what takes the dosing study's columns best
_SECTION = re.compile(r"(?:^#[^\n]*\n)*^\[model\]\n(?:^[^\n]+\n)*", re.MULTILINE)
# The dosing study's long plain steps are for those models; any other would leap out of all bounds.
_LONG_STEPS = {"name": "sgd", "learning_rate": 2.0}
_SHORT_STEPS = {"name": "adam", "learning_rate": 0.02}


def template(task: str) -> str:
    """Read a task's study file."""
    folder = resources.files("fedrx").joinpath("templates")
    return folder.joinpath(TASKS[task]).read_text(encoding="utf-8")


def new_study(model: str | None, task: str | None) -> str:
    """The text of a study file that works.

    Args:
        model: the model; the one in the task's template if left out.
        task: one of `TASKS`; the one that the model is mostly used for if left out.

    Raises:
        MisuseError: unknown model or task, or the model cannot do it; says what is there.
    """
    if model is not None and model not in FACTORIES:
        raise MisuseError(f"--model is '{model}': use {_either(FACTORIES)}.")
    chosen = task or _usual_task(model)
    if chosen not in TASKS:
        raise MisuseError(f"--task is '{chosen}': use {_either(TASKS)}.")
    text = template(chosen)
    start = Study.parse(text)
    if model is not None and model != start.model.name:
        section = model_section(model, private=start.privacy.mode != "none")
        text = _SECTION.sub(lambda _: section, text, count=1)
    if model not in (None, *_DOSE_MODELS):
        text = text.replace(_optimizer_lines(_LONG_STEPS), _optimizer_lines(_SHORT_STEPS))
    study = Study.parse(text, source=f"--model {model} --task {chosen}")
    _check_can(study, chosen)
    return text


def _optimizer_lines(steps: Mapping[str, object]) -> str:
    lines = [f"{key} = {json.dumps(value)}" for key, value in steps.items()]
    return "\n".join(["[training.optimizer]", *lines, ""])


def fitting_steps(model: str, optimizer: Mapping[str, object]) -> dict[str, object]:
    """A study's optimizer, with the steps that a new study file would give a model.

    Args:
        model: its name.
        optimizer: as in the study; only the dosing study's steps are replaced.
    """
    long = optimizer.items() >= _LONG_STEPS.items()
    return {**optimizer, **(_SHORT_STEPS if long and model not in _DOSE_MODELS else {})}


def _check_can(study: Study, task: str) -> None:
    """The model must be able to do the task with what its template measures."""
    schema, model = study.feature_schema, study.model.name
    if not _can(model, schema):
        able = {name: None for name in FACTORIES if _can(name, schema)}
        raise MisuseError(
            f"--model is '{model}', which cannot do --task {task}: use {_either(able)}, or leave "
            "one of the two out."
        )


def _can(model: str, schema: FeatureSchema) -> bool:
    """Whether a model is for such outcomes, and at its defaults finds all that it needs."""
    try:
        build_model(ModelSection(name=model), schema, seed=0)
    except MisuseError:
        return False
    return model in models_of(family_of(schema))


def model_section(model: str, *, private: bool) -> str:
    """The `[model]` section with every hyper-parameter in words, at its default.

    Where noise is added, at what is better then, if the configuration names it.
    """
    factory = FACTORIES[model]
    lines = [f'name = "{model}"']
    better = under_noise(model) if private else {}
    for key, field in factory.config.model_fields.items():
        value = better.get(key, field.get_default(call_default_factory=True))
        # JSON's numbers, texts and lists are TOML's too, but TOML has no word for nothing.
        line = f"# {key} =" if value is None else f"{key} = {json.dumps(value)}"
        lines.append(line + (f"  # {field.description}" if field.description else ""))
    return "\n".join(["[model]", *lines, ""])


def under_noise(model: str) -> dict[str, object]:
    """Hyper-parameters that a model wants where noise is added, other than its defaults.

    Args:
        model: its name; nothing is known of one that does not exist.
    """
    factory = FACTORIES.get(model)
    fields = {} if factory is None else factory.config.model_fields
    extras = {key: field.json_schema_extra for key, field in fields.items()}
    return {
        key: extra[UNDER_NOISE]
        for key, extra in extras.items()
        if isinstance(extra, dict) and UNDER_NOISE in extra
    }


def _usual_task(model: str | None) -> str:
    if model is None or model in _DOSE_MODELS:
        return "dose"
    return _FLUX_TASK if model in models_of("flux") else _DEFAULT_TASK


def _either(words: Mapping[str, object]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"
