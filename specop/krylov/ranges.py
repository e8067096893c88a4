"""Sizes that the small matrices on the host can square."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specop.errors import InvalidInputError
from specop.operators.operator import LinearOperator

__all__ = ["check_size", "coefficient_norm"]

# The host forms fourth powers in float64; vectors in float32 are divided by their lengths.
_LARGEST = {8: 1e70, 4: 1e30}


def check_size(size: float, operator: LinearOperator, squared: bool = False) -> None:
    """Raise InvalidInputError if products of this size, the largest so far, are too small or too large to work with.

    Their powers would vanish or overflow, and with them residuals, standard errors and bounds.

    Parameters
    ----------
    size : float
    operator : LinearOperator
    squared : bool
        Whether their entries are squared in the operator's dtype.
    """
    largest = _LARGEST[operator.dtype.itemsize] ** (0.5 if squared else 1.0)
    if size == 0 or 1.0 / largest < size < largest:
        return
    factor = float(np.ldexp(1.0, int(np.clip(-np.log2(size), -1000, 1000))))
    raise InvalidInputError(
        f"products with {operator!r} have norms near {size:.1e}, whose squares leave the range of {operator.dtype}. "
        f"Pass {factor:.3g} * A and divide the eigenvalues by that factor; a loss of this size is best rescaled itself."
    )


def coefficient_norm(x: NDArray[np.float64]) -> float:
    """Return the norm of coefficients: infinity where their squares overflow, which `check_size` then refuses."""
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(x))
