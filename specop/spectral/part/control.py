"""Control: a matrix of low rank whose own numbers are known, and which others are near to."""

from __future__ import annotations

import numpy as np

from specop.arrays.backend import Array, add_
from specop.krylov.known import eigenvectors_for
from specop.krylov.run import Run
from specop.results.eigen import EigenResult
from specop.statistics.numbers import Floats

__all__ = ["Control", "control_of", "shared"]

# A direction is kept if it holds as much of all products as two of them.
_SHARED, _MOST = 2.0, 8


def control_of(run: Run, deflate: EigenResult | None) -> Control:
    """Return the control that eigenpairs of a similar matrix make, or that of none."""
    if deflate is None:
        return Control(run, np.zeros(0), [])
    return Control(run, deflate.eigenvalues, eigenvectors_for(deflate, run.backend, run.A.domain, "deflate"))


def shared(run: Run, images: list[Array], vectors: list[Array]) -> Control:
    """Return a control of the directions that products with different matrices have in common.

    Products of matrices that share their outermost eigenvectors have these in them, whatever else they hold. The values
    tell the directions' part of the products up to a common factor.

    Parameters
    ----------
    run : Run
    images : list of native vectors
        Products, of which only the directions count. They are consumed.
    vectors : list of native vectors
        Vectors that were multiplied.
    """
    backend = run.backend
    lengths = run.to_host(*map(backend.norm, images))
    pairs = zip(images, vectors, lengths, strict=True)
    known = [(backend.scale_(image, 1.0 / float(length)), vector) for image, vector, length in pairs if length > 0]
    if not known:
        return Control(run, np.zeros(0), [])
    rows = backend.stack([image for image, _ in known])
    gram = np.array(run.to_host(*(backend.apply_rows(rows, image) for image, _ in known)))
    squares, across = np.linalg.eigh((gram + gram.T) / 2.0)
    kept = np.flatnonzero(squares > _SHARED)[::-1][:_MOST]
    found, values = [], []
    for j in kept:
        direction = backend.zeros(run.A.domain)
        direction = add_(backend, direction, across[:, j] / squares[j] ** 0.5, (image for image, _ in known))
        along = run.to_host(*(backend.dot(direction, vector) for _, vector in known))
        # What a product has along a direction goes with what its vector has: eigenvalues have that sign.
        sign = np.sign(float(across[:, j] @ np.array(along)))
        found.append(direction)
        values.append(sign * float(squares[j]) ** 0.5)
    return Control(run, np.array(values), found)


class Control:
    """A matrix of low rank, made of eigenpairs, that is taken out of groups' matrices.

    Parameters
    ----------
    run : Run
    values : ndarray (r,)
    vectors : list of native vectors
        Orthonormal vectors.

    Attributes
    ----------
    trace, square : float
        Sum of the eigenvalues, and of their squares.
    """

    def __init__(self, run: Run, values: Floats, vectors: list[Array]) -> None:
        self._backend, self._layout = run.backend, run.A.domain
        self._values, self._vectors = values, vectors
        self._rows = run.backend.stack(vectors) if vectors else None
        self.trace = float(self._values.sum())
        self.square = float(np.sum(self._values**2))

    def subtract_(self, image: Array, vector: Array) -> Array:
        """Return an image minus the control's product with a vector; the image is consumed."""
        if self._rows is None:
            return image
        (along,) = self._backend.to_host(self._backend.apply_rows(self._rows, vector))
        return add_(self._backend, image, -self._values * along, self._vectors)

    def diagonal(self) -> Array:
        """Return the control's diagonal."""
        total = self._backend.zeros(self._layout)
        return add_(
            self._backend, total, self._values, (self._backend.multiply(vector, vector) for vector in self._vectors)
        )

    def forms(self, image: Array, vector: Array) -> Floats:
        """Return z'Cz, z'Cy and |Cz|^2 for a vector z and an image y, on the host."""
        if self._rows is None:
            return np.zeros(3)
        along, across = self._backend.to_host(
            self._backend.apply_rows(self._rows, vector), self._backend.apply_rows(self._rows, image)
        )
        found: Floats = np.stack([along, across, self._values * along]) @ (self._values * along)
        return found
