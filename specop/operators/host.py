"""on_host: an operator whose vectors live in host memory, around one whose vectors live on a device."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.arrays.backend import Array, backend_of
from specop.arrays.layout import Layout
from specop.arrays.processes import Processes
from specop.operators.operator import Composite, LinearOperator
from specop.operators.scipy import aslinearoperator

__all__ = ["on_host"]


def on_host(A: Any) -> LinearOperator:
    """Return the same matrix for NumPy vectors: an algorithm that is given it keeps its vectors in host memory.

    For a basis that does not fit beside the model: ``specop.eigsh(specop.on_host(H), k=50)`` needs on the device what a
    product needs and two vectors more. Each product moves one vector there and one back, and orthogonalization runs
    on the host. Eigenvectors come back as NumPy arrays; `v0` and `deflate` of algorithms take them for A too.

    Parameters
    ----------
    A : LinearOperator, array, SciPy sparse matrix or SciPy LinearOperator
        Operator on vectors of any framework and device.

    Examples
    --------
    >>> import torch, specop
    >>> A = specop.on_host(specop.DiagonalOperator(torch.tensor([1.0, 2.0, 5.0])))
    >>> specop.eigsh(A, k=1).eigenvector(0).round(3) ** 2
    array([0., 0., 1.], dtype=float32)
    """
    return HostOperator(aslinearoperator(A))


class HostOperator(Composite):
    """The matrix of an operator, for NumPy vectors."""

    def __init__(self, operator: LinearOperator) -> None:
        host = backend_of(np.zeros(0))
        layouts = (Layout(layout.n, layout.dtype, "cpu") for layout in (operator.domain, operator.codomain))
        super().__init__((operator,), *layouts, is_symmetric=operator.is_symmetric, is_psd=operator.is_psd)
        self.backend = host

    @property
    def processes(self) -> Processes:
        """Those of the operator on its device: each has all of a vector on its host."""
        return self.parts[0].processes

    def _matvec(self, x: Array) -> Array:
        (part,) = self.parts
        return part.backend.to_numpy(part._matvec(part.backend.from_host(x, part.domain)))

    def _rmatvec(self, y: Array) -> Array:
        (part,) = self.parts
        return part.backend.to_numpy(part._rmatvec(part.backend.from_host(y, part.codomain)))

    def flatten(self, tree: Any) -> Array | None:
        (part,) = self.parts
        vector = part.flatten(tree)
        return None if vector is None else part.backend.to_numpy(vector)

    def unflatten(self, vector: Array) -> Any:
        (part,) = self.parts
        return part.unflatten(part.backend.from_host(vector, part.domain))
