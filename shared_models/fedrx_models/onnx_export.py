"""Writes a trained model as an ONNX file that another program runs without FedRx.

The file's inputs are the columns of a `PatientBatch`, its outputs the prediction in the outcome's
unit, and its metadata say what each column is. Nothing is written that was not first compared with
the model itself on made-up patients.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedrx_common.errors import MisuseError
from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import column_names, outcome_count
from fedrx_models.cohort.visits import VisitColumns, forecast_target
from fedrx_models.contract import (
    Forecast,
    PatientModel,
    Prediction,
    Probability,
    SurvivalCurves,
)
from fedrx_models.files import ModelFile
from fedrx_models.heads import FORECAST_LEVEL, LEVEL, ForecastHead, OutcomeHead
from fedrx_protocol.study.schema import (
    BinaryTarget,
    CategoryFeature,
    ContinuousTarget,
    FeatureSchema,
    ForecastTarget,
    NumberFeature,
    PanelTarget,
    SurvivalTarget,
)

FORMAT = "fedrx-onnx/1"
TOLERANCE = 1e-5
"""How far an output may lie from the model's, relative to its size where that is above 1."""
_OPSET = 17
_TRIED = (1, 2, 7)  # patients; the file must take any number


class NotExportable(MisuseError):
    """A model cannot be written as ONNX; nothing was written."""


class OnnxPrediction(nn.Module):
    """A model as a function of plain tensors, predictions in the outcome's unit, float64.

    Args:
        model: trained, and set to predict.
    """

    def __init__(self, model: PatientModel) -> None:
        super().__init__()
        self.model = model
        self.names = input_names(model.schema)
        head = model.head
        if not isinstance(head, ForecastHead | OutcomeHead):
            raise NotExportable(
                f"model '{model.name}' has a head of its own, as a site's private copy: export the "
                "shared model."
            )
        # A number, not a weight, to the exporter: nothing of a patient changes it.
        self.reach = head.reach if isinstance(head, OutcomeHead) else 0.0

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Predict; what comes in and out is in `input_names` and `output_names`."""
        given = dict(zip(self.names, tensors, strict=True))
        first = tensors[0]
        x = given.get("x", first.new_zeros(first.shape[0], 0))
        schema = self.model.schema
        visits = given.get("visits", x.new_zeros(x.shape[0], 0, 0))
        if isinstance(schema.target, ForecastTarget):
            columns = visits.shape[1] * VisitColumns.of(schema).forecasts
        else:
            columns = outcome_count(schema.target)
        batch = PatientBatch(
            x=x,
            y=x.new_zeros(x.shape[0], columns),
            y_observed=x.new_zeros(x.shape[0], columns),
            omics=given.get("omics", x.new_zeros(x.shape[0], 0)),
            omics_observed=given.get("omics_observed", x.new_zeros(x.shape[0], 0)),
            visits=visits,
        )
        outputs = self.model.outputs(batch)
        head = self.model.head
        if isinstance(head, ForecastHead):
            return (_forecast(schema, head.quantiles(outputs).double(), visits.double()),)
        if not isinstance(head, OutcomeHead):
            raise TypeError(f"{type(head).__name__} is no head that can be exported.")
        return _outcome(head, outputs, self.reach)


def input_names(schema: FeatureSchema) -> tuple[str, ...]:
    """Name a file's inputs: of `PatientBatch`, those that the study has."""
    found = ["x"] if column_names(schema) else []
    found += ["omics", "omics_observed"] if schema.blocks else []
    return (*found, *(["visits"] if schema.visits is not None else []))


def output_names(schema: FeatureSchema) -> tuple[str, ...]:
    """Name a file's outputs, by kind of outcome."""
    kinds = {
        "binary": ("probability",),
        "survival": ("survival", "hazard"),
        "forecast": ("forecast",),
    }
    return kinds.get(schema.target.kind, ("value", "low", "high"))


