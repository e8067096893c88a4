"""Where a search begins: at a random vector, the user's, several of them, or the eigenvectors of an earlier result."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specop.arrays import probes
from specop.arrays.backend import Array
from specop.krylov.known import eigenvectors_for
from specop.krylov.space import KrylovSpace
from specop.results.eigen import EigenResult

__all__ = ["begin"]


def begin(space: KrylovSpace, v0: Array | EigenResult | None, k: int, block_size: int, tol: float) -> None:
    """Put the first rows into an empty space.

    Of an earlier result the sum of all eigenvectors is multiplied. If the product shows that they still span an
    invariant subspace, up to `tol`, each is worth a product of its own, and no other is needed; otherwise the Krylov
    space of the sum finds the new ones in fewer products than that of a random vector.

    Parameters
    ----------
    space : KrylovSpace
    v0 : native vector, EigenResult or None
    k : int
        How many eigenvalues are wanted.
    block_size : int
        How many vectors start together.
    tol : float
        Relative residual at which a pair has converged.
    """
    if not isinstance(v0, EigenResult):
        if v0 is not None:
            space.backend.check_vector(v0, space.A.domain, "v0")
        for i in range(min(block_size, space.n)):
            space.start(v0 if i == 0 else None)
        return
    vectors = eigenvectors_for(v0, space.backend, space.A.domain, "v0")
    for i in range(min(block_size, space.n)):
        space.start(_sum(space, vectors[i::block_size], noise=min(1e-3, 0.1 * tol)))
    if block_size == 1 and len(vectors) <= k and space.has_room_for(2 * len(vectors)):
        space.expand(0)
        if _outside(space, vectors) <= tol * float(np.abs(v0.eigenvalues).min()):
            _multiply_all(space, vectors, k)


def _sum(space: KrylovSpace, vectors: list[Array], noise: float) -> Array | None:
    if not vectors:
        return None
    # A little noise, so that what the old eigenvectors lack can enter.
    backend, domain = space.backend, space.A.domain
    total = backend.scale_(probes.sphere(backend, domain, space.seed, 0), noise * (len(vectors) / space.n) ** 0.5)
    for vector in vectors:
        total = backend.axpy_(total, 1.0, vector)
    return total


def _outside(space: KrylovSpace, vectors: list[Array]) -> float:
    """Return the norm of what the first product has outside of the vectors' span."""
    if len(space.frontier) == 0:
        return 0.0
    backend, ahead = space.backend, int(space.frontier[0])
    rest = backend.copy(backend.row(space.basis, ahead))
    overlaps = backend.to_host(*(backend.dot(vector, rest) for vector in vectors))
    for vector, overlap in zip(vectors, overlaps, strict=True):
        rest = backend.axpy_(rest, -float(overlap), vector)
    (left,) = backend.to_host(backend.norm(rest))
    return float(left) * float(space.G[ahead, 0])


def _multiply_all(space: KrylovSpace, vectors: list[Array], k: int) -> None:
    # The sum and its product are two vectors of the span already.
    for vector in vectors[: len(vectors) - space.rows]:
        space.start(vector)
    for row in range(1, min(space.rows, len(vectors))):
        space.expand(row)
    if len(vectors) < k:
        # What the old eigenvectors lack does not show in their small residuals: look elsewhere.
        ritz = space.ritz()
        everything: NDArray[np.intp] = np.arange(len(ritz.values))
        space.restart(ritz, everything, forget_frontier=True)
        space.start()
