"""blocks: the diagonal blocks of a curvature matrix, layer by layer: spectra, traces, shares, and how they differ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, check_choice, checked_count, checked_number
from specop.krylov.task import Task
from specop.objectives.matrices import MATRICES
from specop.operators.operator import LinearOperator
from specop.operators.restrict import restrict
from specop.results.blocks import BlocksResult
from specop.spectral.eigsh import eigsh
from specop.spectral.spectral_density import spectral_density
from specop.statistics.distances import common_grid, jensen_shannon, smoothed, wasserstein
from specop.statistics.estimate import Estimate, check_confidence, exact, with_error
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["blocks"]

_STEPS, _PROBES = 30, 4
# Width of the smoothing as a share of the spread of all blocks' eigenvalues.
_SIGMA = 0.01
# Relative residual of eigenvalues that are all wanted: each direction is multiplied anyway.
_TOL = 1e-6


def blocks(
    objective: Objective,
    select: Any = None,
    *,
    matrix: str = "hessian",
    steps: int = _STEPS,
    probes: int = _PROBES,
    sigma: float | None = None,
    theta: Array | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> BlocksResult:
    r"""Compare the diagonal blocks of a curvature matrix, by default those of its layers.

    For each block: its eigenvalues, all of them where that takes no more products than an estimate, else their density;
    its trace, and the share of all blocks' traces together, which is the trace of the matrix where the blocks hold all
    parameters.

    For each two: the square root of the Jensen-Shannon divergence of their spectra, each a distribution of weight one,
    after smoothing by a Gaussian of standard deviation `sigma` on one grid. With the natural logarithm it is at most
    :math:`\sqrt{\ln 2} = 0.833`, for spectra that do not touch [1]_. And the Wasserstein-1 distance, which needs no
    smoothing and is in units of eigenvalues.

    Parameters
    ----------
    objective : Objective
    select : list or dict, optional
        The blocks: each a name pattern, a list of parameters, a module or a predicate, as ``objective.restrict`` takes
        it; a dict names them. They may not overlap. Default: the parameters of each layer, by the part of their names
        before the last one; a parameter without such a part is a block of its own.
    matrix : {"hessian", "ggn", "fisher", "empirical fisher"}
        Which matrix; ``objective.matrix`` takes the same names.
    steps, probes : int
        Lanczos steps and random vectors for the density of a block with more parameters than they take products.
    sigma : float, optional
        Standard deviation of the smoothing, in units of eigenvalues; default: a hundredth of the spread of all.
    theta : native vector (n,), optional
        Parameters at which it is computed; default: the model's current ones, where a product takes only the
        derivatives in its own block.
    confidence : float
        Probability with which an interval of a trace or a share covers the truth.
    seed : int
        Seed of the random vectors.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Returns
    -------
    BlocksResult
        The numbers of all blocks; its table has a row for each.

    Raises
    ------
    InvalidInputError
        If blocks overlap, or a selection matches no parameter.

    Notes
    -----
    A block of m parameters takes ``min(m, steps * probes)`` products. What lies outside of the diagonal blocks does not
    enter: eigenvalues of a block lie between the smallest and the largest of the whole matrix, and need not be its own.

    References
    ----------
    .. [1] D. M. Endres and J. E. Schindelin, A new metric for probability distributions, IEEE Trans. Information Theory
       49 (2003).

    Examples
    --------
    >>> import torch, specop
    >>> params = {"a": torch.zeros(2).double(), "b": torch.zeros(3).double()}
    >>> fun = lambda p, _: 0.5 * (p["a"] ** 2).sum() + 5.0 * (p["b"] ** 2).sum()
    >>> found = specop.landscape.blocks(specop.objective(fun, params=params, data=torch.zeros(1, 1)))
    >>> found.traces, found.shares, found.distances.round(3)
    (array([ 2., 30.]), array([0.0625, 0.9375]), array([[0.   , 0.833],
           [0.833, 0.   ]]))
    """
    task = Task(
        "blocks", objective.backend, objective.processes, seed=seed, samples=objective.samples, progress=progress
    )
    check_choice("matrix", matrix, MATRICES)
    check_confidence(confidence)
    products = checked_count("steps", steps) * checked_count("probes", probes)
    if sigma is not None:
        checked_number("sigma", sigma, positive=True)
    chosen = _chosen(objective, select)
    with task:
        whole = None if theta is None else objective.matrix(matrix, theta)
        spectra = []
        for name, names in chosen.items():
            task.update(name)
            operator = _operator(objective, names, matrix, whole)
            spectra.append(_spectrum(operator, products, steps, probes, confidence, seed))
        traces = [spectrum.trace for spectrum in spectra]
        shares = _shares(traces, confidence)
        width, grid, distances, transports = _distances(spectra, sigma)
        covered = sum(spectrum.n for spectrum in spectra)
        return task.result(
            BlocksResult,
            names=tuple(chosen),
            sizes=np.array([spectrum.n for spectrum in spectra]),
            traces=np.array([trace.estimate for trace in traces]),
            trace_errors=np.array([trace.standard_error for trace in traces]),
            trace_limits=np.array([trace.interval for trace in traces]),
            shares=np.array([share.estimate for share in shares]),
            share_errors=np.array([share.standard_error for share in shares]),
            share_limits=np.array([share.interval for share in shares]),
            smallest=np.array([spectrum.nodes[0] for spectrum in spectra]),
            largest=np.array([spectrum.nodes[-1] for spectrum in spectra]),
            largest_errors=np.array([spectrum.largest_error for spectrum in spectra]),
            exact=np.array([spectrum.is_exact for spectrum in spectra]),
            distances=distances,
            transports=transports,
            sigma=width,
            grid=(float(grid[0]), float(grid[-1]), len(grid)),
            nodes=np.concatenate([spectrum.nodes for spectrum in spectra]),
            weights=np.concatenate([spectrum.weights for spectrum in spectra]),
            block=np.repeat(np.arange(len(spectra)), [len(spectrum.nodes) for spectrum in spectra]),
            matrix=matrix,
            confidence=confidence,
            converged=True,
            message="converged"
            if covered == objective.n
            else f"the blocks hold {covered:,} of {objective.n:,} parameters, and shares are of their traces together",
        )


class _Spectrum(NamedTuple):
    """Eigenvalues of a block, or what stands for them.

    Attributes
    ----------
    n : int
        Number of parameters.
    nodes, weights : ndarray
        Points where the spectrum lies, ascending, and the share of it at each.
    trace : Estimate
    largest_error : float
        An eigenvalue lies within that distance of the last node.
    is_exact : bool
        Whether the nodes are all eigenvalues.
    """

    n: int
    nodes: Floats
    weights: Floats
    trace: Estimate
    largest_error: float
    is_exact: bool


def _chosen(objective: Objective, select: Any) -> dict[str, tuple[str, ...]]:
    """Return the names of each block's parameters by the block's name."""
    if select is None:
        found: dict[str, tuple[str, ...]] = {}
        for name in objective.names:
            layer = re.sub(r"[./][^./]*$", "", name)
            found[layer] = (*found.get(layer, ()), name)
        return found
    if isinstance(select, str) or not isinstance(select, (Mapping, list, tuple)) or not len(select):
        raise InvalidInputError(f"select must be a list or a dict of blocks, got {select!r}. One block: select=[...].")
    labels = [one if isinstance(one, str) else f"block {number}" for number, one in enumerate(select)]
    given = dict(select) if isinstance(select, Mapping) else dict(zip(labels, select, strict=True))
    found = {str(label): objective.restrict(one).names for label, one in given.items()}
    owner: dict[str, str] = {}
    for label, names in found.items():
        for name in names:
            if name in owner:
                raise InvalidInputError(
                    f"parameter {name!r} is in the blocks {owner[name]!r} and {label!r}: a share of the trace needs "
                    f"blocks that do not overlap."
                )
            owner[name] = label
    if len(found) < len(select):
        raise InvalidInputError(f"the blocks {', '.join(labels)} do not all have names of their own. Pass a dict.")
    return found


def _operator(
    objective: Objective, names: tuple[str, ...], matrix: str, whole: LinearOperator | None
) -> LinearOperator:
    if whole is None:
        chosen = set(names)
        return objective.restrict(lambda name, _: name in chosen).matrix(matrix)
    places = [np.arange(where.start, where.stop) for name, where in objective.slices.items() if name in names]
    return restrict(whole, np.concatenate(places))


def _spectrum(
    operator: LinearOperator, products: int, steps: int, probes: int, confidence: float, seed: int
) -> _Spectrum:
    n = operator.shape[0]
    if n <= products:
        found = eigsh(operator, n, which="LA", tol=_TOL, seed=seed)
        total = float(found.eigenvalues.sum())
        return _Spectrum(
            n,
            found.eigenvalues,
            np.full(n, 1.0 / n),
            exact(total, confidence),
            float(found.bounds[-1]),
            True,
        )
    density = spectral_density(operator, steps=min(steps, n), probes=probes, confidence=confidence, seed=seed)
    error = float(abs(density.couplings[-1])) + density.rounding
    return _Spectrum(n, density.nodes, density.weights, density.moment(1).scaled(n), error, False)


def _shares(traces: list[Estimate], confidence: float) -> list[Estimate]:
    """Return each trace over the sum of all, with the errors of both; unbounded where the sum may be zero."""
    values, errors = (np.array([getattr(one, name) for one in traces]) for name in ("estimate", "standard_error"))
    total, spread = float(values.sum()), float(np.linalg.norm(errors))
    # Many probes of many blocks: a normal interval, as Student's with a thousand degrees of freedom.
    whole = with_error(total, spread, 1000, confidence)
    if whole.interval[0] <= 0 <= whole.interval[1]:
        return [Estimate(float("nan"), float("inf"), (-float("inf"), float("inf")), confidence)] * len(traces)
    found = []
    for value, error in zip(values, errors, strict=True):
        share = float(value / total)
        others = spread**2 - error**2
        own = float(np.sqrt((1.0 - share) ** 2 * error**2 + share**2 * max(others, 0.0)) / abs(total))
        found.append(with_error(share, own, 1000, confidence))
    return found


def _distances(spectra: list[_Spectrum], sigma: float | None) -> tuple[float, Floats, Floats, Floats]:
    """Return the width of the smoothing, its grid, and the distances of both kinds between all blocks."""
    low, high = min(one.nodes[0] for one in spectra), max(one.nodes[-1] for one in spectra)
    # All eigenvalues equal leave no spread, and any width gives zero.
    width = _SIGMA * (high - low) or 1.0 if sigma is None else sigma
    if (high - low) / width > 1e6:
        raise InvalidInputError(
            f"sigma={width:g} would take a grid of more than a million points for eigenvalues from {low:g} to {high:g}."
        )
    grid = common_grid(low, high, width)
    curves = [smoothed(one.nodes, one.weights, grid, width) for one in spectra]
    count = len(spectra)
    distances, transports = np.zeros((count, count)), np.zeros((count, count))
    for i in range(count):
        for j in range(i):
            distances[i, j] = distances[j, i] = jensen_shannon(curves[i], curves[j])
            pair = spectra[i], spectra[j]
            transports[i, j] = transports[j, i] = wasserstein(
                *(part for one in pair for part in (one.nodes, one.weights))
            )
    return width, grid, distances, transports