def export_onnx(file: ModelFile) -> bytes:
    """Write a model as ONNX, and compare it with the model on made-up patients.

    Args:
        file: the model, its study and its card.

    Returns:
        The file's bytes.

    Raises:
        ModelUnusable: the model is withdrawn or expired.
        NotExportable: PyTorch cannot write it, or the two differ; in a sentence.
        MisuseError: onnx or onnxruntime is not installed.
    """
    file.require_usable()
    onnx = _library("onnx")
    model = file.model.eval()
    written = _written(model)
    described = onnx.load_model_from_string(written)
    described.doc_string = (
        f"FedRx model {file.name}: predicts {model.schema.target.name}. Research software, no "
        "medical device; a person decides. The metadata say what each input column is."
    )
    read = {one.name for one in described.graph.input}
    onnx.helper.set_model_props(described, _properties(file, read))
    whole: bytes = described.SerializeToString()
    _compare(model, whole)
    return whole


def _written(model: PatientModel) -> bytes:
    """Let PyTorch write the graph, for any number of patients.

    By tracing, which takes a second: what a trace could fix wrongly, as a number of patients, the
    comparison finds.
    """
    names, outputs = input_names(model.schema), output_names(model.schema)
    into = io.BytesIO()
    with _quietly(), torch.no_grad():
        try:
            torch.onnx.export(
                OnnxPrediction(model),
                tuple(_inputs(model, 3).values()),
                into,  # type: ignore[arg-type]  # typed as a path; a file object is written to
                dynamo=False,
                input_names=list(names),
                output_names=list(outputs),
                dynamic_axes={name: {0: "patients"} for name in (*names, *outputs)},
                opset_version=_OPSET,
            )
        except (RuntimeError, TypeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise NotExportable(
                f"model '{model.name}' cannot be written as ONNX: PyTorch's exporter has no form "
                f"for a step of it ({reason[:200].rstrip('.')})."
            ) from error
    return into.getvalue()


def _compare(model: PatientModel, written: bytes) -> None:
    """Refuse a file whose answers are not the model's."""
    runtime = _library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = runtime.InferenceSession(written, options, providers=["CPUExecutionProvider"])
    read = [one.name for one in session.get_inputs()]
    for patients in _TRIED:
        given = {name: part.numpy() for name, part in _inputs(model, patients).items()}
        try:
            found = session.run(None, {name: given[name] for name in read})
        except Exception as error:
            raise NotExportable(
                f"model '{model.name}' as ONNX does not run for {patients} patients: nothing was "
                "written."
            ) from error
        predicted = model.predict(model.made_up(patients))
        for name, got, expected in zip(
            output_names(model.schema), found, _expected(predicted), strict=True
        ):
            close = np.abs(got - expected) <= TOLERANCE * np.maximum(1.0, np.abs(expected))
            if got.shape != expected.shape or not (close | np.isnan(got + expected)).all():
                raise NotExportable(
                    f"model '{model.name}' as ONNX gives another '{name}' than the model itself "
                    f"for {patients} made-up patients: nothing was written."
                )
            if (np.isnan(got) != np.isnan(expected)).any():
                raise NotExportable(
                    f"model '{model.name}' as ONNX answers where the model cannot: nothing was "
                    "written."
                )


def _expected(predicted: object) -> tuple[NDArray[np.float64], ...]:
    if isinstance(predicted, Prediction):
        return predicted.mean, predicted.lower, predicted.upper
    if isinstance(predicted, SurvivalCurves):
        return predicted.mean, predicted.hazards
    if isinstance(predicted, Probability | Forecast):
        return (predicted.mean,)
    raise NotExportable(f"a {type(predicted).__name__} has no form in ONNX.")


def _inputs(model: PatientModel, patients: int) -> dict[str, torch.Tensor]:
    batch = model.made_up(patients)
    return {name: getattr(batch, name) for name in input_names(model.schema)}


def _outcome(head: OutcomeHead, outputs: torch.Tensor, reach: float) -> tuple[torch.Tensor, ...]:
    """What `OutcomeHead.predict` gives, as tensors."""
    target = head.target
    central = head.central(outputs).double()
    if isinstance(target, BinaryTarget):
        return (central[:, 0],)
    if isinstance(target, SurvivalTarget):
        curve = [1.0 - central[:, 0]]  # ONNX has no cumulative product
        for i in range(1, central.shape[1]):
            curve.append(curve[-1] * (1.0 - central[:, i]))
        return torch.stack(curve, dim=1), central
    ends = (central, central - reach, central + reach)
    if isinstance(target, PanelTarget):
        means = torch.tensor([drug.mean for drug in target.drugs], dtype=torch.float64)
        scales = torch.tensor([drug.scale for drug in target.drugs], dtype=torch.float64)
        return tuple((e * scales + means).clamp(target.minimum, target.maximum) for e in ends)
    if not isinstance(target, ContinuousTarget):
        raise NotExportable(f"a {target.kind} outcome has no form in ONNX here.")
    return tuple(_restored(end[:, 0], target) for end in ends)


def _restored(end: torch.Tensor, target: ContinuousTarget) -> torch.Tensor:
    value = end * target.scale + target.mean
    if target.transform == "sqrt":
        value = value.clamp(min=0.0) * value.clamp(min=0.0)
    elif target.transform == "log":
        value = value.exp()
    return value.clamp(target.minimum, target.maximum)


def _forecast(schema: FeatureSchema, changes: torch.Tensor, visits: torch.Tensor) -> torch.Tensor:
    """What `visits.restore_forecast` gives, as a tensor, `(B, T, H, M, 3)`."""
    columns = VisitColumns.of(schema)
    steps = torch.tensor(
        [horizon.change for horizon in forecast_target(schema).horizons], dtype=torch.float64
    )
    known, last = visits[:, :, columns.known], visits[:, :, columns.last]
    found = []
    for m, (marker, place) in enumerate(
        zip(schema.forecast_markers, columns.forecast, strict=True)
    ):
        ahead = last[:, :, None, None, place] + changes[:, :, :, m] * steps[:, None]
        value = ahead * marker.scale + marker.mean
        value = value.exp() if marker.transform == "log" else value
        value = value.clamp(marker.minimum, marker.maximum)
        there = (known[:, :, None, None, place] == 1).expand_as(value)
        found.append(torch.where(there, value, torch.full_like(value, float("nan"))))
    return torch.stack(found, dim=3)


def _properties(file: ModelFile, read: set[str]) -> dict[str, str]:
    """What a person or a program must know to use the file, of the inputs that it reads."""
    schema, model = file.model.schema, file.model
    inputs = _described_inputs(schema)
    told: dict[str, Any] = {
        "inputs": {name: columns for name, columns in inputs.items() if name in read},
        "outputs": _described_outputs(schema),
        "schema": schema.model_dump(mode="json"),
        "config": model.config.model_dump(mode="json"),
    }
    return {
        "fedrx.format": FORMAT,
        "fedrx.model": model.name,
        "fedrx.id": file.name,
        "fedrx.digest": file.digest,
        "fedrx.study": file.study_digest,
        "fedrx.card": "" if file.card is None else file.card.model_dump_json(),
        **{f"fedrx.{name}": json.dumps(value, ensure_ascii=False) for name, value in told.items()},
    }


def _described_inputs(schema: FeatureSchema) -> dict[str, Any]:
    """Say what each column of each input is, and how a value becomes it."""
    columns: list[dict[str, Any]] = []
    for one in schema.features:
        if isinstance(one, NumberFeature):
            is_number = {"unit": one.unit, "mean": one.mean, "scale": one.scale}
            how = "(value - mean) / scale; 0 where missing"
            columns.append({"column": one.name, "how": how, **is_number})
            columns.append({"column": f"{one.name}=missing", "how": "1 where missing, else 0"})
        elif isinstance(one, CategoryFeature):
            columns += [
                {"column": f"{one.name}={value}", "how": "1 where it is so, else 0"}
                for value in (*one.values[1:], "missing")
            ]
        else:
            columns.append({"column": one.name, "how": "1 for yes, else 0"})
            if one.optional:
                columns.append({"column": f"{one.name}=missing", "how": "1 where missing, else 0"})
    found: dict[str, Any] = {"x": columns} if columns else {}
    if schema.blocks:
        found["omics"] = [
            {"block": block.name, "gene": gene, "unit": block.unit, "mean": mean, "scale": scale}
            | {"how": "(value - mean) / scale; 0 where missing"}
            for block in schema.blocks
            for gene, mean, scale in zip(
                block.genes,
                np.broadcast_to(block.mean, len(block.genes)).tolist(),
                np.broadcast_to(block.scale, len(block.genes)).tolist(),
                strict=True,
            )
        ]
        found["omics_observed"] = [
            {"block": block.name, "how": "1 where measured, else 0"} for block in schema.blocks
        ]
    if schema.visits is not None:
        found["visits"] = _described_visits(schema)
    return found


def _described_visits(schema: FeatureSchema) -> list[dict[str, Any]]:
    """Say what each column of `visits` is, in the order of `VisitColumns`."""
    columns = VisitColumns.of(schema)
    unit = "" if schema.visits is None else schema.visits.time_unit
    found: list[dict[str, Any]] = [{"how": ""} for _ in range(columns.size)]
    places = {
        columns.valid: "1 at a visit, 0 at rows after the last",
        columns.starts: "1 where an episode starts",
        columns.gap: f"time since the visit before, {unit}",
        columns.elapsed: f"time since the episode's first visit, {unit}",
    }
    for place, how in places.items():
        found[place] = {"how": how}
    parts = {
        "value": (columns.value, "value here"),
        "observed": (columns.observed, "1 where measured here"),
        "last": (columns.last, "newest value of the episode"),
        "age": (columns.age, f"its age, {unit}; 0 where there is none"),
        "known": (columns.known, "1 where there is a newest value"),
    }
    for part, (span, how) in parts.items():
        for i, marker in enumerate(schema.markers):
            is_value = part in ("value", "last")
            scaled = f"; ({marker.transform} - mean) / scale, 0 where missing" if is_value else ""
            found[span.start + i] = {"marker": marker.name, "how": how + scaled}
            if is_value:
                found[span.start + i] |= {
                    "unit": marker.unit,
                    "mean": marker.mean,
                    "scale": marker.scale,
                }
    for i, one in enumerate(schema.treatments):
        found[columns.treatment.start + i] = {
            "treatment": one.name,
            "unit": one.unit,
            "how": f"from this visit on; amount / {one.scale:g}, or 0 and 1",
        }
    return found


def _described_outputs(schema: FeatureSchema) -> dict[str, Any]:
    """Say what comes out: names, unit, interval and transform."""
    target = schema.target
    found: dict[str, Any] = {"names": list(output_names(schema)), "kind": target.kind}
    found["of"] = target.name
    if isinstance(target, ContinuousTarget):
        found |= {"unit": target.unit, "transform": target.transform, "level": LEVEL}
    elif isinstance(target, PanelTarget):
        found |= {"unit": target.unit, "drugs": [d.name for d in target.drugs], "level": LEVEL}
    elif isinstance(target, SurvivalTarget):
        found |= {"unit": target.unit, "edges": list(target.edges)}
    elif isinstance(target, ForecastTarget):
        found |= {
            "shape": "patients, visits, horizons, markers, (median, low, high)",
            "horizons": [horizon.at for horizon in target.horizons],
            "markers": {one.name: one.unit for one in schema.forecast_markers},
            "level": FORECAST_LEVEL,
        }
    return found


def _library(name: str) -> Any:  # noqa: ANN401 - a module
    try:
        if name == "onnx":
            import onnx  # noqa: PLC0415 - an extra

            return onnx
        import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
    except ImportError:
        raise MisuseError(
            f"{name} is not installed; install FedRx with its extra `onnx`, then export again."
        ) from None
    return onnxruntime


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporter's advice to developers away from the person who exports."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
