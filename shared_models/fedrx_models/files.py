"""Trained models as files: safetensors with the study's digest inside; never pickle."""

import hashlib
import os
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fedrx_common.documents import DocumentInvalid, read_json
from fedrx_common.errors import StudyError
from fedrx_models.calibration.release import calibrated
from fedrx_models.card import ModelCard
from fedrx_models.cohort.cohort import Cohort
from fedrx_models.cohort.encoding import encode
from fedrx_models.contract import AnyPrediction, ModelFileInvalid, PatientModel, weight_spec
from fedrx_models.registry import build_model
from fedrx_protocol.study.schema import FeatureSchema
from fedrx_protocol.study.study import ModelSection

FORMAT = "fedrx-model/1"
MODEL_FILE = "model.safetensors"
"""Name of the file in the folder of a finished run."""
_KEYS = ("format", "study", "model", "config", "schema")


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model read from a file, the digest of the study that trained it, and its card.

    Attributes:
        model: the model.
        study_digest: digest of the study.
        card: what a person must know of it; None for a file of an older version.
        digest: SHA-256 (hex) of study, description and weights, whatever the card says.
        path: the file.
    """

    model: PatientModel
    study_digest: str
    card: ModelCard | None = None
    digest: str = ""
    path: Path = Path()

    @property
    def name(self) -> str:
        """The model in words: its study, or its file, and how its digest begins."""
        return f"{self.card.study if self.card else self.path.stem}-{self.digest[:8]}"

    def require_usable(self) -> None:
        """Refuse a model that may not predict any more.

        Raises:
            ModelUnusable: the model is withdrawn or expired.
        """
        if self.card is not None:
            self.card.require_usable(date.today(), self.name)  # noqa: DTZ011 - the hospital's day

    def predict(self, cohort: Cohort) -> AnyPrediction:
        """Predict for the patients of a cohort, in the units of the study.

        Where the card has a calibration, intervals are the calibrated ones.

        Raises:
            ModelUnusable: the model is withdrawn or expired.
            DataError: the cohort was read for another study.
        """
        self.require_usable()
        self.model.eval()
        with torch.no_grad():
            predicted = self.model.predict(encode(cohort, self.model.schema))
        if self.card is None or self.card.calibration is None:
            return predicted
        return calibrated(self.model.schema, predicted, self.card.calibration)


def save_model(
    path: Path | str, model: PatientModel, study_digest: str, card: ModelCard | None = None
) -> Path:
    """Write a model's weights, name, hyper-parameters, schema and card.

    The file gets its name only when it is complete.

    Args:
        path: where to write; its folder must exist.
        model: the model.
        study_digest: digest of the study that trained it.
        card: what a person must know before relying on it.

    Raises:
        ModelFileInvalid: if the file cannot be written.
    """
    path = Path(path)
    metadata = {
        "format": FORMAT,
        "study": study_digest,
        "model": model.name,
        "config": model.config.model_dump_json(),
        "schema": model.schema.model_dump_json(),
    }
    if card is not None:
        metadata["card"] = card.model_dump_json()
    tensors = {
        name: parameter.detach().to("cpu", torch.float32).contiguous()
        for name, parameter in model.named_parameters()
    }
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(save(tensors, metadata))
        os.replace(partial, path)  # noqa: PTH105 - the atomic replacement, by its usual name
    except OSError as error:
        raise ModelFileInvalid(f"{path}: cannot be written: {error.strerror}.") from None
    return path


def change_card(path: Path | str, **changes: object) -> ModelFile:
    """Write other values into the card of a model file: an end date, a withdrawal.

    Raises:
        ModelFileInvalid: it cannot be read or written, or has no card.
        ValidationError: a value does not fit.
    """
    found = load_model(path)
    if found.card is None:
        raise ModelFileInvalid(f"{path}: has no card; train it again with this version of FedRx.")
    card = ModelCard.model_validate({**found.card.model_dump(), **changes})
    save_model(found.path, found.model, found.study_digest, card)
    return replace(found, card=card)


def load_model(path: Path | str, expected_digest: str | None = None) -> ModelFile:
    """Read a model that `save_model` wrote.

    Args:
        path: the file, or the folder of a finished run.
        expected_digest: digest of the study that the model must belong to, if it matters.

    Raises:
        ModelFileInvalid: if the file is missing, damaged, not a FedRx model, or belongs to
            another study.
    """
    path = Path(path)
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.is_file():
        raise ModelFileInvalid(f"{path}: there is no such model file.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ModelFileInvalid(f"{path}: cannot be read as safetensors: {error}.") from None
    if any(key not in metadata for key in _KEYS) or metadata["format"] != FORMAT:
        raise ModelFileInvalid(f"{path}: is not a FedRx model file of format '{FORMAT}'.")
    digest = metadata["study"]
    if expected_digest is not None and digest != expected_digest:
        raise ModelFileInvalid(
            f"{path}: the model belongs to study {digest[:12]}, not {expected_digest[:12]}."
        )
    try:
        schema = FeatureSchema.model_validate_json(metadata["schema"])
        config = read_json(metadata["config"])
        section = ModelSection(**{**config, "name": metadata["model"]})
        model = build_model(section, schema, seed=0)
        card = ModelCard.model_validate_json(metadata["card"]) if "card" in metadata else None
    except (ValidationError, DocumentInvalid, TypeError, StudyError) as error:
        reason = str(error).splitlines()[0]
        raise ModelFileInvalid(f"{path}: its description cannot be used: {reason}") from None
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    spec = weight_spec(model)
    if found != dict(zip(spec.names, spec.shapes, strict=True)):
        raise ModelFileInvalid(f"{path}: its weights do not fit the model it describes.")
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ModelFileInvalid(f"{path}: holds a weight that is not a finite number.")
    model.load_state_dict(tensors)
    parts = [*(metadata[key].encode() for key in _KEYS), save(dict(sorted(tensors.items())))]
    content = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts))
    return ModelFile(model, digest, card, content.hexdigest(), path)
