"""Small models of every layer that book-keeping knows, and of some that it must not touch."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from fedrx_models.flux.parts import NodeLinear
from fedrx_models.layers import SegmentLinear


@dataclass(frozen=True, eq=False)
class Patients:
    x: torch.Tensor
    y: torch.Tensor

    def __len__(self):
        return self.y.shape[0]

    def select(self, index):
        return Patients(self.x[index], self.y[index])


class Squared(nn.Module):
    """A network `(B, ...) -> (B, 1)` under a squared loss per patient."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, batch):
        return (self.network(batch.x).squeeze(-1) - batch.y) ** 2


def tried_on(model, batch):
    """The model, able to make up patients: these, again and again."""
    model.made_up = lambda patients: batch.select(torch.arange(patients) % len(batch))
    return model


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


class Channels(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class PlainParameters(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return torch.tanh(x * self.scale + self.shift)


class DoubledLinear(nn.Linear):
    """A subclass that does something else with the same parameters."""

    def forward(self, x):
        return functional.linear(x, self.weight * 2, self.bias)


class Recurrent(nn.Module):
    """A cell written out; both linear layers are used once a visit."""

    def __init__(self, inputs, width):
        super().__init__()
        self.inside, self.outside = nn.Linear(width, width, bias=False), nn.Linear(inputs, width)
        self.width = width

    def forward(self, x):
        state = x.new_zeros(len(x), self.width)
        for visit in range(x.shape[1]):
            state = torch.tanh(self.inside(state) + self.outside(x[:, visit]))
        return state


class TwiceThrough(nn.Module):
    """One layer of segments used twice in a pass."""

    def __init__(self):
        super().__init__()
        self.layer = segments(4, 4)

    def forward(self, x):
        return torch.tanh(self.layer(torch.tanh(self.layer(x))))


class NodesTwice(nn.Module):
    """One layer of nodes used twice in a pass."""

    def __init__(self):
        super().__init__()
        self.layer = NodeLinear(5, 4, 4, torch.Generator().manual_seed(0))

    def forward(self, x):
        return torch.tanh(self.layer(torch.tanh(self.layer(x))))


def segments(inputs=4, outputs=3):
    return SegmentLinear(5, inputs, outputs, torch.Generator().manual_seed(0))


def mlp(width=6):
    return nn.Sequential(
        nn.Linear(width, 8), nn.ReLU(inplace=True), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1)
    )


def sequence(steps=5):
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), Mean(), nn.Linear(4, 1))


def long_sequence():
    # One step is wider than the number of steps: norms come from inner products.
    return nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 30), Mean(), nn.Linear(30, 1))


def convolution(**options):
    layer = nn.Conv1d(4, 6, 3, **options)
    return nn.Sequential(layer, nn.GroupNorm(2, 6), nn.Tanh(), Channels(), Mean(), nn.Linear(6, 1))


def tokens(padding_idx=None):
    embedding = nn.Embedding(7, 5, padding_idx=padding_idx)
    return nn.Sequential(embedding, nn.Linear(5, 4), nn.Tanh(), Mean(), nn.Linear(4, 1))


