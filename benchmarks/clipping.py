"""Time of one clipped gradient sum, as a ratio to plain training: `python benchmarks/clipping.py`.

One thread. Plain is one forward and one backward pass; hooks are Opacus's default. The figures to
compare with are in Bu et al. (2022), arXiv:2210.00038, table 1.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from opacus import GradSampleModule
from torch import Tensor, nn

from fedrx_client.training import clipped_gradient_sum, gradient_sum, supports_bookkeeping


@dataclass(frozen=True)
class Patients:
    """Inputs `(B, ...)` and targets `(B,)`."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def select(self, index: Tensor) -> "Patients":
        """The patients at these positions."""
        return Patients(self.x[index], self.y[index])


class Squared(nn.Module):
    """A network under a squared loss per patient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Patients) -> Tensor:
        """Loss per patient, `(B,)`."""
        loss: Tensor = (self.network(batch.x).squeeze(-1) - batch.y) ** 2
        return loss


class Flip(nn.Module):
    """Tokens `(B, steps, E)` to channels `(B, E, steps)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Swap the last two axes."""
        return x.transpose(1, 2)


class Pool(nn.Module):
    """Mean over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, steps)` to `(B, C)`."""
        return x.mean(2)


def cases() -> dict[str, tuple[nn.Module, Patients]]:
    y = torch.randn(256)
    mlp = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 224), nn.ReLU(), nn.Linear(224, 1)
    )
    cnn = nn.Sequential(
        nn.Embedding(50, 32),
        Flip(),
        nn.Conv1d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.Conv1d(64, 64, 5, padding=2),
        nn.GroupNorm(4, 64),
        nn.ReLU(),
        Pool(),
        nn.Linear(64, 1),
    )
    return {
        "linear, 20 inputs, 256 patients": (nn.Linear(20, 1), Patients(torch.randn(256, 20), y)),
        "mlp, 74k parameters, 256 patients": (mlp, Patients(torch.randn(256, 64), y)),
        "1-d cnn on 64 tokens, 256 patients": (
            cnn,
            Patients(torch.randint(0, 50, (256, 64)), y),
        ),
    }


def seconds(step: Callable[[], object], repeats: int = 7) -> float:
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def hooks(model: nn.Module, batch: Patients) -> float:
    hooked = GradSampleModule(model, loss_reduction="sum")

    def step() -> None:
        hooked.zero_grad()
        hooked(batch).sum().backward()
        each = [p.grad_sample for p in model.parameters()]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in each]).norm(dim=0)
        factors = (1.0 / norms).clamp(max=1.0)
        [torch.einsum("b,b...", factors, g) for g in each]

    taken = seconds(step, 3)
    hooked.to_standard_module()
    return taken


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{'model':36}{'plain ms':>10}{'book-keeping':>14}{'vmap':>8}{'hooks':>8}")
    for name, (network, batch) in cases().items():
        model = Squared(network)
        if not supports_bookkeeping(model, batch):
            raise SystemExit(f"{name}: book-keeping does not apply")
        plain = seconds(lambda m=model, b=batch: gradient_sum(m, b))
        ours = seconds(lambda m=model, b=batch: clipped_gradient_sum(m, b, 1.0))
        mapped = seconds(lambda m=model, b=batch: clipped_gradient_sum(m, b, 1.0, method="vmap"), 3)
        ratios = [t / plain for t in (ours, mapped, hooks(model, batch))]
        print(f"{name:36}{plain * 1e3:10.2f}{ratios[0]:14.1f}{ratios[1]:8.1f}{ratios[2]:8.1f}")


if __name__ == "__main__":
    main()
