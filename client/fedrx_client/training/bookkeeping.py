"""Clipped gradient sums with one forward and one backward pass, and the trial that admits them.

Book-keeping is right only if every trained parameter acts through a layer with a rule, and every
such layer has patients on its first axis. A model's source shows neither, so a model is tried once:
a few made-up patients together must give what each gives alone. A model that fails, or that cannot
make up patients, is handled by `vmapped`, which needs no such trust.

The verdict follows from the model alone: its layers, which of them are trained, its schema. A
site's patients and the coordinator's weights do not change it. The two methods round differently,
so a patient who decided between them would decide the last digits of all others.
"""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fedrx_client.training.errors import UnsupportedModel
from fedrx_client.training.layers import rule_for
from fedrx_client.training.matrix_layers import LayerGradients, LayerRecord, own_parameters
from fedrx_client.training.parameters import Batch, MakesUp, flat, patient_losses, trained

TRIAL_TOLERANCE = 1e-3
TRIAL_PATIENTS = 8

LONGEST = 1e19
"""A gradient longer than this is beyond float32, in which its square is infinite."""

_verdicts: WeakKeyDictionary[nn.Module, tuple[tuple[str, ...], bool]] = WeakKeyDictionary()


class NotCovered(Exception):
    """A forward pass used a layer in a way that the closed forms do not describe."""


@dataclass
class _Record:
    """Uses of the trained layers in one forward pass."""

    patients: int
    layers: list[str] = field(default_factory=list)
    activations: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    edges: list[GradientEdge] = field(default_factory=list)

    def add(
        self,
        name: str,
        _: nn.Module,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        output: object,
    ) -> None:
        """Note one use, as a forward hook of a layer; both sides must hold patients first."""
        tensors = (*arguments, *keywords.values(), output)
        if len(tensors) != 2 or not all(isinstance(t, Tensor) for t in tensors):
            raise NotCovered(name)
        if any(t.ndim < 1 or t.shape[0] != self.patients for t in tensors):
            raise NotCovered(name)
        self.layers.append(name)
        self.activations.append(tensors[0].detach())
        self.versions.append(tensors[0]._version)  # noqa: SLF001 - the only way to see in-place edits
        # The edge, not the tensor: an in-place ReLU would later put its own output there.
        self.edges.append(get_gradient_edge(tensors[1]))

    def uses(self, losses: Tensor) -> dict[str, list[LayerRecord]]:
        """Return pairs of activation and backprop by layer, from one backward pass."""
        now = [a._version for a in self.activations]  # noqa: SLF001 - as above
        if now != self.versions:
            raise NotCovered("an activation was changed in place")
        backprops = torch.autograd.grad(losses.sum(), self.edges, allow_unused=True)
        uses: dict[str, list[LayerRecord]] = {}
        for name, activation, backprop in zip(
            self.layers, self.activations, backprops, strict=True
        ):
            if backprop is not None:
                uses.setdefault(name, []).append((activation, backprop))
        return uses


@dataclass(frozen=True)
class PatientGradients:
    """What clipping needs of a batch's gradients.

    Attributes:
        uses: pairs of activation and backprop of each layer that was used.
        layers: the gradients of those layers, by name.
        squared: each patient's squared L2 norm in each of them, `(B,)`.
        norms: L2 norm of each patient's gradient, `(B,)`.
    """

    model: nn.Module
    uses: dict[str, list[LayerRecord]]
    layers: dict[str, LayerGradients]
    squared: dict[str, Tensor]
    norms: Tensor

    @classmethod
    def of(
        cls, model: nn.Module, uses: dict[str, list[LayerRecord]], losses: Tensor
    ) -> "PatientGradients":
        """Make those of one pass, from the records of its layers."""
        with torch.no_grad():
            layers = {}
            for name, some in uses.items():
                layer = model.get_submodule(name)
                rule = rule_for(layer)
                if rule is None:
                    raise NotCovered(name)
                layers[name] = rule(layer, some)
            squared = {name: layer.squared_norm for name, layer in layers.items()}
            norms = sum(squared.values(), losses.new_zeros(len(losses))).sqrt()
        return cls(model, uses, layers, squared, norms)

    def only(self, rows: Tensor) -> "PatientGradients":
        """Set the gradients of all other rows to 0; `rows` is bool `(B,)`.

        Shapes stay, so that no bit changes in the rows that are kept. A factor of 0 would not do:
        0 * nan is nan.
        """

        def kept(tensor: Tensor) -> Tensor:
            return tensor.masked_fill(~rows.reshape(-1, *[1] * (tensor.ndim - 1)), 0)

        uses = {name: [(kept(a), kept(g)) for a, g in some] for name, some in self.uses.items()}
        return PatientGradients.of(self.model, uses, self.norms)

    def lengths(self, name: str) -> Tensor:
        """Return the L2 norm of each patient's gradient in one layer, `(B,)`; 0 where unused."""
        squared = self.squared.get(name)
        return torch.zeros_like(self.norms) if squared is None else squared.sqrt()

    def lengths_without(self, names: Collection[str]) -> Tensor:
        """Return the L2 norm of each patient's gradient in all layers but these, `(B,)`."""
        others = [squared for name, squared in self.squared.items() if name not in names]
        return sum(others, torch.zeros_like(self.norms)).sqrt()

    def weighted_sum(self, factors: Tensor, apart: Mapping[str, Tensor] = {}) -> Tensor:
        """Sum factor times gradient over patients, `(d,)`; `apart` has some layers' factors."""
        parts = {}
        for name, layer in self.layers.items():
            sums = layer.weighted_sum(apart.get(name, factors))
            parts.update({f"{name}.{own}" if name else own: g for own, g in sums.items()})
        return flat(parts, self.model)


