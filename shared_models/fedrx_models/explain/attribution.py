"""What lies between a patient's prediction and the reference's, divided among the patient's parts.

Shapley values (Shapley 1953; Lundberg, Lee 2017, arXiv:1705.07874) are exact where a model adds its
inputs up, or where few parts differ from the reference. Otherwise they are sampled, or a path
between the two is followed (Sundararajan et al. 2017, arXiv:1703.01365), by `captum`. LIME (Ribeiro
et al. 2016, arXiv:1602.04938) fits a straight line near the patient, held here at both ends. All
methods add up to the difference.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from captum._utils.models.model import Model
from captum.attr import IntegratedGradients, KernelShap, Lime, ShapleyValueSampling
from captum.attr._core.lime import get_exp_kernel_similarity_function
from torch.utils.data import DataLoader

from fedrx_common.errors import MisuseError
from fedrx_models.explain.game import Game

Method = Literal["auto", "exact", "kernel_shap", "shapley_sampling", "lime", "integrated_gradients"]
METHODS: tuple[Method, ...] = (
    "auto",
    "exact",
    "kernel_shap",
    "shapley_sampling",
    "lime",
    "integrated_gradients",
)

FEW = 12
"""Parts that differ from the reference, up to which `auto` counts all coalitions: 4096."""
MOST_EXACT = 16
SOME = 64
"""Parts up to which `auto` samples Shapley values; beyond it follows a path."""
_ADDITIVE = ("linear", "linear_mixed", "last_value")
_EXACTLY = 1e-9
_SAMPLES = {"kernel_shap": 2048, "lime": 2048, "shapley_sampling": 64}
_STEPS, _MOST_STEPS = 128, 2048
_ROUGH = 1e-3  # of all effects together: what a path of so many steps may miss
_AT_ONCE = 512
_LIME_WIDTH = 0.75  # of the square root of the number of parts, as in the authors' package


def attribute(
    game: Game, method: Method = "auto", *, samples: int | None = None, seed: int = 0
) -> tuple[torch.Tensor, str]:
    """Divide prediction minus reference among the active parts.

    Args:
        game: the patient's.
        method: `auto` is exact where it can be, samples Shapley values for up to 64 parts, and
            follows a path beyond.
        samples: coalitions of `kernel_shap` and `lime`, or orders of `shapley_sampling`; `None`
            takes the usual number.
        seed: of the samples.

    Returns:
        Effects of the active parts, `(active,)`, which add up; and the method that gave them.

    Raises:
        MisuseError: the method is not known, or there are too many parts to be exact.
    """
    if method not in METHODS:
        raise MisuseError(f"'{method}' is not a method: use {', '.join(METHODS)}.")
    count = len(game.active)
    if count == 0:
        return torch.zeros(0, dtype=torch.float64), "exact"
    if method in ("auto", "exact"):
        alone = _alone(game)
        if alone is not None:
            return alone, "exact"
        if count <= (FEW if method == "auto" else MOST_EXACT):
            return _counted(game), "exact"
        if method == "exact":
            raise MisuseError(
                f"{count} parts differ from the reference, and exact Shapley values count "
                f"coalitions of at most {MOST_EXACT}: ask for 'shapley_sampling' or "
                "'integrated_gradients'."
            )
        method = "shapley_sampling" if count <= SOME else "integrated_gradients"
    if method == "integrated_gradients":
        return _path(game), method
    with _seeded(seed):
        return _sampled(game, method, samples or _SAMPLES[method]), method


def _alone(game: Game) -> torch.Tensor | None:
    """Each part's effect on its own, where effects simply add up: a linear model's Shapley values.

    `None` where the model or the shown scale is not linear, or a limit of the scale cuts in.
    """
    if game.model.name not in _ADDITIVE:
        return None
    count = len(game.active)
    pairs = torch.ones(count, count, dtype=torch.float64).tril()  # parts join one by one
    rows = torch.cat([torch.zeros(1, count, dtype=torch.float64), torch.eye(count), pairs])
    with torch.no_grad():
        worth = game.worth(rows)
    alone = worth[1 : count + 1] - worth[0]
    joined = worth[count + 1 :] - worth[0]
    close = (joined - alone.cumsum(0)).abs().max() <= _EXACTLY * max(1.0, float(alone.abs().sum()))
    return alone if close else None


def _counted(game: Game) -> torch.Tensor:
    """Shapley values from all coalitions."""
    count = len(game.active)
    numbers = torch.arange(2**count)
    members = (numbers[:, None] >> torch.arange(count)) & 1
    with torch.no_grad():
        worth = game.worth(members.double())
    sizes = members.sum(dim=1)
    weights = torch.tensor(
        [1.0 / (count * math.comb(count - 1, size)) for size in range(count)], dtype=torch.float64
    )
    found = []
    for part in range(count):
        without = numbers[members[:, part] == 0]
        gain = worth[without + 2**part] - worth[without]
        found.append((weights[sizes[without]] * gain).sum())
    return torch.stack(found)


def _path(game: Game) -> torch.Tensor:
    """Integrated gradients from the reference; what the steps miss is shared out by size."""
    count = len(game.active)
    ones, zeros = torch.ones(1, count).double(), torch.zeros(1, count).double()
    with torch.no_grad():
        ends = game.worth(torch.cat([zeros, ones]))
    whole, steps = ends[1] - ends[0], _STEPS
    along = IntegratedGradients(game.worth)
    while True:
        found: torch.Tensor = along.attribute(
            ones, zeros, n_steps=steps, method="riemann_middle", internal_batch_size=_AT_ONCE
        )[0].detach()
        missed, size = whole - found.sum(), found.abs().sum()
        if missed.abs() <= _ROUGH * size or steps >= _MOST_STEPS:
            break
        steps *= 4
    shares = found.abs() / size if size > 0 else torch.full_like(found, 1 / count)
    return found + missed * shares


def _sampled(game: Game, method: str, samples: int) -> torch.Tensor:
    """Shapley values or LIME from random coalitions."""
    count = len(game.active)
    ones, zeros = torch.ones(1, count).double(), torch.zeros(1, count).double()
    with torch.no_grad():
        ends = game.worth(torch.cat([zeros, ones]))
    whole = float(ends[1] - ends[0])

    def gain(coalitions: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return game.worth(coalitions) - ends[0]

    if count == 1:
        return torch.tensor([whole], dtype=torch.float64)
    options: dict[str, Any] = {"n_samples": samples, "perturbations_per_eval": _AT_ONCE}
    if method == "shapley_sampling":
        found = ShapleyValueSampling(gain).attribute(ones, zeros, **options)
    else:
        line = HeldLine(whole)
        if method == "kernel_shap":
            fitted: Lime = KernelShap(gain)
            fitted.interpretable_model = line  # captum's own needs scikit-learn
        else:
            width = _LIME_WIDTH * math.sqrt(count)
            near = get_exp_kernel_similarity_function("euclidean", kernel_width=width)
            fitted = Lime(gain, interpretable_model=line, similarity_func=near)
        found = fitted.attribute(ones, baselines=zeros, **options)
    effects: torch.Tensor = found[0].double()
    # Rounding of the sampler, which computes in single precision, is shared out equally.
    return effects + (whole - effects.sum()) / count


class HeldLine(Model):  # type: ignore[misc]  # captum has no types
    """A weighted least-squares line through the reference and the patient, for `captum`.

    Args:
        whole: prediction minus reference: the sum of the slopes.
    """

    def __init__(self, whole: float) -> None:
        self.whole = whole
        self.slopes = torch.zeros(0, dtype=torch.float64)

    def fit(self, train_data: DataLoader[Any], **_: object) -> None:
        """Fit slopes to (coalition, gain, weight) rows; ends are met exactly."""
        parts = [tuple(part.double() for part in row) for row in train_data]
        members, gains, weights = (torch.cat(column) for column in zip(*parts, strict=True))
        count = members.shape[1]
        inside = (members.sum(dim=1) > 0) & (members.sum(dim=1) < count)
        root = weights[inside].sqrt()[:, None]
        members, gains = members[inside], gains.flatten()[inside][:, None]
        even = self.whole / count
        # Slopes are the even share plus what adds up to nothing.
        turned = members - members.mean(dim=1, keepdim=True)
        rest = gains - even * members.sum(dim=1, keepdim=True)
        solved = torch.linalg.lstsq(turned * root, rest * root, driver="gelsd").solution
        self.slopes = even + solved.flatten()

    def representation(self) -> torch.Tensor:
        """Return the slopes, `(parts,)`."""
        return self.slopes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the line at coalitions, `(n,)`."""
        return x.double() @ self.slopes


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Fix `torch`'s random state, which captum draws from, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
