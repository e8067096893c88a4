"""What the Krylov space of a random vector says about eigenvalues that it does not show."""

from __future__ import annotations

import numpy as np

from specop.spectral.krylov import KrylovSpace, Ritz

__all__ = ["is_ruled_out"]

# A chi-square variable with one degree of freedom lies below this once in a hundred times.
_CHI_SQUARE_1_PERCENT = 1.5708785790970192e-04


def is_ruled_out(space: KrylovSpace, ritz: Ritz, mu: float) -> bool:
    r"""Whether an eigenvalue mu would have shown in a chain of rows by now, with 99 % confidence.

    After m steps from a unit vector r, no eigenvector x with eigenvalue mu has :math:`(r'x)^2` above the
    Christoffel number :math:`1 / \sum_{j \le m} p_j(\mu)^2` of the orthonormal polynomials of the recurrence.
    For a random r in dimension d, :math:`d (r'x)^2` is chi-square with one degree of freedom.

    Parameters
    ----------
    space : KrylovSpace
        Its last frontier row is the chain's next one.
    ritz : Ritz
        Of the chain, whose first row was a random vector orthogonal to the rows before it, and is there still.
    mu : float
    """
    if len(space.frontier) == 0:
        return True
    distances = ritz.values - mu
    if not distances.all():
        return False
    # p(mu) is proportional to (T - mu)^-1 e_m, with p_0 = 1; the last one follows from beta.
    beta = np.linalg.norm(space.G[space.frontier[-1], ritz.rows])
    resolvent = ritz.coefficients[-1] / distances
    lead = ritz.coefficients[0] @ resolvent
    dimension = space.n - int(ritz.rows[0])
    return bool(dimension * lead**2 <= _CHI_SQUARE_1_PERCENT * (resolvent @ resolvent + 1.0 / beta**2))
