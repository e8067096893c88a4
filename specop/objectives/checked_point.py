"""checked_point: parameters to work at, all of them finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specop.arrays.backend import Array, backend_of, lengths_of
from specop.errors import NonFiniteError

if TYPE_CHECKING:
    from specop.objectives.mean import Objective

__all__ = ["checked_point"]


def checked_point(objective: Objective, theta: Array | None) -> Array:
    """Return a copy of theta, by default the model's parameters; raise if it is no vector of finite numbers."""
    at = objective.theta
    backend = backend_of(at)
    if theta is not None:
        backend.check_vector(theta, backend.layout(at), "theta")
        at = backend.copy(theta)
    if np.isfinite(lengths_of(backend, at)[0]):
        return at
    # Only now by way of the host; a norm may also be beyond the dtype's range where no entry is.
    (values,) = backend.to_host(at)
    wrong = [name for name, where in objective.slices.items() if not np.isfinite(values[where]).all()]
    if wrong:
        raise NonFiniteError(f"these parameters hold NaN or infinity: {', '.join(wrong[:5])}. Restore them.")
    return at
