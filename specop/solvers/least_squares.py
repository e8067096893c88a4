"""What is to be said of residuals that stay: the least ones, or what rounding leaves of zero."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from specop.arrays.backend import Array, add_
from specop.solvers.equations import Equations

__all__ = ["judged"]


def judged(system: Equations, columns: range, residuals: list[Array], scale: float, level: float) -> str:
    r"""Tell why residuals stay, and make least-squares solutions those of least norm.

    If A is singular and b not in its range, the least residual r is the part of b that A maps to zero. So is, with a
    preconditioner M, the vector z = M r, and of all null vectors of A only those are in the Krylov space: without what
    they have along them, solutions that began at zero are the shortest ones [1]_.

    Parameters
    ----------
    system : Equations
        Equations whose solutions are improved in place, and the norms of whose residuals are noted.
    columns : range
        Columns that share a Krylov space.
    residuals : list of native vectors
        Residual of each of them; consumed.
    scale : float
        About the norm of A.
    level : float
        Norm of A z, relative to those of A and z, that counts as zero.

    Returns
    -------
    str
        "least squares" if no column can have a smaller residual than it has, but for those that reached their goals;
        "rounding" otherwise.

    References
    ----------
    .. [1] Y. Liu, A. Milzarek and F. Roosta, Obtaining pseudo-inverse solutions with MINRES, arXiv:2309.17096 (2023).
    """
    backend, first = system.backend, columns.start
    waiting = [j for j in columns if system.norms[j] > system.goals[j]]
    Z = [system.precondition(residuals[j - first]) for j in waiting]
    images = [system.run.multiply(z) for z in Z]
    found = system.scalars(
        *(backend.dot(image, system.precondition(image)) for image in images),
        *(backend.dot(residuals[j - first], z) for j, z in zip(waiting, Z, strict=True)),
    )
    rises, squares = found.reshape(2, -1)
    is_null = (rises >= 0) & (rises <= (level * scale) ** 2 * squares)
    _shorten(
        system,
        columns,
        residuals,
        [Z[i] for i in np.flatnonzero(is_null)],
        [images[i] for i in np.flatnonzero(is_null)],
    )
    return "least squares" if is_null.all() else "rounding"


def _shorten(system: Equations, columns: range, residuals: list[Array], Z: list[Array], images: list[Array]) -> None:
    """Remove from the solutions what they have along null vectors of A."""
    if not Z:
        return
    backend = system.backend
    pairs = [backend.dot(z, other) for z in Z for other in (*Z, *(system.x[j] for j in columns))]
    products = system.scalars(*pairs).reshape(len(Z), -1)
    # Right-hand sides whose parts along null vectors are alike give one null vector, and noise.
    values, vectors = scipy.linalg.eigh(products[:, : len(Z)])
    kept = values > system.A.precision**0.5 * values[-1]
    shares = (vectors[:, kept] / values[kept]) @ (vectors[:, kept].T @ products[:, len(Z) :])
    for j, residual, column in zip(columns, residuals, shares.T, strict=True):
        (norm,) = system.scalars(backend.norm(add_(backend, residual, column, images)))
        if norm <= max(2 * system.norms[j], system.goals[j]):
            system.norms[j] = norm
            for z, share in zip(Z, column, strict=True):
                system.move(j, -float(share), z)
