"""Results that move from one framework, device or file to another."""

from __future__ import annotations

from specop.arrays.backend import Array, Backend, backend_of
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.results.eigen import EigenResult

__all__ = ["eigenvectors_for"]


def eigenvectors_for(eigen: EigenResult, backend: Backend, layout: Layout, what: str) -> list[Array]:
    """Return the eigenvectors of a result as vectors of an operator that may live in another framework.

    Where the result lives in the operator's own framework its rows are returned as they are, to be read only. From
    elsewhere, also from a file, each is copied through the host, one at a time: arrays of two frameworks never share
    memory, because one of them may write where the other promises that nothing changes.

    Parameters
    ----------
    eigen : EigenResult
    backend, layout
        Of the operator.
    what : str
        Names the result in errors.

    Raises
    ------
    InvalidInputError
        If the vectors have another length than the operator's.
    """
    rows = [eigen.eigenvector(i) for i in range(len(eigen.eigenvalues))]
    home = backend_of(eigen.rows)
    if home is backend:
        for row in rows:
            backend.check_vector(row, layout, f"each eigenvector of {what}")
        return rows
    length = home.shape(eigen.rows)[1]
    if length != layout.n:
        raise InvalidInputError(
            f"{what} holds eigenvectors of length {length}, but the operator's vectors have length "
            f"{layout.n}. It belongs to another model."
        )
    return [backend.from_host(home.to_numpy(row).astype(layout.dtype, copy=False), layout) for row in rows]
