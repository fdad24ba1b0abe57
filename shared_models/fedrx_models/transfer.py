"""A study's model, and what it starts from: random weights, or those of another study.

A study that starts from another one names its digest and the parts that stay frozen; both sides
build the same model from that. Frozen weights reach the sites with every broadcast like all others,
but their gradients are not computed, clipped, noised or sent. Layers that produce an outcome are
copied for the same outcome only.
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

# Fields that describe or judge an outcome: a weight means the same whatever their values.
_BESIDE_THE_OUTCOME = {"description", "threshold", "minimum", "maximum"}
# Hyper-parameters that need a panel, and shape only the layers that read it.
_PANEL_ONLY = {"known_responses"}


def study_model(study: Study, seed: int | None = None) -> PatientModel:
    """Build the model that a study names, with its frozen parts frozen.

    Args:
        study: the study.
        seed: see `build_model`.

    Raises:
        StudyError: the model cannot be built, a frozen part is not one of its parts, or the frozen
            parts leave nothing to train.
    """
    model = build_model(study.model, study.feature_schema, seed)
    freeze = () if study.transfer is None else study.transfer.freeze
    parts = freezable_parts(model)
    for name in freeze:
        if name not in parts:
            outer = ", ".join(part for part in parts if part.count(".") <= 1)
            raise StudyError(
                f"'transfer.freeze' names '{name}', which is no part of model '{model.name}'; its "
                f"parts are: {outer}."
            )
        model.get_submodule(name).requires_grad_(requires_grad=False)
    if freeze and not any(
        p.requires_grad for n, p in model.named_parameters() if not n.startswith("head.")
    ):
        raise StudyError("'transfer.freeze' leaves nothing to train: freeze fewer parts.")
    return model


def start_model(study: Study, seed: int | None, start: Path | None) -> PatientModel:
    """Build the model that a run begins with.

    Args:
        study: the study.
        seed: see `build_model`.
        start: model file of the study that this one starts from; `None` if it names none.

    Raises:
        MisuseError: a file is missing or not wanted, or the study cannot be built.
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
    """Mark the trained values of the flat weight vector, `(d,)`; the others are frozen."""
    parts = [np.full(p.numel(), p.requires_grad) for p in model.parameters()]
    return np.concatenate(parts)


def freezable_parts(model: PatientModel) -> tuple[str, ...]:
    """Name the parts that `freeze` may name: every module with weights in it, outermost first.

    The head's own weights, the width of its interval, are not a part: they belong to the outcome.
    """
    return tuple(
        name
        for name, module in model.named_modules()
        if name and name.partition(".")[0] != "head" and any(True for _ in module.parameters())
    )


def _require_alike(path: Path, found: ModelFile, model: PatientModel) -> None:
    """Refuse weights whose inputs or layers have another meaning than the study's."""
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
    there, here = other.schema.target, model.schema.target
    if (
        isinstance(there, ForecastTarget)
        and isinstance(here, ForecastTarget)
        and len(there.markers) == len(here.markers)
        and there.markers != here.markers
    ):  # the last layers have one shape, but belong to different markers
        raise ModelFileInvalid(
            f"{path}: forecasts as many markers as the study, but others or in another order: name "
            "the same ones, or another number of them, whose last layer starts anew."
        )


def _other_inputs(there: FeatureSchema, here: FeatureSchema) -> str:
    """Name the part of the inputs that differs, or nothing; descriptions do not count."""
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
    # A forecast's input means fade more slowly the further its horizons are.
    times = [
        (one.visits.time_unit, *(horizon.at for horizon in one.target.horizons))
        if isinstance(one.target, ForecastTarget) and one.visits is not None
        else ()
        for one in (there, here)
    ]
    return "horizons or another unit of time" if times[0] != times[1] else ""


def _copy(path: Path, source: PatientModel, model: PatientModel) -> None:
    """Copy every weight that has a place here; those of another outcome keep their start."""
    foreign = _outcome_weights(source.schema.target, model)
    given = {name: value for name, value in source.named_parameters() if name not in foreign}
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


def _outcome_weights(source: Target, model: PatientModel) -> set[str]:
    """Name the weights that depend on the outcome; none if the source's outcome is the same.

    They are those that the same model, built for an outcome of another size, lacks or shapes
    differently.
    """
    target = model.schema.target
    one, other = (outcome.model_dump(exclude=_BESIDE_THE_OUTCOME) for outcome in (source, target))
    # `_require_alike` lets a forecast pass only if its outputs mean the same.
    if isinstance(target, ForecastTarget) or one == other:
        return set()
    # An outcome with another number of outputs that is not a panel and has no interval.
    edges = (1.0, 2.0) if outcome_count(target) == 1 else (1.0,)
    sized = SurvivalTarget(kind="survival", name=target.name, time_unit="any", edges=edges)
    schema = model.schema.model_copy(update={"target": sized})
    section = ModelSection(name=model.name, **model.config.model_dump(exclude=_PANEL_ONLY))
    shapes = {n: p.shape for n, p in build_model(section, schema, seed=0).named_parameters()}
    return {name for name, p in model.named_parameters() if shapes.get(name) != p.shape}
