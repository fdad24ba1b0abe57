"""From the study's `[model]` section to a model: an explicit table of factories, nothing else."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from pydantic import BaseModel, ValidationError

from fedrx_common.errors import StudyError
from fedrx_models.contract import PatientModel
from fedrx_models.flux.last_value import LastValueConfig, build_last_value
from fedrx_models.flux.linear_mixed import LinearMixedConfig, build_linear_mixed
from fedrx_models.flux.lstm import LstmConfig, build_lstm
from fedrx_models.flux.pathway_gnn import PathwayGnnConfig, build_pathway_gnn
from fedrx_models.flux.tcn import TcnConfig, build_tcn
from fedrx_models.flux.transformer import TransformerConfig, build_transformer
from fedrx_models.pharmacogenomic.drug_gene_gnn import DrugGeneGnnConfig, build_drug_gene_gnn
from fedrx_models.pharmacogenomic.genomic_cnn import GenomicCnnConfig, build_genomic_cnn
from fedrx_models.pharmacogenomic.genomic_transformer import (
    GenomicTransformerConfig,
    build_genomic_transformer,
)
from fedrx_models.pharmacogenomic.linear import LinearConfig, build_linear
from fedrx_models.pharmacogenomic.mlp import MlpConfig, build_mlp
from fedrx_models.pharmacogenomic.multiomics_vae import MultiomicsVaeConfig, build_multiomics_vae
from fedrx_protocol.study.schema import FeatureSchema, ForecastTarget
from fedrx_protocol.study.study import ModelSection
from fedrx_protocol.study.validation import own, sentence_of

Family = Literal["pharmacogenomic", "flux"]
"""What a model predicts: an outcome of a patient, or markers over time."""


@dataclass(frozen=True)
class Factory:
    """How a model is configured and built, and for which family of outcomes."""

    config: type[BaseModel]
    build: Callable[[Any, FeatureSchema, torch.Generator], PatientModel]
    family: Family = "pharmacogenomic"


FACTORIES: Mapping[str, Factory] = MappingProxyType(
    {
        "linear": Factory(LinearConfig, build_linear),
        "mlp": Factory(MlpConfig, build_mlp),
        "genomic_cnn": Factory(GenomicCnnConfig, build_genomic_cnn),
        "genomic_transformer": Factory(GenomicTransformerConfig, build_genomic_transformer),
        "drug_gene_gnn": Factory(DrugGeneGnnConfig, build_drug_gene_gnn),
        "multiomics_vae": Factory(MultiomicsVaeConfig, build_multiomics_vae),
        "last_value": Factory(LastValueConfig, build_last_value, "flux"),
        "linear_mixed": Factory(LinearMixedConfig, build_linear_mixed, "flux"),
        "tcn": Factory(TcnConfig, build_tcn, "flux"),
        "lstm": Factory(LstmConfig, build_lstm, "flux"),
        "transformer": Factory(TransformerConfig, build_transformer, "flux"),
        "pathway_gnn": Factory(PathwayGnnConfig, build_pathway_gnn, "flux"),
    }
)


def models_of(family: Family) -> tuple[str, ...]:
    """Name a family's models."""
    return tuple(name for name, factory in FACTORIES.items() if factory.family == family)


def family_of(schema: FeatureSchema) -> Family:
    """Return the family of models that can predict the study's target."""
    return "flux" if isinstance(schema.target, ForecastTarget) else "pharmacogenomic"


def build_model(
    section: ModelSection, schema: FeatureSchema, seed: int | None = None
) -> PatientModel:
    """Build the model that a study names.

    Args:
        section: name and hyper-parameters.
        schema: the study's features and target.
        seed: fixes the start weights; `None` draws a seed from the operating system. That is right
            for a coordinator: every site receives its start weights.

    Raises:
        StudyError: if the model is not known or a hyper-parameter is unknown or impossible.
    """
    factory = _factory(section.name)
    config = check_config(section)
    family = family_of(schema)
    if factory.family != family:
        does = "forecasts markers" if factory.family == "flux" else "forecasts no markers"
        raise StudyError(
            f"'model.name' is '{section.name}', which {does}, but 'target.kind' is "
            f"'{schema.target.kind}': use {', '.join(models_of(family))}."
        )
    generator = torch.Generator(device="cpu")
    generator.manual_seed(secrets.randbits(63) if seed is None else seed)
    return factory.build(config, schema, generator)


def check_config(section: ModelSection) -> BaseModel:
    """Validate a model's hyper-parameters and fill in defaults; raises as `build_model` does."""
    factory = _factory(section.name)
    try:
        return factory.config.model_validate(section.parameters)
    except ValidationError as error:
        sentences = []
        for item in own(error.errors()):
            sentence = f"{sentence_of(item, 'model')}."
            if item["type"] == "extra_forbidden":
                key, allowed = item["loc"][0], ", ".join(factory.config.model_fields)
                model = f"model '{section.name}'"
                sentence = f"unknown key 'model.{key}' for {model}; allowed here: {allowed}."
            sentences.append(sentence)
        raise StudyError(*sentences) from None


def _factory(name: str) -> Factory:
    if name not in FACTORIES:
        raise StudyError(f"'model.name' is '{name}': allowed are {', '.join(FACTORIES)}.")
    return FACTORIES[name]
