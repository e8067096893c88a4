"""eigen_preconditioner, nystrom_preconditioner: approximate inverses of A + d I from known or sketched vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from specop.arrays.backend import Array
from specop.errors import InvalidInputError, checked_count, checked_number
from specop.krylov.known import Complement, eigenvectors_for
from specop.krylov.run import Run
from specop.operators.explicit import LowRankOperator
from specop.operators.operator import Composite, LinearOperator
from specop.operators.scipy import aslinearoperator
from specop.results.eigen import EigenResult
from specop.spectral.nystrom import nystrom_factor
from specop.spectral.sketch import Sketch
from specop.statistics.numbers import Floats

__all__ = ["EigenPreconditioner", "eigen_preconditioner", "nystrom_preconditioner"]


def eigen_preconditioner(A: Any, eigen: EigenResult, *, damping: float = 0.0) -> LinearOperator:
    r"""Make a preconditioner for A + d I of known eigenpairs of A.

    .. math:: M = I + U \left(d \, |\Lambda + d I|^{-1} - I\right) U^\top

    M (A + d I) has the eigenvalue d, up to its sign, instead of the known ones. With the largest ones known, the
    condition number is that of the others. Without damping the smallest known size takes the place of d.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        The matrix that the eigenpairs are of; without the damping.
    eigen : EigenResult
        Eigenpairs of A that `eigsh` found, from whatever framework or file.
    damping : float
        Multiple d of the identity in the system to be solved, at least 0 and in units of A.

    Returns
    -------
    LinearOperator
        Symmetric positive definite, also where A + d I is not; for the `preconditioner` of `solve`.

    Examples
    --------
    >>> import numpy as np, specop
    >>> A, b = np.diag(2.0 ** np.arange(30)), np.ones(30)
    >>> M = specop.eigen_preconditioner(A, specop.eigsh(A, k=20))
    >>> specop.solve(A, b, preconditioner=M).matvecs < 0.5 * specop.solve(A, b, method="cg").matvecs
    True
    """
    operator = aslinearoperator(A)
    if not isinstance(eigen, EigenResult):
        raise InvalidInputError(f"eigen must be an EigenResult of the operator, got {type(eigen).__name__}.")
    checked_number("damping", damping)
    vectors = eigenvectors_for(eigen, operator.backend, operator.domain, "eigen")
    basis = operator.backend.allocate(operator.domain, len(vectors), len(vectors))
    for i, vector in enumerate(vectors):
        basis = operator.backend.set_row_(basis, i, vector, 1.0)
    return EigenPreconditioner(operator, operator.backend.take(basis, len(vectors)), eigen.eigenvalues, damping)


def nystrom_preconditioner(
    A: Any, *, damping: float, rank: int | None = None, seed: int = 0, progress: bool = False
) -> LinearOperator:
    r"""Make a preconditioner for A + d I of a sketch of A, for `rank` products (Nystrom).

    A positive semidefinite A is approximated by :math:`A \Omega (\Omega^\top A \Omega)^{-1} (A \Omega)^\top` with
    random :math:`\Omega` of as many columns as `rank` [1]_. Its eigenpairs make the preconditioner, as in
    `eigen_preconditioner`. It pays for several right-hand sides, or for a small damping; eigenvectors of `eigsh` that
    are there anyway are better.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Symmetric positive semidefinite, n x n; without the damping.
    damping : float
        Multiple d of the identity in the system to be solved, positive and in units of A.
    rank : int, optional
        Number of products, and of vectors that the preconditioner holds; default: 20, or n where that is less.
    seed : int
        Seed of the random vectors of the sketch.
    progress : bool
        Whether to show a progress bar if standard error is a terminal.

    Raises
    ------
    DomainError
        If A shows a negative eigenvalue.

    References
    ----------
    .. [1] Z. Frangella, J. A. Tropp and M. Udell, Randomized Nystrom preconditioning, SIAM J. Matrix Anal. Appl. 44
       (2023), 718-752.

    Examples
    --------
    >>> import numpy as np, specop
    >>> A = np.diag(1e4 * 0.5 ** np.arange(200.0))
    >>> damped = specop.aslinearoperator(A) + 1e-2 * specop.identity_like(specop.aslinearoperator(A))
    >>> M = specop.nystrom_preconditioner(A, damping=1e-2, rank=30)
    >>> specop.solve(damped, np.ones(200), preconditioner=M).steps < 5
    True
    """
    run = Run(A, "nystrom_preconditioner", symmetric=True, seed=seed, progress=progress)
    operator = run.A
    checked_number("damping", damping)
    if damping == 0:
        raise InvalidInputError("damping must be positive: of a low-rank approximation alone there is no inverse.")
    rank = checked_count("rank", min(_RANK, run.n) if rank is None else rank, run.n)
    with run:
        run.room().check(2 * rank, f"{rank=}", "Take a smaller rank, or eigen_preconditioner of what eigsh(A) finds.")
        sketch = Sketch(Complement(run, None), rank, nystrom=True)
        sketch.draw(rank)
        factor = nystrom_factor(sketch, "nystrom_preconditioner needs a positive semidefinite operator", _REMEDY)
    turn, sizes, _ = scipy.linalg.svd(factor, full_matrices=False, check_finite=False)
    values = np.maximum(0.0, sizes**2 - sketch.shift)
    rows = operator.backend.take(operator.backend.combine_(sketch.Q, turn, 0), rank)
    return EigenPreconditioner(operator, rows, values, damping)


# Products of a sketch, where nobody says how many.
_RANK = 20
_REMEDY = "Use eigen_preconditioner, which takes eigenvalues of any sign, or a matrix such as objective.ggn()."


class EigenPreconditioner(Composite):
    """I + U diag(weights) U' of eigenvectors U, which makes all of their eigenvalues alike.

    Parameters
    ----------
    operator : LinearOperator
        The matrix that the eigenpairs are of.
    rows : native array (k, n)
        Orthonormal eigenvectors.
    values : ndarray (k,)
        Eigenvalues of these eigenvectors.
    damping : float
        Number that is added to the eigenvalues.
    """

    def __init__(self, operator: LinearOperator, rows: Array, values: Floats, damping: float) -> None:
        super().__init__((operator,), operator.domain, operator.domain, is_symmetric=True, is_psd=True)
        sums = np.abs(values + damping)
        if not sums.min() > 0:
            raise InvalidInputError(
                f"the eigenvalue {values[np.argmin(sums)]:.4g} with damping={damping:g} is zero: leave it out of the "
                f"eigenpairs, or raise damping."
            )
        level = damping or float(np.min(sums))
        inner = operator.domain.of_length(len(values))
        self._update = LowRankOperator(rows, operator.backend.from_host(level / sums - 1.0, inner))

    def _matvec(self, x: Array) -> Array:
        return self.backend.axpy_(self._update._matvec(x), 1.0, x)
