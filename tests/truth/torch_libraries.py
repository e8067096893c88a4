"""Products with the Hessian of a module by the libraries at hand: specop, torch's own ways, and peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import specop
from judge import noting

__all__ = ["tools"]


def tools() -> dict[str, Callable[[nn.Module], Callable[[np.ndarray], np.ndarray]]]:
    """Return the libraries at hand: each maps a module to its products with the Hessian."""
    found: dict[str, Any] = {"specop": _specop, "torch.autograd": _autograd, "torch.func": _func}
    try:
        import curvlinops  # noqa: F401
    except ImportError:
        pass
    else:
        found["curvlinops"] = _curvlinops
    try:
        import hessian_eigenthings  # noqa: F401
    except ImportError:
        pass
    else:
        found["hessian-eigenthings"] = _eigenthings
    return found


def _specop(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    data = [(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))]
    objective = specop.objective(module, lambda out, _: out, data)
    H = objective.hessian()
    return lambda v: noting(H, (H @ torch.from_numpy(v)).numpy())


def _autograd(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(module(torch.zeros(1, dtype=torch.float64)), parameters, create_graph=True)

    def product(v: np.ndarray) -> np.ndarray:
        pieces = _pieces(v, parameters)
        inner = sum((g * p).sum() for g, p in zip(gradients, pieces, strict=True))
        found = torch.autograd.grad(inner, parameters, retain_graph=True, allow_unused=True)
        zeros = [torch.zeros_like(p) if f is None else f for f, p in zip(found, parameters, strict=True)]
        return torch.cat([z.reshape(-1) for z in zeros]).numpy()

    return product


def _func(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    parameters = dict(module.named_parameters())

    def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(module, p, (torch.zeros(1, dtype=torch.float64),))

    def product(v: np.ndarray) -> np.ndarray:
        tangents = dict(zip(parameters, _pieces(v, list(parameters.values())), strict=True))
        detached = {name: p.detach() for name, p in parameters.items()}
        _, found = torch.func.jvp(torch.func.grad(loss), (detached,), (tangents,))
        return torch.cat([found[name].reshape(-1) for name in parameters]).detach().numpy()

    return product


def _curvlinops(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    from curvlinops import HessianLinearOperator

    data = [(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))]
    H = HessianLinearOperator(module, _Identity(), list(module.parameters()), data)
    return lambda v: (H @ torch.from_numpy(v)).detach().numpy()


def _eigenthings(module: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    from hessian_eigenthings import HessianOperator

    data = [(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))]
    H = HessianOperator(module, data, lambda model, batch: model(batch[0]))
    return lambda v: H.matvec(torch.from_numpy(v)).detach().numpy()


class _Identity(nn.Module):
    reduction = "sum"

    def forward(self, out: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return out


def _pieces(v: np.ndarray, parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    split = torch.split(torch.from_numpy(v), [p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(split, parameters, strict=True)]
