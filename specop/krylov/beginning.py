"""begin: the first rows of a Krylov space, from a vector, from chance, or from an earlier result."""

from __future__ import annotations

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import Array, add_
from specop.krylov.known import eigenvectors_for
from specop.krylov.space import KrylovSpace
from specop.results.eigen import EigenResult

__all__ = ["begin"]


def begin(space: KrylovSpace, v0: Array | EigenResult | None, k: int, block_size: int, tol: float) -> None:
    """Put the first rows into an empty space.

    Of an earlier result the sum of all eigenvectors is multiplied. If they are as many as are wanted, and the product
    shows that they still span an invariant subspace, up to `tol`, each is worth a product of its own; otherwise the
    Krylov space of the sum finds the new ones in fewer products than that of a random vector.

    Parameters
    ----------
    space : KrylovSpace
        A space without rows.
    v0 : native vector, EigenResult or None
        Start vector, or a result whose eigenvectors are added up to one; None for a random vector.
    k : int
        How many eigenvalues are wanted.
    block_size : int
        How many vectors start together.
    tol : float
        Relative residual at which a pair has converged.
    """
    backend, layout, starts = space.backend, space.run.A.domain, min(block_size, space.n)
    if not isinstance(v0, EigenResult):
        if v0 is not None:
            backend.check_vector(v0, layout, "v0")
        for _ in range(starts):
            # From the second time on it lies in the span already, and a random vector takes its place.
            space.start(v0)
        return
    vectors = eigenvectors_for(v0, backend, layout, "v0")
    for i in range(starts):
        space.start(_sum(space, vectors[i::block_size], noise=min(1e-3, 0.1 * tol)))
    if block_size == 1 and len(vectors) == k and space.has_room_for(2 * len(vectors)):
        space.expand()
        if not space.is_closed and _outside(space, vectors) <= tol * float(np.abs(v0.eigenvalues).min()):
            # The sum and its product are two vectors of the span already.
            for vector in vectors[:-2]:
                space.start(vector)
            for row in range(1, k):
                space.expand(row)


def _sum(space: KrylovSpace, vectors: list[Array], noise: float) -> Array | None:
    if not vectors:
        return None
    # A little noise, so that what the old eigenvectors lack can enter.
    backend, share = space.backend, noise * (len(vectors) / space.n) ** 0.5
    total = backend.scale_(probes.sphere(backend, space.run.A.domain, space.run.seed, 0), share)
    return add_(backend, total, [1.0] * len(vectors), vectors)


def _outside(space: KrylovSpace, vectors: list[Array]) -> float:
    """Return the norm of what the first product has outside of the vectors' span."""
    backend = space.backend
    rest = space.combine(np.eye(space.size)[space.frontier[0]])
    overlaps = backend.to_host(*(backend.dot(vector, rest) for vector in vectors))
    rest = add_(backend, rest, (-float(overlap) for overlap in overlaps), vectors)
    (left,) = backend.to_host(backend.norm(rest))
    return float(left) * space.coupling
