"""A study's model, and what it starts from: random weights, or those of another study.

A study that starts from another one names its digest and the parts that stay frozen; both sides
build the same model from that. Frozen weights reach the sites with every broadcast like all others,
but no gradient of theirs is computed, clipped, noised or sent. Layers that give an outcome are
taken over for the same outcome only.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedrx_common.errors import MisuseError, StudyError
from fedrx_models.cohort.encoding import outcome_count
from fedrx_models.contract import ModelFileInvalid, PatientModel
from fedrx_models.files import ModelFile, load_model
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import FeatureSchema, ForecastTarget, SurvivalTarget, Target
from fedrx_protocol.study.study import ModelSection, Study

# Of an outcome, what describes or judges it: a weight means the same whatever these are.
_BESIDE_THE_OUTCOME = {"description", "threshold", "minimum", "maximum"}
# Hyper-parameters that ask for a panel, and shape nothing but what reads it.
_PANEL_ONLY = {"known_responses"}


def study_model(study: Study, seed: int | None = None) -> PatientModel:
    """The model that a study names, its frozen parts frozen, with start weights by the seed.

    Args:
        study: the study.
        seed: see `build_model`.

    Raises:
        StudyError: the model cannot be built, or a frozen part is none of its parts.
    """
    model = build_model(study.model, study.feature_schema, seed)
    if study.transfer is not None:
        _freeze(model, study.transfer.freeze)
    return model


def start_model(study: Study, seed: int | None, start: Path | None) -> PatientModel:
    """The model that a run begins with.

    Args:
        study: the study.
        seed: see `build_model`.
        start: model file of the study that this one starts from; `None` if it names none.

    Raises:
        MisuseError: a file is missing or too much, or the study cannot be built.
        ModelFileInvalid: the file is damaged, of another study, or of another model.
    """
    model = study_model(study, seed)
    if study.transfer is None:
        if start is not None:
            raise MisuseError(
                f"{start}: study '{study.name}' starts from no other study; name its digest as "
                "'study' in a section [transfer] of the study file."
            )
        return model
    if start is None:
        raise MisuseError(
            f"study '{study.name}' starts from the model of study {study.transfer.study[:12]}: "
            "give that study's model.safetensors with --start-from."
        )
    found = load_model(start, expected_digest=study.transfer.study)
    _require_alike(start, found, model)
    _copy(start, found.model, model)
    return model


def trained_positions(model: PatientModel) -> NDArray[np.bool_]:
    """Which values of the flat weight vector are trained, `(d,)`; the others are frozen."""
    parts = [np.full(p.numel(), p.requires_grad) for p in model.parameters()]
    return np.concatenate(parts)


def freezable_parts(model: PatientModel) -> tuple[str, ...]:
    """Names of the parts that `freeze` may name: every module with weights in it, outermost first.

    The head's own weights, the width of its interval, are no part: they belong to the outcome.
    """
    return tuple(
        name
        for name, module in model.named_modules()
        if name and name.partition(".")[0] != "head" and any(True for _ in module.parameters())
    )


def _freeze(model: PatientModel, names: tuple[str, ...]) -> None:
    parts = freezable_parts(model)
    for name in names:
        if name not in parts:
            outer = ", ".join(part for part in parts if part.count(".") <= 1)
            raise StudyError(
                f"'transfer.freeze' names '{name}', which is no part of model '{model.name}'; its "
                f"parts are: {outer}."
            )
        model.get_submodule(name).requires_grad_(requires_grad=False)
    if names and not any(
        p.requires_grad for n, p in model.named_parameters() if not n.startswith("head.")
    ):
        raise StudyError("'transfer.freeze' leaves nothing to train: freeze fewer parts.")


def _require_alike(path: Path, found: ModelFile, model: PatientModel) -> None:
    """Refuse weights whose inputs or layers mean something else than the study's."""
    other = found.model
    if other.name != model.name:
        raise ModelFileInvalid(
            f"{path}: holds a model '{other.name}', but the study trains '{model.name}': take the "
            "weights of a study with the same model."
        )
    if other.config != model.config:
        before, after = other.config.model_dump(), model.config.model_dump()
        key = next(key for key in after if before.get(key) != after[key])
        raise ModelFileInvalid(
            f"{path}: was trained with model.{key} = {before.get(key)!r}, but the study has "
            f"{after[key]!r}: use the same hyper-parameters."
        )
    part = _other_inputs(other.schema, model.schema)
    if part:
        raise ModelFileInvalid(
            f"{path}: was trained on other {part} than the study's: weights mean something for "
            "the same inputs only."
        )
    if _other_forecast(other.schema, model.schema):
        raise ModelFileInvalid(
            f"{path}: forecasts as many markers as the study, but others or in another order: name "
            "the same ones, or another number of them, whose last layer starts anew."
        )


