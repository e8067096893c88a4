"""diagonal: the entries on the diagonal of a square operator, all at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.errors import InvalidInputError, check_choice
from specop.krylov.known import Complement
from specop.krylov.run import Run
from specop.results.diagonal import DiagonalResult
from specop.results.eigen import EigenResult
from specop.spectral.goals import PRODUCTS, STAGE, Goal, checked_goal, exact_diagonal, turns_exact
from specop.spectral.part.diagonal import diagonal_of_part
from specop.spectral.part.part import DATA
from specop.spectral.sketch import Sketch

__all__ = ["diagonal", "probes_together"]

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
    data: str = "all",
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
        - "auto": reads the diagonal of an array, a SciPy sparse matrix or a `DiagonalOperator`, without a product, if
          a tolerance or nothing is given. Otherwise "exact" for n up to 16, where the limit allows that and there is
          no tolerance, and where estimates would take more products; otherwise "xdiag" if the first eight products show
          that a sketch pays, and takes at most 1e8 entries; else "bekas".
    rtol : float, optional
        Goal for the standard error of the whole diagonal in the Euclidean norm, relative to the diagonal's norm. With
        neither `rtol` nor `atol` it is 0.1, or the whole of `max_matvecs` is used if that is given.
    atol : float, optional
        Goal for the same standard error in units of the diagonal; the larger of both goals counts.
    max_matvecs : int, optional
        Limit on all products; default 1000.
    deflate : EigenResult, optional
        Known eigenpairs of a symmetric A; their part of the diagonal is not estimated. Errors of the
        eigenvectors enter the diagonal as they are, so `tol` of `eigsh` should be smaller than `rtol` here.
        One product shows whether they belong to A; those of another matrix are refused.
    data : {"all", "part"}
        Whether every product is to be that of all data samples. "part" is for an A that is a mean over samples, as
        ``objective.hessian()``, ``ggn()`` and ``fisher()`` are: groups of samples are drawn as in `specop.trace`, each
        is multiplied by a random vector of its own, and errors hold both kinds of chance; the result's
        `sampling_error` is the part of `error_norm` that the choice of samples has, told apart by the first groups of
        each stratum, which are multiplied twice. Groups count as their part of a product, `method` is "bekas", and
        about 30 vectors are held, fewer where they do not fit. Eigenpairs in `deflate` may be those of any similar
        matrix, and errors in them do not enter.
    seed : int
        Seed of the probes. The same seed gives the same bits.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the result so far, instead of warning.

    Returns
    -------
    DiagonalResult

    Raises
    ------
    InvalidInputError, NonFiniteError
    NotConvergedError
        Only with ``raise_on_failure``.
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
    >>> specop.diagonal(np.diag([1.0, 2.0, 3.0])).x
    array([1., 2., 3.])
    """
    check_choice("method", method, _METHODS)
    check_choice("data", data, DATA)
    if data == "part" and method not in ("auto", "bekas"):
        raise InvalidInputError(
            f"data='part' multiplies groups of samples by probes of their own: method={method!r} "
            f"needs products with all data. Leave one of both out."
        )
    goal = checked_goal(rtol, atol, max_matvecs, 0.1)
    limit = PRODUCTS if max_matvecs is None else max_matvecs
    with Run(
        A, "diagonal", square=True, limit=limit, seed=seed, progress=progress, raise_on_failure=raise_on_failure
    ) as run:
        if data == "part":
            return _of_part(run, goal, deflate)
        entries = run.A.read_diagonal() if goal.may_read(method, deflate) else None
        space = Complement(run, deflate)
        if entries is not None and np.isfinite(entries).all():
            read = run.backend.from_host(entries.astype(run.A.dtype), run.A.domain)
            moments, used = _Moments(space, read), "exact"
        elif space.dimension == 0:
            moments, used = _Moments(space, space.known_diagonal()), "exact"
        elif goal.begins_exact(run, method, 2 * STAGE):
            moments, used = _Moments(space, _entries(run)), "exact"
        else:
            moments, used = _estimated(space, goal, method)
    converged = goal.is_budget or used == "exact" or moments.satisfy(goal)
    message = used
    if not converged:
        message = (
            f"diagonal stopped after {run.products} products with a standard error of {moments.error:.3g} at a norm "
            f"of {moments.norm:.6g}. Raise max_matvecs or rtol, or pass deflate=specop.eigsh(A) to take the largest "
            f"eigenvalues out."
        )
    return run.result(
        DiagonalResult,
        x=moments.mean(),
        standard_errors=moments.standard_errors(),
        norm=moments.norm,
        error_norm=moments.error,
        method=used,
        converged=converged,
        message=message,
    )


