"""Layers, activations, losses and functions of torch, each at ordinary and at special points."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from judge import Truth, curvature, verdict
from torch_libraries import tools
from torch_operations import ELEMENTWISE, FUNCTIONS

__all__ = ["judged", "rows"]


class Applied(nn.Module):
    """A layer applied to a parameter, and a smooth function of what comes out."""

    def __init__(self, layer: Callable[[torch.Tensor], Any], point: Any) -> None:
        super().__init__()
        self.layer = layer
        self.point = nn.Parameter(torch.tensor(np.array(point), dtype=torch.float64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return outer(self.layer(self.point)) + 0.0 * inputs.sum()


def outer(out: Any) -> torch.Tensor:
    """Return a loss with first and second derivatives in every output."""
    total = torch.zeros((), dtype=torch.float64)
    for each in out if isinstance(out, tuple) else (out,):
        if isinstance(each, tuple):
            total = total + outer(each)
        elif each.is_floating_point() or each.is_complex():
            flat = torch.view_as_real(each).reshape(-1) if each.is_complex() else each.reshape(-1)
            weights = torch.cos(1.0 + torch.arange(len(flat), dtype=torch.float64))
            total = total + (weights * flat).sum() + 0.5 * ((1.2 + weights) * flat**2).sum()
    return total


def rows() -> Iterator[tuple[str, str, Callable[[], nn.Module]]]:
    """Yield (operation, point, function that makes the module)."""
    for name, at in ELEMENTWISE.items():
        for label, point in at.items():
            yield name, label, functools.partial(Applied, _function(name), point)
    for name, (function, at) in FUNCTIONS.items():
        for label, point in at.items():
            yield name, label, functools.partial(Applied, function, point)
    for name, (layer, shape) in LAYERS.items():
        yield name, "ordinary", functools.partial(_layer, layer, shape)
    for name, (layer, shape) in LAYERS_IN_EVALUATION.items():
        yield f"{name}, evaluation", "ordinary", lambda layer=layer, shape=shape: _layer(layer, shape).eval()


def truth_of(module: nn.Module) -> tuple[Truth | None, int]:
    """Return the second derivatives of a module's loss, and the number of its parameters."""
    parameters = list(module.parameters())
    theta = torch.nn.utils.parameters_to_vector(parameters).detach().numpy().copy()

    state = copy.deepcopy(dict(module.named_buffers()))

    def loss(point: np.ndarray) -> float:
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(torch.from_numpy(point), parameters)
            value = float(module(torch.zeros(1, dtype=torch.float64)))
            # A layer that updates itself is a function of the parameters as it was found.
            for name, buffer in module.named_buffers():
                buffer.copy_(state[name])
        return value

    return curvature(loss, theta), len(theta)


def judged(make: Callable[[], nn.Module]) -> tuple[Truth | None, dict[str, str]]:
    """Return the truth about one row, and each library's verdict."""
    torch.manual_seed(0)
    truth, n = truth_of(make())
    found = {}
    for name, tool in tools().items():
        torch.manual_seed(0)
        module = make()
        found[name] = verdict(lambda v, tool=tool, module=module: tool(module)(v), n, truth)
    return truth, found


def _function(name: str) -> Callable[[torch.Tensor], Any]:
    for space in (torch, nn.functional, torch.special):
        if hasattr(space, name):
            return getattr(space, name)
    raise AttributeError(name)


def _layer(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> nn.Module:
    layer = make().double()
    count = int(np.prod(shape))
    return Applied(layer, (0.1 + np.sin(1.0 + np.arange(count)) / 1.3).reshape(shape))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(3, 2), (2, 3)),
    "Bilinear": (lambda: _Twice(nn.Bilinear(3, 3, 2)), (2, 3)),
    "Conv1d": (lambda: nn.Conv1d(2, 2, 2), (1, 2, 4)),
    "Conv2d": (lambda: nn.Conv2d(2, 2, 2), (1, 2, 3, 3)),
    "Conv2d, groups": (lambda: nn.Conv2d(2, 2, 2, groups=2), (1, 2, 3, 3)),
    "Conv2d, dilated": (lambda: nn.Conv2d(2, 2, 2, dilation=2), (1, 2, 4, 4)),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 2, 2), (1, 2, 3, 3)),
    "BatchNorm1d, training": (lambda: nn.BatchNorm1d(3, track_running_stats=False), (4, 3)),
    "LayerNorm": (lambda: nn.LayerNorm(6), (2, 6)),
    "RMSNorm": (lambda: nn.RMSNorm(6), (2, 6)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (1, 4, 3)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(2, affine=True), (1, 2, 4)),
    "PReLU": (lambda: nn.PReLU(), (2, 3)),
    "RNN": (lambda: nn.RNN(3, 2), (4, 1, 3)),
    "LSTM": (lambda: nn.LSTM(3, 2), (4, 1, 3)),
    "GRU": (lambda: nn.GRU(3, 2), (4, 1, 3)),
    "GRU, two layers, both ways": (lambda: nn.GRU(3, 2, num_layers=2, bidirectional=True), (4, 1, 3)),
    "LSTMCell": (lambda: nn.LSTMCell(3, 2), (1, 3)),
    "MultiheadAttention": (lambda: _Attention(), (3, 1, 4)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), (3, 1, 4)),
    "TransformerDecoderLayer": (lambda: _Twice(nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0)), (3, 1, 4)),
    "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), (2, 3)),
    "orthogonal": (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), (2, 3)),
    "spectral_norm, training": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), (2, 3)),
}
LAYERS_IN_EVALUATION: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3), (4, 3)),
    "Dropout": (lambda: nn.Dropout(0.5), (4, 3)),
    "spectral_norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), (2, 3)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (1, 3, 4)),
    "RReLU": (lambda: nn.RReLU(), (2, 3)),
}


class _Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x, x)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.attention(x, x, x, need_weights=False)[0]
