"""The models both sides agree on, their contract and their metrics."""

from fedrx_models.build import FACTORIES, build_model, check_config
from fedrx_models.cohort import Cohort, concatenate
from fedrx_models.contract import (
    PatientBatch,
    PatientModel,
    Prediction,
    get_vector,
    set_vector,
    weight_spec,
)
from fedrx_models.encoding import column_names, encode
from fedrx_models.errors import ModelFileInvalid, ModelMismatch
from fedrx_models.files import ModelFile, load_model, save_model
from fedrx_models.metrics import DoseMetrics, MetricPlan, exact

__all__ = [
    "FACTORIES",
    "Cohort",
    "DoseMetrics",
    "MetricPlan",
    "ModelFile",
    "ModelFileInvalid",
    "ModelMismatch",
    "PatientBatch",
    "PatientModel",
    "Prediction",
    "build_model",
    "check_config",
    "column_names",
    "concatenate",
    "encode",
    "exact",
    "get_vector",
    "load_model",
    "save_model",
    "set_vector",
    "weight_spec",
]
