"""Hessian products in plain PyTorch: what a user without a library writes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import Problem


def retained_products(problem: Problem) -> Callable[[Sequence[Tensor]], tuple[Tensor, ...]]:
    """Differentiate the mean loss once and return products with its Hessian on the graph that was kept.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    callable
        Maps a list of tensors, shaped like the parameters, to such a tuple.
    """
    parameters = list(problem.model.parameters())
    # Fused attention has no double backward; none of the peers but specop changes that for its user.
    with sdpa_kernel(SDPBackend.MATH):
        gradients = torch.autograd.grad(mean_loss(problem), parameters, create_graph=True)

    def product(vector: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(gradients, parameters, grad_outputs=list(vector), retain_graph=True)

    return product


def batchwise_products(problem: Problem) -> Callable[[Sequence[Tensor]], tuple[Tensor, ...]]:
    """Return products with the Hessian of the mean loss that differentiate one batch after the other, and keep nothing.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    callable
        Maps a list of tensors, shaped like the parameters, to such a tuple.
    """
    total = sum(len(targets) for _, targets in problem.batches)

    def product(vector: Sequence[Tensor]) -> tuple[Tensor, ...]:
        found = [torch.zeros_like(piece) for piece in vector]
        for batch in problem.batches:
            alone = retained_products(replace(problem, batches=[batch]))
            for sum_, part in zip(found, alone(vector), strict=True):
                sum_.add_(part, alpha=len(batch[1]) / total)
        return tuple(found)

    return product


def recomputed_operator(problem: Problem) -> LinearOperator:
    """Return the Hessian of the mean loss for SciPy, a double backward computed from scratch for each product.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    scipy.sparse.linalg.LinearOperator
    """
    return _operator(problem, lambda vector: retained_products(problem)(vector))


def retained_operator(problem: Problem) -> LinearOperator:
    """Return the Hessian of the mean loss for SciPy, with the graph of the gradient kept for all products.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    scipy.sparse.linalg.LinearOperator
    """
    return _operator(problem, retained_products(problem))


def mean_loss(problem: Problem) -> Tensor:
    """Return the loss, averaged over all samples.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    Tensor
        A scalar with its graph.
    """
    total = sum(len(targets) for _, targets in problem.batches)
    losses = [
        problem.criterion(problem.model(inputs), targets) * (len(targets) / total)
        for inputs, targets in problem.batches
    ]
    return torch.stack(losses).sum()


def _operator(problem: Problem, product: Callable[[Sequence[Tensor]], tuple[Tensor, ...]]) -> LinearOperator:
    parameters = list(problem.model.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    dtype = parameters[0].dtype

    def matvec(vector: NDArray[np.floating]) -> NDArray[np.floating]:
        # ARPACK hands out views of its workspace, hence the copy.
        flat = torch.tensor(vector.ravel(), dtype=dtype)
        pieces = [piece.view_as(p) for piece, p in zip(torch.split(flat, sizes), parameters, strict=True)]
        return torch.cat([piece.reshape(-1) for piece in product(pieces)]).numpy()

    n = sum(sizes)
    return LinearOperator((n, n), matvec=matvec, dtype=np.dtype(str(dtype).removeprefix("torch.")))
