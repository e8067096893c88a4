"""Models of torch for the witness of products."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import specop
from witness.cases import SPREAD, X, Y


def objective(module, dtype, criterion=F.cross_entropy, **keywords):
    data = torch.from_numpy(X).to(getattr(torch, dtype)), torch.from_numpy(Y).long()
    return specop.objective(module.to(data[0].dtype), criterion, data, **keywords)


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def between(*layers, width=6):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, width), *layers, nn.Linear(width, 3))


def image(*layers):
    torch.manual_seed(1)
    convolution = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(nn.Unflatten(1, (1, 3, 4)), convolution, *layers, nn.Flatten(), nn.LazyLinear(3))


def eager(module):
    """A module whose lazy layers are made."""
    module(torch.from_numpy(X).float())
    return module


class WideAndDeep(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.codes = nn.Embedding(9, 4, padding_idx=0)
        self.wide, self.deep = nn.Linear(12, 3), nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        codes = self.codes((4 * x.abs()).long().clamp(0, 8)).mean(1)
        return self.wide(x) + self.deep(torch.cat([x, codes], 1))


class Sequence(nn.Module):
    """A model of the samples as sequences of four, with a layer that takes those."""

    def __init__(self, layer):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.layer, self.last = nn.Linear(3, 8), layer, nn.Linear(8, 3)

    def forward(self, x):
        found = self.layer(self.first(x.unflatten(1, (4, 3))))
        return self.last((found[0] if isinstance(found, tuple) else found).mean(1))


def on_zeros(*layers):
    """An image whose left half is empty, and no biases: there units are exactly zero."""
    torch.manual_seed(1)
    convolution = nn.Conv1d(1, 4, 3, bias=False)
    half = Call(lambda x: F.pad(x[:, :6], (6, 0)))
    return nn.Sequential(half, nn.Unflatten(1, (1, 12)), convolution, *layers, nn.Flatten(), nn.Linear(40, 3))


def spread(factor):
    module = between(nn.Tanh())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)
    return module


def as_type(kind):
    return Call(lambda z: z.to(kind).tanh().to(z.dtype))


MODULES = {
    "tanh": lambda: between(nn.Tanh()),
    "ReLU, max pooling": lambda: eager(image(nn.ReLU(), nn.MaxPool2d(2, 1))),
    "layer norm": lambda: between(nn.LayerNorm(6), nn.GELU()),
    "batch norm": lambda: eager(image(nn.BatchNorm2d(4), nn.LeakyReLU())).eval(),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(12, 6)), nn.Tanh(), nn.Linear(6, 3)),
    "Wide&Deep": WideAndDeep,
    "recurrent": lambda: Sequence(nn.LSTM(8, 8, batch_first=True)),
    "transformer": lambda: Sequence(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)),
    "deep ReLU": lambda: between(*(layer for _ in range(6) for layer in (nn.ReLU(), nn.Linear(6, 6)))),
    "a cast to float32": lambda: between(as_type(torch.float32)),
    "a cast to 16 bit": lambda: between(as_type(torch.bfloat16)),
    **{name: lambda factor=factor: spread(factor) for name, factor in SPREAD.items()},
}
RIGHT = {name: lambda dtype, make=make: objective(make(), dtype) for name, make in MODULES.items()}


class Detached(torch.autograd.Function):
    """Computes its gradient in the forward pass, as fused losses do, under torch's own name so that nobody looks."""

    __module__ = "torch.disguised"

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(2 * z.tanh() * (1 - z.tanh() ** 2))
        return z.tanh() ** 2

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].detach()


class DetachedLoss(torch.autograd.Function):
    """The same for a criterion."""

    __module__ = "torch.disguised"

    @staticmethod
    def forward(ctx, z, y):
        ctx.save_for_backward((z.softmax(-1) - F.one_hot(y, 3)) / len(z))
        return F.cross_entropy(z, y)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None


class TooSmall(torch.autograd.Function):
    """Has a tenth less in its gradient."""

    __module__ = "torch.disguised"

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.tanh()

    @staticmethod
    def backward(ctx, g):
        return 0.9 * g * (1 - ctx.saved_tensors[0].tanh() ** 2)


@torch.library.custom_op("specop_tests::square_of_tanh", mutates_args=())
def square_of_tanh(z: torch.Tensor) -> torch.Tensor:
    return z.tanh() ** 2


def _setup(ctx, inputs, output):
    ctx.slope = (2 * inputs[0].tanh() * (1 - inputs[0].tanh() ** 2)).detach()


torch.library.register_autograd("specop_tests::square_of_tanh", lambda ctx, g: g * ctx.slope, setup_context=_setup)


def spectral():
    torch.manual_seed(1)
    module = nn.Sequential(parametrizations.spectral_norm(nn.Linear(12, 6)), nn.Tanh(), nn.Linear(6, 3)).train()
    for _ in range(300):
        module(torch.from_numpy(X).float())
    return module


ALL = ("hessian", "ggn", "exact", "mc", "empirical", "jacobian", "transposed")
WRONG = {
    "spectral normalization in training mode": (lambda dtype: objective(spectral(), dtype), ("hessian",)),
    "a custom function": (lambda dtype: objective(between(Call(Detached.apply)), dtype), ("hessian",)),
    "a custom operation": (lambda dtype: objective(between(Call(square_of_tanh)), dtype), ("hessian",)),
    "a wrong gradient": (lambda dtype: objective(between(Call(TooSmall.apply)), dtype), ALL),
    "a stopped gradient": (lambda dtype: objective(between(Call(lambda z: z.detach() * z)), dtype), ALL),
    "a wrong gradient beside a kink": (
        lambda dtype: objective(on_zeros(nn.LeakyReLU(), Call(TooSmall.apply)), dtype),
        ("ggn", "exact", "jacobian", "transposed"),
    ),
    "a custom criterion": (lambda dtype: objective(between(nn.Tanh()), dtype, DetachedLoss.apply), ("hessian", "ggn")),
}
