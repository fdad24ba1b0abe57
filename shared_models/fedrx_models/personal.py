"""A private head: what a site adds to the federated model, and never sends anywhere.

It shifts and stretches the model's outputs, with one pair of numbers for each, fitted on the site's
own patients. A prior keeps both near the federated model, so that a site with few patients changes
little, and one with many corrects for its population or its laboratory. Nothing here may be part of
a message: a private head has no noise and no privacy account covers it.
"""

import copy

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from fedrx_models.cohort.batch import PatientBatch
from fedrx_models.cohort.encoding import output_count
from fedrx_models.contract import AnyPrediction, Head, ModelFileInvalid, PatientModel
from fedrx_models.fitting import searchable
from fedrx_models.flux.forecaster import Forecaster

PRIOR_SD = 0.3
"""How far sites may differ: for a shift, in normalised outputs, and for a stretch's logarithm."""
_ITERATIONS = 50


class PrivateHead(nn.Module):
    """A federated head whose outputs are shifted and stretched first.

    Args:
        shared: the federated model's head, which stays as it is.
        outputs: their number, the outputs' last dimension.
    """

    def __init__(self, shared: Head, outputs: int) -> None:
        super().__init__()
        self.shared = shared
        self.joint = shared.joint
        self.shift = nn.Parameter(torch.zeros(outputs))
        self.log_stretch = nn.Parameter(torch.zeros(outputs))

    def forward(self, outputs: torch.Tensor, batch: PatientBatch) -> torch.Tensor:
        """Compute the loss per patient, `(B,)`."""
        losses: torch.Tensor = self.shared(self._changed(outputs), batch)
        return losses

    @property
    def bounded_layers(self) -> dict[str, float]:
        """None: what is fitted here never leaves the site, so it is never clipped."""
        return {}

    def output_gradient_norms(
        self, outputs: torch.Tensor, batch: PatientBatch
    ) -> torch.Tensor | None:
        """Return those of the federated head, at the outputs that it reads."""
        return self.shared.output_gradient_norms(self._changed(outputs), batch)

    def predict(self, outputs: torch.Tensor) -> AnyPrediction:
        """Predict in the target's kind and unit."""
        return self.shared.predict(self._changed(outputs))

    def central(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return what the federated head reports at the centre."""
        return self.shared.central(self._changed(outputs))

    def penalty(self) -> torch.Tensor:
        """Compute minus the logarithm of the prior, up to a constant; a scalar."""
        return (self.shift.square().sum() + self.log_stretch.square().sum()) / (2 * PRIOR_SD**2)

    def _changed(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs * torch.exp(self.log_stretch) + self.shift


def personalise(model: PatientModel, batch: PatientBatch) -> PatientModel:
    """Copy a federated model, with a head fitted to a site's own patients.

    Args:
        model: the federated model; it is not changed.
        batch: the site's training patients; without any, the model stays as it is.
    """
    personal = searchable(model)
    private = PrivateHead(personal.head, output_count(model.schema)).to(batch.x)
    for parameter in personal.parameters():
        parameter.requires_grad = False
    personal.head = private
    if not len(batch):
        return personal
    batch = personal.prepared(batch)
    # A forecast's network is frozen and all that the head reads: once through it is enough.
    outputs = personal.outputs(batch).detach() if isinstance(personal, Forecaster) else None
    own = [private.shift, private.log_stretch]
    optimizer = torch.optim.LBFGS(own, max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def objective() -> float:
        optimizer.zero_grad()
        losses = personal(batch) if outputs is None else private(outputs, batch)
        value = losses.sum() + private.penalty()
        value.backward()
        return float(value.detach())

    optimizer.step(objective)  # type: ignore[no-untyped-call]  # torch has no type for it
    return personal


def private_head_bytes(personal: PatientModel) -> bytes:
    """Encode the private head of a model that `personalise` made, for a file at the site.

    Raises:
        TypeError: the model has no private head.
    """
    if not isinstance(personal.head, PrivateHead):
        raise TypeError("this model has no private head.")
    own = {"shift": personal.head.shift, "log_stretch": personal.head.log_stretch}
    return save({name: value.detach().cpu().contiguous() for name, value in own.items()})


def with_private_head(model: PatientModel, content: bytes, source: str) -> PatientModel:
    """Copy a federated model, with the private head that `private_head_bytes` wrote.

    Args:
        model: the federated model; it is not changed.
        content: the file's bytes.
        source: names the file in errors.

    Raises:
        ModelFileInvalid: the file is damaged, or of a model with other outputs.
    """
    try:
        found = load(content)
    except SafetensorError as error:
        raise ModelFileInvalid(f"{source}: cannot be read as safetensors: {error}.") from None
    shift, stretch = found.get("shift"), found.get("log_stretch")
    if shift is None or stretch is None or shift.ndim != 1 or shift.shape != stretch.shape:
        raise ModelFileInvalid(f"{source}: holds no private head of FedRx.")
    if not bool(torch.isfinite(torch.cat([shift, stretch])).all()):
        raise ModelFileInvalid(f"{source}: holds a weight that is not a finite number.")
    outputs = output_count(model.schema)
    if len(shift) != outputs:
        raise ModelFileInvalid(
            f"{source}: is the private head of a model with {len(shift)} outputs, not {outputs}: "
            "make it anew with `fedrx site personalise`."
        )
    personal = copy.deepcopy(model)
    private = PrivateHead(personal.head, outputs)
    with torch.no_grad():
        private.shift.copy_(shift)
        private.log_stretch.copy_(stretch)
    personal.head = private
    return personal