def patient_gradients(model: nn.Module, batch: Batch) -> PatientGradients:
    """Run one forward and one backward pass over a batch of at least one patient.

    Raises:
        MixesPatients: the model's loss is not one per patient.
        NotCovered: a layer was used in a way that the closed forms do not describe.
    """
    record = _Record(len(batch))
    handles = [
        layer.register_forward_hook(partial(record.add, name), with_kwargs=True)
        for name, layer in model.named_modules()
        if own_parameters(layer)
    ]
    try:
        with torch.enable_grad():
            losses = patient_losses(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if not record.edges or not losses.requires_grad:
        raise NotCovered("no trained layer was used")
    return PatientGradients.of(model, record.uses(losses), losses.detach())


def has_rules(model: nn.Module) -> bool:
    """Return whether every trained parameter belongs to exactly one layer, and that has a rule."""
    owners = [layer for layer in model.modules() if own_parameters(layer)]
    parameters = [id(p) for layer in owners for p in own_parameters(layer).values()]
    unshared = len(parameters) == len(set(parameters))
    return bool(owners) and unshared and all(rule_for(layer) for layer in owners)


def is_admitted(model: nn.Module) -> bool:
    """Return whether book-keeping is right for this model, by trial on made-up patients.

    The answer is the same at every site, for every model of this kind with the same trained
    parameters.
    """
    names = tuple(trained(model))
    known = _verdicts.get(model)
    if known is None or known[0] != names:
        known = (
            names,
            has_rules(model)
            and isinstance(model, MakesUp)
            and _passes_trial(model, model.made_up(TRIAL_PATIENTS)),
        )
        _verdicts[model] = known
    return known[1]


def _passes_trial(model: nn.Module, batch: Batch) -> bool:
    """Try a copy on the CPU in evaluation mode, its weights replaced by public random ones.

    A model of which too few made-up patients have a gradient fails.
    """
    stand_in = copy.deepcopy(model).cpu().eval()
    generator = torch.Generator().manual_seed(0)  # decides a method, never noise
    with torch.no_grad():
        for parameter in stand_in.parameters():
            inputs = parameter[0].numel() if parameter.ndim > 1 else 1
            drawn = torch.randn(parameter.shape, generator=generator) / max(1, inputs) ** 0.5
            parameter.copy_(drawn)
    positions = torch.arange(TRIAL_PATIENTS)
    try:
        alone = torch.stack([plain_gradient(stand_in, batch.select(i[None])) for i in positions])
        together = patient_gradients(stand_in, batch)
        factors = torch.linspace(1.0, 0.5, TRIAL_PATIENTS)
        with torch.no_grad():
            total = together.weighted_sum(factors)
    except (UnsupportedModel, NotCovered, RuntimeError):
        return False
    judged = bool(alone.isfinite().all()) and int((alone.norm(dim=1) > 0).sum()) >= 2
    return judged and _close(together.norms, alone.norm(dim=1)) and _close(total, factors @ alone)


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= TRIAL_TOLERANCE * expected.norm())


def plain_gradient(model: nn.Module, batch: Batch) -> Tensor:
    """Compute the gradient of the summed loss by autograd, `(d,)`.

    Raises:
        MixesPatients: the model's loss is not one per patient.
        UnsupportedModel: autograd refuses the model.
    """
    with torch.enable_grad():
        losses = patient_losses(model, batch)
    weights = trained(model)
    if not losses.requires_grad:
        return flat({}, model)
    try:
        found = torch.autograd.grad(losses.sum(), list(weights.values()), allow_unused=True)
    except RuntimeError as error:
        raise UnsupportedModel(
            "This model cannot be differentiated; an activation changed in place is a common "
            f"cause: {str(error).splitlines()[0]}"
        ) from error
    parts = {n: g for n, g in zip(weights, found, strict=True) if g is not None}
    return flat(parts, model)