def _other_inputs(there: FeatureSchema, here: FeatureSchema) -> str:
    """What of the inputs differs, in a word; descriptions do not count."""
    for part in ("features", "blocks", "markers", "treatments"):
        pairs = [
            [one.model_dump(exclude={"description"}) for one in getattr(schema, part)]
            for schema in (there, here)
        ]
        if pairs[0] != pairs[1]:
            return part
    edges = [None if one.graph is None else one.graph.edges for one in (there, here)]
    if edges[0] != edges[1]:
        return "edges of the graph"
    times = [_times(one) for one in (there, here)]
    return "horizons or another unit of time" if times[0] != times[1] else ""


def _times(schema: FeatureSchema) -> tuple[object, ...]:
    """What a forecast's inputs mean in time: its means fade as fast as its horizons are far."""
    if not isinstance(schema.target, ForecastTarget) or schema.visits is None:
        return ()
    return (schema.visits.time_unit, *(horizon.at for horizon in schema.target.horizons))


def _other_forecast(there: FeatureSchema, here: FeatureSchema) -> bool:
    """Whether the last layers have one shape and belong to different markers."""
    targets = there.target, here.target
    if not isinstance(targets[0], ForecastTarget) or not isinstance(targets[1], ForecastTarget):
        return False
    one, other = targets[0].markers, targets[1].markers
    return len(one) == len(other) and one != other


def _copy(path: Path, source: PatientModel, model: PatientModel) -> None:
    """Take over every weight that has a place here; another outcome's own start anew."""
    anew = set() if _same_outcome(source.schema, model.schema) else _outcome_weights(model)
    given = {name: value for name, value in source.named_parameters() if name not in anew}
    taken = False
    for name, parameter in model.named_parameters():
        value = given.get(name)
        if value is not None and value.shape == parameter.shape:
            taken = True
            with torch.no_grad():
                parameter.copy_(value)
        elif not parameter.requires_grad:
            raise ModelFileInvalid(
                f"{path}: has no '{name}' for this outcome, which the study freezes: it depends on "
                "the outcome, so leave it out of 'transfer.freeze'."
            )
    if not taken:
        raise ModelFileInvalid(
            f"{path}: was trained for another outcome, and model '{model.name}' has no layer "
            "before those of the outcome: there is nothing to start from."
        )


def _same_outcome(there: FeatureSchema, here: FeatureSchema) -> bool:
    """Whether outputs mean the same; a forecast's do wherever `_require_alike` let it pass."""
    if isinstance(here.target, ForecastTarget):
        return True
    one, other = (schema.target.model_dump(exclude=_BESIDE_THE_OUTCOME) for schema in (there, here))
    return one == other


def _outcome_weights(model: PatientModel) -> set[str]:
    """Names of the weights that speak of the outcome.

    They are those that the same model for an outcome of another size lacks or shapes otherwise.
    """
    schema = model.schema.model_copy(update={"target": _other_sized(model.schema.target)})
    section = ModelSection(name=model.name, **model.config.model_dump(exclude=_PANEL_ONLY))
    shapes = {n: p.shape for n, p in build_model(section, schema, seed=0).named_parameters()}
    return {name for name, p in model.named_parameters() if shapes.get(name) != p.shape}


def _other_sized(target: Target) -> SurvivalTarget:
    """An outcome of another number of outputs, that is no panel and has no interval."""
    edges = (1.0, 2.0) if outcome_count(target) == 1 else (1.0,)
    return SurvivalTarget(kind="survival", name=target.name, time_unit="any", edges=edges)
