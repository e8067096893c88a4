"""diagonal: the entries on the diagonal of a square operator, all at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.errors import InvalidInputError
from specop.krylov.known import Complement
from specop.krylov.progress import progress_bar
from specop.krylov.ranges import check_size
from specop.operators.scipy import aslinearoperator
from specop.results.diagonal import DiagonalResult
from specop.results.eigen import EigenResult
from specop.results.result import delivered, versions
from specop.spectral.goals import Goal, checked_goal
from specop.spectral.sketch import Sketch

__all__ = ["diagonal"]

_STAGE = 8
# Entries that a sketch may hold where nobody asked for one.
_LARGEST_FREE_SKETCH = 100_000_000
# The scatter of estimates that leave out each probe in turn was 0.75 to 1.0 of their mean's error on all spectra tried,
# because they depend on each other.
_DEPENDENCE = 4 / 3
_METHODS = ("auto", "bekas", "xdiag", "exact")


def diagonal(
    A: Any,
    *,
    method: str = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_matvecs: int | None = None,
    deflate: EigenResult | None = None,
    seed: int = 0,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> DiagonalResult:
    r"""Estimate the diagonal of a square operator, with a standard error for each entry.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Square, n x n.
    method : {"auto", "bekas", "xdiag", "exact"}
        - "bekas" [1]_: the mean of :math:`z \circ A z` over vectors z of random signs. An entry's variance for each
          probe is the sum of the squares beside it in its row. Holds two vectors.
        - "xdiag" [2]_: half of the m products make a sketch Q of the range, the others multiply it by A.T; the diagonal
          of :math:`Q Q^\top A` is then known, and each probe in turn is left out and probes the rest. Far better where
          eigenvalues decay. Holds up to 5/2 m vectors.
        - "exact": n unit vectors.
        - "auto": "exact" where n products suffice; otherwise "xdiag" if the first eight products show that a sketch
          pays, and takes at most 1e8 entries; else "bekas".
    rtol, atol, max_matvecs
        As in `trace`, for the standard error of the whole diagonal in the Euclidean norm, relative to its norm; by
        default ``rtol = 0.1``.
    deflate : EigenResult, optional
        Known eigenpairs of a symmetric A; their part of the diagonal is not estimated. Errors of the
        eigenvectors enter the diagonal as they are, so `tol` of `eigsh` should be smaller than `rtol` here.
        Checked as in `trace`.
    seed, progress, raise_on_failure
        As in `trace`.

    Returns
    -------
    DiagonalResult

    Raises
    ------
    InvalidInputError, NonFiniteError, NotConvergedError
    MissingTransposeError
        By "xdiag", if A has no transposed product.

    References
    ----------
    .. [1] C. Bekas, E. Kokiopoulou and Y. Saad, An estimator for the diagonal of a matrix, Appl. Numer. Math. 57
       (2007), 1214-1229.
    .. [2] E. N. Epperly, J. A. Tropp and R. J. Webber, XTrace: Making the most of every sample in stochastic trace
       estimation, SIAM J. Matrix Anal. Appl. 45 (2024), 1-23.

    Examples
    --------
    >>> import numpy as np, specop
    >>> specop.diagonal(np.diag([1.0, 2.0, 3.0])).diagonal
    array([1., 2., 3.])
    """
    started = time.perf_counter()
    operator = aslinearoperator(A)
    n = operator.shape[0]
    if operator.shape[1] != n:
        raise InvalidInputError(f"only a square operator has a diagonal, got shape {operator.shape}.")
    if deflate is not None and operator.is_symmetric is False:
        raise InvalidInputError(f"deflate takes eigenpairs of a symmetric operator, got {operator!r}.")
    if method not in _METHODS:
        raise InvalidInputError(f"method must be one of {', '.join(_METHODS)}, got {method!r}.")
    goal = checked_goal(rtol, atol, max_matvecs, 0.1)
    if method == "exact" and n > goal.limit:
        raise InvalidInputError(f"method='exact' takes n={n} products, above max_matvecs={goal.limit}.")
    if method == "xdiag" and goal.limit < 2:
        raise InvalidInputError(f"method='xdiag' takes at least two products, got max_matvecs={goal.limit}.")
    space = Complement(operator, deflate, seed)
    with operator.session(), progress_bar(progress, "diagonal") as update:
        if method == "exact" or (method == "auto" and n <= (goal.limit if goal.is_budget else min(_STAGE, goal.limit))):
            moments, used = _exact(space, update), "exact"
        else:
            moments, used = _estimated(space, goal, method, update)
    converged = goal.is_budget or used == "exact" or moments.satisfy(goal)
    message = used
    if not converged:
        message = (
            f"diagonal stopped after {space.products} products with a standard error of {moments.error:.3g} at a norm "
            f"of {moments.norm:.6g}. Raise max_matvecs or rtol, or pass deflate=specop.eigsh(A) to take the largest "
            f"eigenvalues out."
        )
    result = DiagonalResult(
        diagonal=moments.mean(),
        standard_errors=moments.standard_errors(),
        norm=moments.norm,
        error_norm=moments.error,
        method=used,
        matvecs=space.products + space.checks,
        converged=converged,
        message=message,
        samples=operator.samples,
        seed=probes.check_seed(seed),
        seconds=time.perf_counter() - started,
        versions=versions(operator.backend.name),
    )
    return delivered(result, raise_on_failure)


class _Moments:
    """A known part of the diagonal, and sum and squares of random vectors whose mean is the rest."""

    def __init__(self, space: Complement, base: Array, inflation: float = 1.0) -> None:
        self.space = space
        self.inflation = inflation
        self.backend = space.backend
        self.base = base
        self.count = 0
        self.sum = self.backend.zeros(space.layout)
        self.squares = self.backend.zeros(space.layout)
        self.total = 0.0
        self.norm = self.error = float("nan")

    def add(self, vectors: list[Array]) -> None:
        """Add random vectors, and compute the norms of mean and error."""
        lengths = self.space.checked([self.backend.norm(vector) for vector in vectors])
        check_size(float(lengths.max(initial=0.0)), self.space.operator, squared=True)
        for vector in vectors:
            self.squares = self.backend.axpy_(self.squares, 1.0, self.backend.multiply(vector, vector))
            self.sum = self.backend.axpy_(self.sum, 1.0, vector)
        self.count += len(vectors)
        self.total += float(np.sum(lengths**2))
        self.measure()

    def measure(self) -> None:
        """Compute the norms of mean and error."""
        length, norm = self.space.to_host(self.backend.norm(self.sum), self.backend.norm(self.mean()))
        self.norm, s = float(norm), self.count
        if s == 0:
            self.error = 0.0
        elif s > 1:
            self.error = self.inflation * max(0.0, (self.total / s - float(length / s) ** 2) / (s - 1)) ** 0.5

    def satisfy(self, goal: Goal) -> bool:
        """Whether there are enough vectors for a small enough error."""
        return self.count >= _STAGE and goal.accepts(self.norm, self.error)

    def mean(self) -> Array:
        return self.backend.axpy_(self.backend.copy(self.base), 1.0 / max(1, self.count), self.sum)

    def standard_errors(self) -> Array:
        s, layout = self.count, self.space.layout
        if s == 0:
            return self.backend.zeros(layout)
        if s == 1:
            return self.backend.from_host(np.full(layout.n, np.nan), layout)
        mean, squares = (self.backend.to_numpy(vector) / s for vector in (self.sum, self.squares))
        errors = self.inflation * np.sqrt(np.maximum(0.0, squares - mean**2) / (s - 1))
        return self.backend.from_host(errors, layout)


def _exact(space: Complement, update: Callable[[int, str], None]) -> _Moments:
    entries = []
    for i in range(space.operator.shape[0]):
        unit = space.unit(i)
        entries.append(space.backend.dot(unit, space.multiply(unit)))
        update(space.products, "")
    found = space.backend.from_host(space.checked(entries), space.layout)
    moments = _Moments(space, space.backend.axpy_(found, 1.0, space.known_diagonal()))
    moments.measure()
    return moments


def _estimated(space: Complement, goal: Goal, method: str, update: Callable[[int, str], None]) -> tuple[_Moments, str]:
    capacity = min(goal.limit // 2, space.dimension)
    if method == "auto":
        capacity = min(capacity, _LARGEST_FREE_SKETCH // (5 * space.operator.shape[0]))
        if capacity < _STAGE:
            method = "bekas"
    moments = _Moments(space, space.known_diagonal())
    if method == "bekas":
        return _bekas(space, goal, moments, update), "bekas"
    sketch = Sketch(space, capacity, signs=True)
    if method == "auto":
        sketch.draw(_STAGE)
        if not _pays(sketch, goal):
            moments.add(_products_of(sketch))
            return _bekas(space, goal, moments, update), "bekas"
    return _xdiag(sketch, goal, update), "xdiag"


def _bekas(space: Complement, goal: Goal, moments: _Moments, update: Callable[[int, str], None]) -> _Moments:
    while space.products < goal.limit and not moments.satisfy(goal):
        found = []
        for i in range(moments.count, moments.count + min(_STAGE, goal.limit - space.products)):
            probe = probes.rademacher(space.backend, space.layout, space.seed, i)
            found.append(space.backend.multiply(probe, space.multiply(probe)))
        moments.add(found)
        update(space.products, f"norm {moments.norm:.5g} +- {moments.error:.2g}")
    return moments


def _xdiag(sketch: Sketch, goal: Goal, update: Callable[[int, str], None]) -> _Moments:
    space = sketch.space
    transposed: list[Array] = []
    while True:
        size = sketch.capacity
        if not goal.is_budget:
            size = min(size, 2 * sketch.drawn if transposed else _STAGE)
        sketch.draw(size - sketch.drawn)
        while len(transposed) < sketch.drawn:
            transposed.append(space.multiply_transposed(space.backend.row(sketch.Q, len(transposed))))
        moments = _left_out(sketch, transposed)
        update(space.products, f"norm {moments.norm:.5g} +- {moments.error:.2g}")
        if sketch.drawn == sketch.capacity or moments.satisfy(goal):
            return moments


def _left_out(sketch: Sketch, transposed: list[Array]) -> _Moments:
    r"""Return the diagonal of QQ'A and what each probe changes of it, left out and probing the rest.

    Without probe i, whose direction in Q is s, the known part loses :math:`Qs \circ A^\top Qs`; the probe adds
    :math:`\omega \circ Qs\,(s^\top R_i)`.
    """
    space, backend, p = sketch.space, sketch.space.backend, sketch.drawn
    base = space.known_diagonal()
    left, right = (backend.allocate(space.layout, p, 0) for _ in range(2))
    for i, product in enumerate(transposed):
        row = backend.row(sketch.Q, i)
        base = backend.axpy_(base, 1.0, backend.multiply(row, product))
        left, right = backend.set_row_(left, i, row, 1.0), backend.set_row_(right, i, product, 1.0)
    S = sketch.directions(p)
    left, right = backend.combine_(left, S, 0), backend.combine_(right, S, 0)
    found = []
    moments = _Moments(space, base, _DEPENDENCE)
    for i, weight in enumerate(np.sum(S * sketch.R[:p, :p], axis=0)):
        row = backend.row(left, i)
        lost = backend.multiply(row, backend.row(right, i))
        seen = backend.multiply(row, backend.row(sketch.Omega, i))
        found.append(backend.axpy_(backend.scale_(lost, -1.0), float(weight), seen))
    moments.add(found)
    return moments


def _pays(sketch: Sketch, goal: Goal) -> bool:
    """Whether each row of a sketch would save more than a probe, judged by the first ones."""
    if goal.is_budget:
        return 2.0 * sketch.gain() * goal.limit > sketch.variance()
    # All that is known of the diagonal's norm yet is that its mean entry bounds it from below.
    norm = abs(sketch.mean_eigenvalue()) * sketch.space.dimension**0.5
    return sketch.gain() > goal.tolerance(norm) ** 2


def _products_of(sketch: Sketch) -> list[Array]:
    """Return z * (A z) for the probes of a sketch, whose rows are given up: the products are combinations of them."""
    backend, p = sketch.space.backend, sketch.drawn
    basis = backend.combine_(sketch.Q, sketch.R[:p, :p].copy(), 0)
    return [backend.multiply(backend.row(basis, i), backend.row(sketch.Omega, i)) for i in range(p)]
