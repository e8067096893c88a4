"""What centring and normalizing do to the condition number of a layer's inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.arrays.backend import backend_of
from specop.errors import InvalidInputError, NonFiniteError
from specop.statistics.numbers import Floats

__all__ = ["input_conditions"]


# A feature varies if it does so by more than this share of its size.
_VARYING = 1e-6


def input_conditions(inputs: Any) -> dict[str, tuple[float, int]]:
    """Return condition number and rank of the second moments of a layer's inputs, as they are and changed.

    Parameters
    ----------
    inputs : array (samples, features)
        Inputs of a linear layer, as an array of any framework.

    Returns
    -------
    dict
        "as they are", E[x x']; "centred", the covariance; "normalized", the correlation, of the features that vary.
        Largest over smallest eigenvalue that is not zero up to rounding, and how many of them there are.
    """
    backend = backend_of(inputs)
    shape = backend.shape(inputs)
    if len(shape) != 2 or 0 in shape:
        raise InvalidInputError(
            f"layer_inputs must be an array (samples, features), got shape {shape}. Flatten what stands before the "
            f"features, such as tokens; of a convolution take its patches as samples."
        )
    samples, features = shape
    columns = backend.transpose(inputs)
    layout = backend.layout(columns)
    ones = backend.from_host(np.ones(samples, layout.dtype), layout.of_length(samples))
    moments = backend.row_products([columns], [columns]) / samples
    mean = backend.row_products([columns], [backend.stack([ones])])[:, 0] / samples
    if not np.isfinite(moments).all():
        raise NonFiniteError("layer_inputs hold NaN or infinity, or their squares overflow. Check the layers before.")
    covariance = moments - np.outer(mean, mean)
    deviations = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    varying = deviations > _VARYING * np.sqrt(np.diag(moments))
    correlation = covariance[np.ix_(varying, varying)] / np.outer(deviations[varying], deviations[varying])
    # Sums are in float64; what rounds inputs to their dtype moves an eigenvalue by its square.
    size = max(samples, features) * max(layout.epsilon**2, 2.0**-52)
    return {
        "as they are": _condition(moments, size),
        "centred": _condition(covariance, size),
        "normalized": _condition(correlation, size),
    }


def _condition(matrix: Floats, rounding: float) -> tuple[float, int]:
    """Return the ratio of the outermost eigenvalues that are not zero, and the number of these."""
    values = np.linalg.eigvalsh(matrix) if len(matrix) else np.zeros(0)
    kept = values[values > rounding * max(values, default=0.0)]
    return (float(kept[-1] / kept[0]), len(kept)) if len(kept) else (np.nan, 0)