def _of_part(run: Run, goal: Goal, deflate: EigenResult | None) -> DiagonalResult:
    found = diagonal_of_part(run, goal, deflate)
    converged = goal.is_budget or goal.accepts(found.norm, found.error_norm)
    message = f"{found.samples_used} of {run.samples} samples, {found.probes} probes"
    if not converged:
        message = (
            f"diagonal stopped after {run.products} products with a standard error of {found.error_norm:.3g} at a norm "
            f"of {found.norm:.6g} ({message}). Raise max_matvecs or rtol, or pass deflate=specop.eigsh(A) of a smaller "
            f"objective to take the largest eigenvalues out."
        )
    return run.result(
        DiagonalResult,
        x=found.x,
        standard_errors=found.standard_errors,
        norm=found.norm,
        error_norm=found.error_norm,
        method="bekas",
        sampling_error=found.sampling_error,
        samples_used=found.samples_used,
        converged=converged,
        message=message,
    )


def probes_together(rows: int) -> int:
    """Return how many probes without a sketch are kept until the next look, where so many vectors fit."""
    return max(1, min(STAGE, rows - 3))


class _Moments:
    """A known part of the diagonal, and sum and squares of random vectors whose mean is the rest."""

    def __init__(self, space: Complement, base: Array, inflation: float = 1.0) -> None:
        self.space = space
        self.inflation = inflation
        self.backend = space.backend
        self.base = base
        self.count = 0
        self.total = 0.0
        self.sum, self.squares = (self.backend.zeros(space.layout) for _ in range(2))
        self.measure()

    def add(self, vectors: list[Array]) -> None:
        """Add random vectors, and compute the norms of mean and error."""
        lengths = self.space.run.scalars([self.backend.norm(vector) for vector in vectors])
        self.space.run.check_size(float(lengths.max(initial=0.0)), squared=True)
        for vector in vectors:
            self.squares = self.backend.axpy_(self.squares, 1.0, self.backend.multiply(vector, vector))
            self.sum = self.backend.axpy_(self.sum, 1.0, vector)
        self.count += len(vectors)
        self.total += float(np.sum(lengths**2))
        self.measure()

    def measure(self) -> None:
        """Compute the norms of mean and error."""
        length, norm = self.space.run.to_host(self.backend.norm(self.sum), self.backend.norm(self.mean()))
        self.norm, s = float(norm), self.count
        self.error = 0.0 if s == 0 else float("nan")
        if s > 1:
            self.error = self.inflation * max(0.0, (self.total / s - float(length / s) ** 2) / (s - 1)) ** 0.5

    def satisfy(self, goal: Goal) -> bool:
        """Whether there are enough vectors for a small enough error."""
        return self.count >= STAGE and goal.accepts(self.norm, self.error)

    def turn_exact(self, goal: Goal, each: int, ahead: int) -> bool:
        """Whether probes of `each` products would take more than n further ones; `ahead` come before the next look."""
        needed = each * goal.probes_needed(self.count, self.norm, self.error) if self.count >= STAGE else 0.0
        return turns_exact(self.space.run, needed, ahead)

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


def _entries(run: Run) -> Array:
    return run.backend.from_host(exact_diagonal(run), run.A.domain)


