"""The damped curvature of some weights, its diagonal and its inverse: what pruning by second derivatives asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specop.arrays.backend import Array, Backend, backend_of
from specop.errors import DomainError, InvalidInputError, checked_number
from specop.operators.operator import LinearOperator
from specop.operators.restrict import restrict
from specop.solvers.decompositions import decomposed
from specop.solvers.woodbury.partition import checked_blocks, partition
from specop.solvers.woodbury.sherman_morrison import ShermanMorrison
from specop.spectral.diagonal import diagonal
from specop.statistics.numbers import Floats, Integers

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["InverseCurvature", "curvature_diagonal", "inverse_curvature"]

_ROWS = "empirical fisher"
# Of the mean diagonal entry; measured in docs/design/analysis.md.
_DEFAULT_DAMPING = 0.01
# Matrices without rows are made dense: as many products as they have columns.
_DENSE = 1000


@dataclass(frozen=True, eq=False)
class InverseCurvature:
    """Inverse of the damped curvature among the weights that are left.

    Attributes
    ----------
    operator : LinearOperator
        The inverse; its vectors hold those weights only.
    diagonal : ndarray
        Diagonal of the inverse.
    damping : float
        Multiple of the identity that was added before the inversion.
    """

    operator: LinearOperator
    diagonal: Floats
    damping: float


def inverse_curvature(
    objective: Objective, matrix: str, damping: float | None, blocks: Any, theta: Array, left: Integers
) -> InverseCurvature:
    """Return the inverse of the curvature among some of the weights, the others being constants.

    Parameters
    ----------
    objective : Objective
    matrix, damping, blocks
        Which matrix is inverted, with what added to it, as `saliency` takes these arguments.
    theta : native vector (n,)
        Parameters at which the matrix is taken.
    left : ndarray of int
        Entries of the parameter vector that the inverse is taken among.
    """
    if damping is not None:
        checked_number("damping", damping)
    if matrix == _ROWS:
        among = _among(blocks, left, objective.n)
        return _of_rows(_sample_gradients(objective, theta, left), backend_of(theta), damping, among)
    if blocks is not None:
        raise InvalidInputError(f"blocks= belongs to matrix={_ROWS!r}, got matrix={matrix!r}.")
    curvature = objective.matrix(matrix, theta)
    if len(left) > _DENSE:
        raise InvalidInputError(
            f"matrix={matrix!r} is inverted as a dense matrix, for at most {_DENSE} weights; there are {len(left)}. "
            f"Take matrix={_ROWS!r}, which is made of rows, or a part of the model: objective.restrict(...)."
        )
    return _of_dense(curvature, matrix, damping, left)


def curvature_diagonal(objective: Objective, matrix: str, theta: Array, left: Integers) -> Floats:
    """Return the diagonal of a curvature matrix at some of the weights."""
    if matrix == _ROWS:
        backend, total, samples = backend_of(theta), np.zeros(len(left)), 0
        for block in _sample_gradients(objective, theta, left):
            total += _squares(backend, block)
            samples += backend.shape(block)[0]
        return total / samples
    restricted = restrict(objective.matrix(matrix, theta), left)
    (entries,) = backend_of(theta).to_host(diagonal(restricted, method="exact").x)
    lowest = int(np.argmin(entries))
    rounding = 100 * restricted.precision * float(np.abs(entries).max())
    if entries[lowest] < -rounding:
        raise DomainError(
            f"the {matrix} has {entries[lowest]:.3g} on its diagonal, at entry {left[lowest]} of the parameter vector: "
            f"this point is no minimum, and a saliency H w^2 / 2 would be negative. Take matrix='ggn' or "
            f"matrix={_ROWS!r}, which are positive semidefinite."
        )
    return np.maximum(entries, 0.0)


def _among(blocks: Any, left: Integers, n: int) -> Any:
    """Return blocks of the parameter vector as those of the weights that are left; a size is one among these."""
    known = checked_blocks(blocks)
    if not isinstance(known, tuple):
        return known
    ends = np.searchsorted(left, [part.stop for part, _ in partition(known, n)])
    return tuple(slice(start, stop) for start, stop in itertools.pairwise([0, *ends.tolist()]) if start < stop)


def _of_rows(rows: Iterator[Array], backend: Backend, damping: float | None, blocks: Any) -> InverseCurvature:
    found = ShermanMorrison(damping=0.0, blocks=blocks)
    total: Floats | float = 0.0
    for block in rows:
        found.update(block)
        total = total + _squares(backend, block)
    moments = np.asarray(total) / found.samples
    if not moments.any():
        raise DomainError(
            "the gradients of all samples are zero, and with them the empirical Fisher matrix: it says nothing of any "
            "weight. Take matrix='ggn', which does not vanish where the model fits its data."
        )
    found.damping = _DEFAULT_DAMPING * float(moments.mean()) if damping is None else float(damping)
    (entries,) = backend.to_host(found.diagonal())
    # The diagonal of an inverse is never below the inverse of the diagonal. In single precision small entries are lost
    # to rounding, or negative: their weights, the most significant ones, would go first.
    entries = np.maximum(entries, 1.0 / (moments + found.damping))
    return InverseCurvature(found.operator(), entries, found.damping)


def _of_dense(curvature: LinearOperator, matrix: str, damping: float | None, left: Integers) -> InverseCurvature:
    found = decomposed(restrict(curvature, left))
    if damping is None:
        damping = _DEFAULT_DAMPING * float(np.abs(found.diagonal).mean())
    if damping <= found.least_damping:
        # The others have no negative eigenvalues but by rounding.
        remedy = ", or take matrix='ggn'" if matrix == "hessian" else ""
        raise DomainError(
            f"the {matrix} with damping {damping:.3g} is not positive definite: its smallest eigenvalue is "
            f"{found.values[0] + damping:.3g}, its largest {found.values[-1] + damping:.3g}, and no weight has a least "
            f"cost. Pass damping above {found.least_damping:.3g}{remedy}."
        )
    operator, diagonal = found.inverse(damping)
    return InverseCurvature(operator, diagonal, float(damping))


def _sample_gradients(objective: Objective, theta: Array, left: Integers) -> Iterator[Array]:
    backend = backend_of(theta)
    whole = len(left) == objective.n
    for _, block in objective.numbered_gradients(theta):
        yield block if whole else backend.gather(block, left)


def _squares(backend: Backend, block: Array) -> Floats:
    """Return the sums of squares of the columns."""
    rows = backend.layout(block).of_length(backend.shape(block)[0])
    ones = backend.from_host(np.ones(rows.n), rows)
    (sums,) = backend.to_host(backend.combine_rows(backend.multiply(block, block), ones))
    return sums
