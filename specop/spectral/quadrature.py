"""spectral_density: stochastic Lanczos quadrature for the whole spectrum."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop import probes as probe_vectors
from specop.errors import InvalidInputError
from specop.operators.base import LinearOperator
from specop.operators.interop import aslinearoperator
from specop.progress import progress_bar
from specop.results import EigenResult, SpectralDensity, versions
from specop.spectral.complement import checked_deflation
from specop.spectral.krylov import KrylovSpace, Ritz

__all__ = ["spectral_density"]

_RESOLVED = 1e-3
# The weight of a simple eigenvalue is chi-square with one degree of freedom, over n; it exceeds this once in 1,000
# times. A larger weight speaks of several copies, whose number is then left to the quadrature.
_LARGEST_SIMPLE_WEIGHT = 10.83


def spectral_density(
    A: Any,
    *,
    steps: int | None = None,
    probes: int | None = None,
    deflate: EigenResult | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> SpectralDensity:
    r"""Estimate the density of all eigenvalues of a symmetric operator.

    Stochastic Lanczos quadrature [1]_: m steps from a random unit vector give Ritz values :math:`\theta_j` with
    weights :math:`\tau_j = S_{0j}^2` that integrate polynomials up to degree 2m - 1 exactly for that vector, and on
    average over vectors give the spectral density.

    A Ritz value whose residual is below 1e-3 of it is an eigenvalue, and an eigenvalue's true weight is known: 1/n. It
    gets that weight, and the rest of the probe's weights are scaled to the remaining mass. This takes no products and
    removes most of the variance that outliers cause; the bias is of order 1/n.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n.
    steps : int, optional
        Lanczos steps for each probe, at most n; default ``min(30, n)``.
    probes : int, optional
        Number of random vectors; default 1. With one, integrals have no error bar.
    deflate : EigenResult, optional
        Known eigenpairs of A. They enter with weight 1/n each, multiplicity and all, and the quadrature is spent on
        the rest.
    confidence : float
        Of the intervals that the result returns.
    seed : int
        Of the random vectors.
    progress : bool
        As in `eigsh`.

    Returns
    -------
    SpectralDensity
        Nodes and weights; nothing is cut off or put on a grid.

    Raises
    ------
    InvalidInputError, AsymmetryError, NondeterministicError, NonFiniteError

    References
    ----------
    .. [1] S. Ubaru, J. Chen and Y. Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIAM J. Matrix
       Anal. Appl. 38 (2017), 1075-1099.

    Examples
    --------
    >>> import numpy as np, specop
    >>> density = specop.spectral_density(np.diag(np.linspace(0, 1, 500)), probes=4)
    >>> abs(density.cdf(0.5) - 0.5) < 0.1
    True
    """
    started = time.perf_counter()
    operator = aslinearoperator(A)
    n = operator.shape[0]
    if operator.shape[1] != n or operator.is_symmetric is False:
        raise InvalidInputError(f"spectral_density needs a symmetric operator, got {operator!r}.")
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence must lie between 0 and 1, got {confidence!r}.")
    vectors, known = checked_deflation(operator, deflate)
    rest = n - len(known)
    m = min(30, n) if steps is None else steps
    count = 1 if probes is None else probes
    if not 1 <= m <= n or count < 1:
        raise InvalidInputError(f"steps must lie in 1..n={n} and probes be positive, got {m!r} and {count!r}.")
    m = min(m, rest)

    rules = [_Rule(known, np.full(len(known), 1.0 / n), -1)]
    with operator.session(), progress_bar(progress, "spectral density", count * m) as update:
        space = KrylovSpace(operator, len(known) + m, 0, seed)
        if deflate is not None:
            space.append_eigenvectors(vectors, known, deflate.residuals)
        for index in range(count if rest else 0):
            nodes, weights = _quadrature(operator, space, m, seed, index, update)
            rules.append(_Rule(nodes, weights * (rest / n) / count, index))
        space.warn_of_noise()
    nodes = np.concatenate([rule.nodes for rule in rules])
    order = np.argsort(nodes, kind="stable")
    return SpectralDensity(
        nodes=nodes[order],
        weights=np.concatenate([rule.weights for rule in rules])[order],
        probe=np.concatenate([np.full(len(rule.nodes), rule.probe) for rule in rules])[order],
        n=n,
        steps=m,
        confidence=confidence,
        matvecs=space.products,
        converged=True,
        message=f"{count} probe(s) of {m} steps",
        samples=operator.samples,
        seed=seed,
        seconds=time.perf_counter() - started,
        versions=versions(operator.backend.name),
    )


@dataclass(frozen=True)
class _Rule:
    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]
    probe: int


def _quadrature(
    operator: LinearOperator, space: KrylovSpace, steps: int, seed: int, index: int, update: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, begun = space.rows, space.products
    space.start(probe_vectors.sphere(operator.backend, operator.domain, seed, index))
    # Without a frontier the probe lies in an invariant subspace, and its rule is exact.
    while space.products - begun < steps and len(space.frontier):
        space.expand(int(space.frontier[-1]))
        update(space.products, "")
    ritz = space.ritz(first)
    weights = ritz.coefficients[0] ** 2
    space.truncate(first)
    return ritz.values, _known_weights(ritz, weights / weights.sum(), space.n - first)


def _known_weights(ritz: Ritz, weights: NDArray[np.float64], dimension: int) -> NDArray[np.float64]:
    """Give the Ritz values that are simple eigenvalues the weight 1/dimension, and scale the others to the rest."""
    resolved = ritz.inner_residuals <= _RESOLVED * np.abs(ritz.values)
    simple = resolved & (weights * dimension <= _LARGEST_SIMPLE_WEIGHT)
    if simple.all() or not simple.any():
        return weights
    scaled = weights * (1.0 - simple.sum() / dimension) / weights[~simple].sum()
    return np.where(simple, 1.0 / dimension, scaled)