def _estimated(space: Complement, goal: Goal, method: str) -> tuple[_Moments, str]:
    run, may_turn = space.run, method == "auto"
    if method == "xdiag" and run.left < 2:
        raise InvalidInputError(f"method='xdiag' takes at least two products, got max_matvecs={run.left}.")
    capacity = min(run.left // 2, space.dimension)
    if may_turn:
        capacity = min(capacity, _LARGEST_FREE_SKETCH // (5 * run.n), run.room().rows // 5)
    moments, sketch = _Moments(space, space.known_diagonal()), None
    if method == "xdiag" or (may_turn and capacity >= STAGE):
        sketch = Sketch(space, capacity, signs=True)
    if may_turn and sketch:
        sketch.draw(STAGE)
        if not _pays(sketch, goal):
            moments.add(_products_of(sketch))
            sketch = None
    moments = _xdiag(sketch, goal, may_turn) if sketch else _bekas(space, goal, moments, may_turn)
    if may_turn and moments.turn_exact(goal, 2 if sketch else 1, run.left):
        return _Moments(space, _entries(run)), "exact"
    return moments, "xdiag" if sketch else "bekas"


def _bekas(space: Complement, goal: Goal, moments: _Moments, may_turn: bool) -> _Moments:
    run = space.run
    # One transfer for all that fit.
    together = probes_together(run.room().rows)
    while run.left > 0 and not moments.satisfy(goal):
        if may_turn and moments.turn_exact(goal, 1, STAGE):
            break
        ahead = range(moments.count, moments.count + min(STAGE, run.left))
        for first in range(ahead.start, ahead.stop, together):
            found = []
            for i in range(first, min(first + together, ahead.stop)):
                probe = probes.rademacher(space.backend, space.layout, run.seed, i)
                found.append(space.backend.multiply(probe, space.multiply(probe)))
            moments.add(found)
        run.update(f"norm {moments.norm:.5g} +- {moments.error:.2g}")
    return moments


def _xdiag(sketch: Sketch, goal: Goal, may_turn: bool) -> _Moments:
    space = sketch.space
    transposed: list[Array] = []
    while True:
        size = sketch.capacity
        if not goal.is_budget:
            size = min(size, 2 * sketch.drawn if transposed else STAGE)
        sketch.draw(size - sketch.drawn)
        while len(transposed) < sketch.drawn:
            transposed.append(space.multiply_transposed(space.backend.row(sketch.Q, len(transposed))))
        moments = _left_out(sketch, transposed)
        space.run.update(f"norm {moments.norm:.5g} +- {moments.error:.2g}")
        if sketch.drawn == sketch.capacity or moments.satisfy(goal):
            return moments
        if may_turn and moments.turn_exact(goal, 2, 2 * sketch.drawn):
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
    for i, weight in enumerate(np.sum(S * sketch.R[:p, :p], axis=0) * (not sketch.is_zero)):
        row = backend.row(left, i)
        lost = backend.multiply(row, backend.row(right, i))
        seen = backend.multiply(row, backend.row(sketch.Omega, i))
        found.append(backend.axpy_(backend.scale_(lost, -1.0), float(weight), seen))
    moments.add(found)
    return moments


def _pays(sketch: Sketch, goal: Goal) -> bool:
    """Whether each row of a sketch would save more than a probe, judged by the first ones."""
    if goal.is_budget:
        return 2.0 * sketch.gain() * (sketch.space.run.left + sketch.drawn) > sketch.variance()
    # All that is known of the diagonal's norm yet is that its mean entry bounds it from below.
    norm = abs(sketch.mean_eigenvalue()) * sketch.space.dimension**0.5
    return sketch.gain() > goal.tolerance(norm) ** 2


def _products_of(sketch: Sketch) -> list[Array]:
    """Return z * (A z) for the probes of a sketch, whose rows are given up: the products are combinations of them."""
    backend, p = sketch.space.backend, sketch.drawn
    coefficients = sketch.R[:p, :p] * (not sketch.is_zero)
    basis = backend.combine_(sketch.Q, coefficients, 0)
    return [backend.multiply(backend.row(basis, i), backend.row(sketch.Omega, i)) for i in range(p)]
