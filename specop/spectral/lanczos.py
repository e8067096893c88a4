"""eigsh: thick-restart Lanczos, tested for convergence at every step and for missed copies at the end."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop import probes
from specop.backend import Array
from specop.errors import ConvergenceWarning, InvalidInputError, NotConvergedError
from specop.operators.base import LinearOperator
from specop.operators.interop import aslinearoperator
from specop.progress import progress_bar
from specop.results import EigenResult, versions
from specop.spectral.krylov import KrylovSpace, Ritz

__all__ = ["eigsh"]

_CHECK_ROWS = 12
_LARGEST_FREE_BASIS = 10_000_000
_FEWEST_STEPS = 3
_STEPS_TO_SETTLE = 12
# A chi-square variable with one degree of freedom lies below this once in a hundred times.
_CHI_SQUARE_1_PERCENT = 1.5708785790970192e-04


def eigsh(
    A: Any,
    k: int = 6,
    *,
    which: str = "LM",
    v0: Array | EigenResult | None = None,
    ncv: int | None = None,
    tol: float = 1e-3,
    max_matvecs: int | None = None,
    seed: int = 0,
    check_multiplicity: bool = True,
    progress: bool = False,
    raise_on_failure: bool = False,
) -> EigenResult:
    r"""Compute k eigenvalues and eigenvectors of a symmetric operator.

    Thick-restart Lanczos [1]_ with two Gram-Schmidt passes. A pair :math:`(\theta, x)` has converged when

    .. math:: \|A x - \theta x\| \le \mathtt{tol} \cdot \max(\epsilon^{2/3}, |\theta|),

    or when that falls below the rounding error of the products. The eigenvalue's error is about the square of
    that relative to its gap: at the default tolerance usually 1e-9 to 1e-5 relative.

    A Krylov space shows one copy of a multiple eigenvalue. After convergence a second one is therefore grown from
    a random vector orthogonal to what was found, until it shows that nothing was missed, or what.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric, n x n. Asymmetry is noticed while it is multiplied.
    k : int
        Number of eigenvalues, from 1 to n.
    which : {"LM", "LA", "SA", "BE", "SM"}
        Largest in magnitude, largest, smallest, both ends (k // 2 from the low one), smallest in magnitude. "SM"
        finds eigenvalues inside the spectrum and is slow; where many lie at zero, as for most networks, they have
        no individual meaning.
    v0 : native vector (n,) or EigenResult, optional
        Start vector. Of an earlier result all eigenvectors are used, which saves products when the matrix has
        changed little.
    ncv : int, optional
        Largest number of basis vectors held, k < ncv <= n; default ``2 k + 40``, more where n is small. Memory
        is taken as they are needed.
    tol : float
        Relative residual at which a pair has converged.
    max_matvecs : int, optional
        Limit on products, checks included; default ``max(1000, 50 k)``.
    seed : int
        Of the random start vector and of the multiplicity check. The same seed gives the same bits.
    check_multiplicity : bool
        Whether to look for missed copies; 4 to 6 products where the k-th eigenvalue stands apart, more in a bulk.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.
    raise_on_failure : bool
        Whether to raise NotConvergedError, with the partial result, instead of warning.

    Returns
    -------
    EigenResult
        Eigenvalues in ascending order for every ``which``, eigenvectors, residuals and error bounds.

    Raises
    ------
    InvalidInputError
        For an operator that is not square or known not to be symmetric, or an argument out of range.
    AsymmetryError, NondeterministicError, NonFiniteError
        If a product shows it.
    NotConvergedError
        Only with ``raise_on_failure``.

    References
    ----------
    .. [1] K. Wu and H. Simon, Thick-restart Lanczos method for large symmetric eigenvalue problems, SIAM J. Matrix
       Anal. Appl. 22 (2000), 602-616.

    Examples
    --------
    >>> import numpy as np, specop
    >>> result = specop.eigsh(np.diag(np.arange(100.0)), k=3)
    >>> result.eigenvalues.round(3)
    array([97., 98., 99.])
    """
    started = time.perf_counter()
    operator = aslinearoperator(A)
    ends = _checked_ends(operator, k, which)
    capacity = _checked_capacity(operator.shape[0], k, ncv)
    limit = _checked_limits(k, tol, max_matvecs)
    with operator.session(), progress_bar(progress, f"eigsh k={k} {which}") as update:
        space = KrylovSpace(operator, capacity, k, seed)
        space.start(_start_vector(operator, v0, seed))
        search = _Search(space, ends, k, tol, limit, update)
        search.run(check_multiplicity)
        ritz = space.ritz()
        chosen = np.sort(_wanted(ends, ritz.values))
        values, floor = ritz.values[chosen], space.error_floor
        residuals = np.hypot(ritz.residuals[chosen], floor)
        bounds = np.hypot(search.bounds(ritz, chosen), floor)
        rows = space.extract(ritz, chosen)
        if space.warn_of_noise():
            excess = _unseen_residual(space, rows, values, residuals)
            residuals, bounds = np.hypot(residuals, excess), np.hypot(bounds, excess)
    eigen = EigenResult(
        eigenvalues=values,
        rows=rows,
        residuals=residuals,
        bounds=bounds,
        converged=search.failure is None,
        matvecs=space.products,
        check_matvecs=search.check_products,
        which=which,
        tol=tol,
        message=search.failure or "converged",
        samples=operator.samples,
        seed=seed,
        seconds=time.perf_counter() - started,
        versions=versions(operator.backend.name),
        unflatten=operator.unflatten,
    )
    if search.failure is not None:
        if raise_on_failure:
            raise NotConvergedError(search.failure, eigen)
        warnings.warn(search.failure, ConvergenceWarning, stacklevel=2)
    return eigen


@dataclass(frozen=True)
class _End:
    """One end of a spectrum and how many eigenvalues are wanted there; the key is larger the more wanted."""

    key: Callable[[Any], Any]
    values_at: Callable[[float], tuple[float, ...]]
    count: int

    def best(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        return np.argsort(-self.key(values), kind="stable")


class _Search:
    """The state of one eigsh call around its Krylov space."""

    def __init__(
        self, space: KrylovSpace, ends: list[_End], k: int, tol: float, limit: int, update: Callable[[int, str], None]
    ) -> None:
        self.space = space
        self.ends = ends
        self.k = k
        self.tol = tol
        self.limit = limit
        self.update = update
        self.failure: str | None = None
        self.check_products = 0

    def run(self, check_multiplicity: bool) -> None:
        """Find k pairs; then, until a check is clean, those that their Krylov space could not show."""
        self._find()
        found = self.space.products
        while check_multiplicity and self.failure is None and not self.space.is_exhausted:
            if not self._misses_something():
                break
            self._find()
        self.check_products = self.space.products - found

    def _find(self) -> None:
        """Expand until the wanted Ritz pairs have converged, restarting whenever the space is full."""
        space = self.space
        while True:
            ritz = space.ritz()
            lagging = self._lagging(ritz)
            if space.is_exhausted or (len(ritz.values) >= self.k and len(lagging) == 0):
                return
            if space.products >= self.limit:
                self.failure = self._what_lags(len(lagging))
                return
            if space.is_full:
                most = space.capacity - len(space.frontier) - 2
                space.restart(ritz, _best(self.ends, ritz.values, min((self.k + len(ritz.values)) // 2, most)))
                continue
            if len(space.frontier) == 0 and not space.lost.any():
                space.start()
            space.expand(space.next_for(ritz, int(lagging[0])) if len(lagging) else int(space.frontier[-1]))
            self.update(space.products, f"{self.k - len(lagging)} of {self.k} converged")

    def _misses_something(self) -> bool:
        """Search outside of the space from a random vector; return whether a wanted eigenvalue shows there."""
        space = self.space
        held = space.ritz()
        # What the Krylov space of one vector misses is orthogonal to all of it: search outside of the whole. A space
        # grown from several vectors holds parts of what may still be missed, and only its converged pairs do not.
        room = space.capacity - _CHECK_ROWS if space.starts == 1 else 0
        if space.rows > room and space.capacity == space.n:
            self._exhaust()
            return False
        if space.rows > room:
            keep = max(self.k, min(room - len(space.frontier), len(held.values)))
            space.restart(held, _best(self.ends, held.values, keep), forget_frontier=space.starts > 1)
            held = space.ritz()
        first, begun, restarted = space.rows, space.products, False
        space.start()
        while True:
            if space.products >= self.limit:
                self.failure = (
                    f"eigsh stopped after {space.products} products (max_matvecs={self.limit}): the {self.k} "
                    f"eigenvalues converged, but the check for missed copies did not finish. Raise max_matvecs, or "
                    f"pass check_multiplicity=False if the spectrum is known to be simple."
                )
                return False
            space.expand(int(space.frontier[-1]))
            self.update(space.products, "checking for missed copies")
            chain = space.ritz(first)
            if any((end.key(chain.values) > key).any() for end, key in self._borders(held)):
                return True
            steps = space.products - begun
            closed = len(space.frontier) == 0 or space.frontier[-1] < first
            if closed or (not restarted and self._is_ruled_out(chain, held, first)) or self._is_settled(chain, steps):
                return False
            if space.is_full:
                space.restart(chain, _best(self.ends, chain.values, max(1, len(chain.values) // 2)))
                restarted = True

    def _exhaust(self) -> None:
        """Multiply what is left of a space small enough to be held whole."""
        space = self.space
        while not space.is_exhausted and space.products < self.limit:
            if len(space.frontier) == 0:
                space.start()
            space.expand(int(space.frontier[0]))
            self.update(space.products, "completing the space")

    def _is_ruled_out(self, chain: Ritz, held: Ritz, first: int) -> bool:
        r"""Whether an eigenvalue beyond the border would have shown by now, with 99 % confidence.

        After m steps from a unit vector r, no eigenvector x with eigenvalue mu has :math:`(r'x)^2` above the
        Christoffel number :math:`1 / \sum_{j \le m} p_j(\mu)^2` of the orthonormal polynomials of the recurrence.
        For a random r in dimension d, :math:`d (r'x)^2` is chi-square with one degree of freedom.
        """
        if len(chain.values) < _FEWEST_STEPS:
            return False
        space = self.space
        beta = np.linalg.norm(space.G[space.frontier[-1], chain.rows])
        for end, key in self._borders(held):
            for mu in end.values_at(key):
                # p(mu) is proportional to (T - mu)^-1 e_m, with p_0 = 1; the last one follows from beta.
                distances = chain.values - mu
                if not distances.all():
                    return False
                resolvent = chain.coefficients[-1] / distances
                lead = chain.coefficients[0] @ resolvent
                largest = lead**2 / (resolvent @ resolvent + 1.0 / beta**2)
                if (space.n - first) * largest > _CHI_SQUARE_1_PERCENT:
                    return False
        return True

    def _is_settled(self, chain: Ritz, steps: int) -> bool:
        """Whether the search has found what is outermost there, and it is not wanted."""
        tops = [int(end.best(chain.values)[0]) for end in self.ends]
        settled = chain.inner_residuals[tops] <= self._tolerances(chain.values[tops])
        return steps >= _STEPS_TO_SETTLE and bool(settled.all())

    def _borders(self, held: Ritz) -> list[tuple[_End, float]]:
        """Return for each end the key that a missed eigenvalue exceeds: the last one held, and the tolerance."""
        borders = []
        for end in self.ends:
            last = held.values[end.best(held.values)[end.count - 1]]
            borders.append((end, float(end.key(last)) + 2 * self.tol * abs(last) + self.space.error_floor))
        return borders

    def bounds(self, ritz: Ritz, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
        """Bound each eigenvalue's error by its residual r, or by r^2 / gap (Kato and Temple) where that is smaller.

        The gap is to what is known. The check for missed eigenvalues reaches down to the last wanted one, so next to
        that there may be others, and only the residual counts.
        """
        bounds = ritz.residuals[chosen].copy()
        for position, i in enumerate(chosen):
            others = np.abs(np.delete(ritz.values, i) - ritz.values[i]) - np.delete(ritz.residuals, i)
            gap = float(others.min(initial=np.inf))
            checked = any(end.key(ritz.values[i]) > key for end, key in self._borders(ritz))
            if gap > bounds[position] and (checked or self.space.is_exhausted):
                bounds[position] *= bounds[position] / gap
        return bounds

    def _lagging(self, ritz: Ritz) -> NDArray[np.intp]:
        wanted = _wanted(self.ends, ritz.values)
        return wanted[ritz.residuals[wanted] > self._tolerances(ritz.values[wanted])]

    def _tolerances(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        smallest = self.space.A.domain.epsilon ** (2 / 3)
        return np.maximum(self.tol * np.maximum(smallest, np.abs(values)), self.space.noise_floor)

    def _what_lags(self, lagging: int) -> str:
        return (
            f"eigsh stopped after {self.space.products} products (max_matvecs={self.limit}) with "
            f"{self.k - lagging} of {self.k} eigenvalues converged to tol={self.tol:g}. Raise max_matvecs or ncv, or "
            f"loosen tol; the residuals tell which ones lag."
        )


def _wanted(ends: list[_End], values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the wanted values, best first; each end is served from what the others left."""
    taken: list[int] = []
    for end in ends:
        best = [int(i) for i in end.best(values) if int(i) not in taken]
        taken += best[: end.count]
    return np.array(taken, dtype=np.intp)


def _best(ends: list[_End], values: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Indices of about `count` values, at least the wanted ones, each end having its share."""
    total = sum(end.count for end in ends)
    return _wanted([replace(end, count=max(end.count, count * end.count // total)) for end in ends], values)


def _unseen_residual(
    space: KrylovSpace, rows: Array, values: NDArray[np.float64], residuals: NDArray[np.float64]
) -> float:
    """Spend one product on what no estimate shows: the error of the products themselves."""
    backend = space.backend
    last = int(np.argmin(np.abs(values)))
    rest = backend.axpy_(space.A._matvec(rows[last]), -float(values[last]), rows[last])
    space.products += 1
    (true,) = backend.to_host(backend.norm(rest))
    return max(0.0, float(true) - float(residuals[last]))


def _start_vector(operator: LinearOperator, v0: Array | EigenResult | None, seed: int) -> Array | None:
    if v0 is None:
        return None
    backend = operator.backend
    if not isinstance(v0, EigenResult):
        backend.check_vector(v0, operator.domain, "v0")
        return v0
    # A little noise, so that directions the old eigenvectors lack can enter.
    count = len(v0.eigenvalues)
    vector = backend.scale_(probes.sphere(backend, operator.domain, seed, 0), 1e-2 * (count / operator.shape[0]) ** 0.5)
    for i in range(count):
        row = v0.eigenvector(i)
        backend.check_vector(row, operator.domain, "each eigenvector of v0")
        vector = backend.axpy_(vector, 1.0, row)
    return vector


def _checked_ends(operator: LinearOperator, k: int, which: str) -> list[_End]:
    rows, columns = operator.shape
    if rows != columns or operator.is_symmetric is False:
        raise InvalidInputError(
            f"eigsh needs a symmetric operator, got {operator!r}. For singular values pass A.T @ A."
        )
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= rows:
        raise InvalidInputError(f"k must be an integer from 1 to n={rows}, got {k!r}.")
    largest, smallest = (np.positive, lambda key: (key,)), (np.negative, lambda key: (-key,))
    ends = {
        "LM": [_End(np.abs, lambda key: (-key, key), k)],
        "LA": [_End(*largest, k)],
        "SA": [_End(*smallest, k)],
        "SM": [_End(lambda values: -np.abs(values), lambda key: (key, -key), k)],
        "BE": [_End(*largest, k - k // 2), _End(*smallest, k // 2)],
    }
    if which not in ends:
        raise InvalidInputError(f"which must be one of {', '.join(ends)}, got {which!r}.")
    return [end for end in ends[which] if end.count]


def _checked_capacity(n: int, k: int, ncv: int | None) -> int:
    if ncv is None:
        # A basis of ten million entries is small next to any model's data, and a larger one saves restarts.
        return min(n, max(2 * k + 40, min(_LARGEST_FREE_BASIS // n, 5 * k + 100)))
    if not k < ncv <= n and not k == ncv == n:
        raise InvalidInputError(f"ncv must lie above k={k} and not above n={n}, got {ncv!r}.")
    # The multiplicity check needs room for a few vectors of its own beside the k found.
    return min(n, max(int(ncv), k + _CHECK_ROWS))


def _checked_limits(k: int, tol: float, max_matvecs: int | None) -> int:
    if not tol >= 0 or not np.isfinite(tol):
        raise InvalidInputError(f"tol must be a finite number >= 0, got {tol!r}.")
    if max_matvecs is None:
        return max(1000, 50 * k)
    if max_matvecs < k:
        raise InvalidInputError(f"max_matvecs must be at least k={k}, got {max_matvecs!r}.")
    return int(max_matvecs)