def numbers(*shape, patients=9, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(patients, *shape, generator=generator)
    return Patients(x, torch.randn(patients, generator=generator) * 3)


def token_numbers(steps=6, patients=9):
    generator = torch.Generator().manual_seed(2)
    # Few values, so that patients repeat tokens.
    x = torch.randint(0, 4, (patients, steps), generator=generator)
    return Patients(x, torch.randn(patients, generator=generator) * 3)


COVERED = {
    "linear": lambda: (nn.Linear(6, 1), numbers(6)),
    "linear without bias": lambda: (nn.Linear(6, 1, bias=False), numbers(6)),
    "mlp with norm and in-place relu": lambda: (mlp(), numbers(6)),
    "sequence": lambda: (sequence(), numbers(5, 3)),
    "sequence by inner products": lambda: (long_sequence(), numbers(5, 3)),
    "as many steps as patients": lambda: (sequence(), numbers(9, 3)),
    "two step axes": lambda: (
        nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.Linear(24, 1)),
        numbers(2, 3, 3),
    ),
    "conv1d": lambda: (convolution(), numbers(4, 8)),
    "conv1d padded": lambda: (convolution(padding=2, stride=2), numbers(4, 8)),
    "conv1d same, dilated": lambda: (convolution(padding="same", dilation=3), numbers(4, 8)),
    "conv1d valid": lambda: (convolution(padding="valid"), numbers(4, 8)),
    "conv1d circular": lambda: (convolution(padding=1, padding_mode="circular"), numbers(4, 8)),
    "conv1d in groups": lambda: (convolution(groups=2, bias=False), numbers(4, 8)),
    "embedding": lambda: (tokens(), token_numbers()),
    "embedding with padding": lambda: (tokens(padding_idx=0), token_numbers()),
    "segments": lambda: (
        nn.Sequential(segments(), nn.Tanh(), nn.Flatten(), nn.Linear(15, 1)),
        numbers(5, 4),
    ),
    "segments used twice": lambda: (
        nn.Sequential(TwiceThrough(), nn.Flatten(), nn.Linear(20, 1)),
        numbers(5, 4),
    ),
    "nodes at every visit": lambda: (
        nn.Sequential(NodesTwice(), nn.Flatten(), nn.Linear(5 * 6 * 4, 1)),
        numbers(5, 6, 4),
    ),
    "conv1d, wide on few steps": lambda: (
        nn.Sequential(nn.Conv1d(30, 40, 3), nn.Tanh(), Channels(), Mean(), nn.Linear(40, 1)),
        numbers(30, 6),
    ),
    "plain parameters": lambda: (
        nn.Sequential(nn.Linear(6, 5), PlainParameters(5), nn.Linear(5, 1)),
        numbers(6),
    ),
    "subclass that does something else": lambda: (
        nn.Sequential(DoubledLinear(6, 4), nn.Tanh(), nn.Linear(4, 1)),
        numbers(6),
    ),
    "cell used at every visit": lambda: (
        nn.Sequential(Recurrent(3, 4), nn.Linear(4, 1)),
        numbers(5, 3),
    ),
}


class PositionRows(nn.Module):
    """A positional table looked up without patients, then broadcast over them."""

    def __init__(self, steps=5):
        super().__init__()
        self.table, self.head = nn.Embedding(steps, 3), nn.Linear(3, 1)

    def forward(self, x):
        where = self.table(torch.arange(x.shape[1]))
        return self.head(torch.tanh(x + where).mean(1))


class FlattenedVisits(nn.Module):
    """Visits become rows: the unit of the layer is no longer the patient."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        rows = torch.tanh(self.inner(x.reshape(-1, 3)))
        return self.head(rows.reshape(x.shape[0], -1, 4).mean(1))


class TiedWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x))).sum(1, keepdim=True)


class BorrowedWeights(nn.Module):
    """One layer's weight is also used by hand, where no hook sees it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return functional.linear(torch.tanh(self.layer(x)), self.layer.weight).sum(1, keepdim=True)


class OwnAndChildren(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain, self.layer = nn.Parameter(torch.ones(6)), nn.Linear(6, 1)

    def forward(self, x):
        return self.layer(x * self.gain)


class ChangedInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x):
        x = x.clone()
        hidden = self.first(x)
        x.mul_(2)
        return self.second(torch.tanh(hidden) + x)


FALLBACK = {
    "position rows": lambda: (PositionRows(), numbers(5, 3)),
    "as many positions as patients": lambda: (PositionRows(9), numbers(9, 3)),
    "visits flattened into rows": lambda: (FlattenedVisits(), numbers(5, 3)),
    "tied weights": lambda: (TiedWeights(), numbers(6)),
    "borrowed weights": lambda: (BorrowedWeights(), numbers(6)),
    "parameters beside children": lambda: (OwnAndChildren(), numbers(6)),
}


def build(cases, name):
    torch.manual_seed(3)
    network, batch = cases[name]()
    return tried_on(Squared(network), batch), batch
