"""Spectral densities beside PyHessian's, against the exact spectrum of a small model."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from derivatives import retained_products
from eigenvalues import in_double_precision
from models import Problem, small
from peers import inner, orthonormal
from tables import Row, print_table, ratio

Measure = tuple[NDArray[np.float64], NDArray[np.float64], int]


def compare_densities(seeds: int) -> list[Row]:
    """Time specop's density and PyHessian's algorithm on the same model and print a table.

    Parameters
    ----------
    seeds : int
        Both run with the seeds 0 to `seeds` - 1, taking turns; seconds are the median, distances the mean.

    Returns
    -------
    list of dict
        One row for each method.
    """
    problem = small()
    methods = _methods()
    for method in methods.values():
        method(problem, 0)  # untimed: whatever a process does once
    exact = exact_spectrum(problem)
    spread = float(exact[-1] - exact[0])
    print(f"exact spectrum: {len(exact):,} eigenvalues from {exact[0]:.5g} to {exact[-1]:.5g}", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    distances: dict[str, list[float]] = {name: [] for name in methods}
    products: dict[str, int] = {}
    for seed in range(seeds):
        for name, method in methods.items():
            started = time.perf_counter()
            nodes, weights, products[name] = method(problem, seed)
            seconds[name].append(time.perf_counter() - started)
            distances[name].append(wasserstein_distance(nodes, exact, weights) / spread)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows: list[Row] = [
        {
            "model": problem.name,
            "method": name,
            "seconds": medians[name],
            "products": products[name],
            "W1 / spread": float(np.mean(distances[name])),
            "times specop": ratio(medians[name], medians.get("specop.spectral_density")),
        }
        for name in methods
    ]
    print_table(f"spectral density, n = {problem.size:,}, median seconds and mean distance over {seeds} seeds", rows)
    return rows


def exact_spectrum(problem: Problem) -> NDArray[np.float64]:
    """Return all eigenvalues of the Hessian, from the dense matrix in float64.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    ndarray
        Ascending.
    """
    double = in_double_precision(problem)
    parameters = list(double.model.parameters())
    product = retained_products(double)
    sizes = [parameter.numel() for parameter in parameters]
    rows = torch.empty(problem.size, problem.size, dtype=torch.float64)
    for index, unit in enumerate(torch.eye(problem.size, dtype=torch.float64)):
        pieces = [piece.view_as(p) for piece, p in zip(torch.split(unit, sizes), parameters, strict=True)]
        rows[index] = torch.cat([piece.reshape(-1) for piece in product(pieces)])
    return np.linalg.eigvalsh(((rows + rows.T) / 2).numpy())


def single_probe_density(problem: Problem, seed: int, steps: int = 100) -> Measure:
    """Run PyHessian's documented density: Lanczos from one Rademacher vector, each step reorthogonalized in a loop.

    Parameters
    ----------
    problem : Problem
    seed : int
    steps : int

    Returns
    -------
    nodes, weights : ndarray of shape (steps,)
    products : int
    """
    product = retained_products(problem)
    generator = torch.Generator().manual_seed(seed)
    parameters = list(problem.model.parameters())
    start = [2.0 * torch.randint(0, 2, parameter.shape, generator=generator) - 1.0 for parameter in parameters]
    vectors = [orthonormal(start, [])]
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        rest = [piece.clone() for piece in product(vectors[-1])]
        diagonal.append(inner(rest, vectors[-1]))
        for piece, part in zip(rest, vectors[-1], strict=True):
            piece.add_(part, alpha=-diagonal[-1])
        if step:
            for piece, part in zip(rest, vectors[-2], strict=True):
                piece.add_(part, alpha=-beside[-1])
        if step < steps - 1:
            beside.append(inner(rest, rest) ** 0.5)
            vectors.append(orthonormal(rest, vectors))
    values, coefficients = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return values, coefficients[0] ** 2, steps


def specop_density(problem: Problem, seed: int) -> Measure:
    """Run this library as its README shows."""
    import specop

    hessian = specop.objective(problem.model, problem.criterion, problem.batches).hessian()
    density = specop.spectral_density(hessian, seed=seed)
    return density.nodes, density.weights, density.matvecs


def _methods() -> dict[str, Callable[[Problem, int], Measure]]:
    peer: dict[str, Callable[[Problem, int], Measure]] = {"PyHessian algorithm": single_probe_density}
    try:
        import specop  # noqa: F401
    except ImportError as problem:
        print(f"notice: specop is left out: {problem}")
        return peer
    return {"specop.spectral_density": specop_density, **peer}
