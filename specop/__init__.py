"""Curvature of trained models by matrix-free linear operators.

See the table in the README for what there is; `objective` and `eigsh` are where most people start.
"""

from specop.objectives import Objective, objective
from specop.operators import (
    DenseOperator,
    DiagonalOperator,
    FunctionOperator,
    LinearOperator,
    LowRankOperator,
    aslinearoperator,
    identity_like,
    restrict,
)
from specop.results import EigenResult, Estimate, SpectralDensity, TraceResult
from specop.spectral import eigsh, spectral_density, trace
from specop.storage import load

__all__ = [
    "DenseOperator",
    "DiagonalOperator",
    "EigenResult",
    "Estimate",
    "FunctionOperator",
    "LinearOperator",
    "LowRankOperator",
    "Objective",
    "SpectralDensity",
    "TraceResult",
    "aslinearoperator",
    "eigsh",
    "identity_like",
    "load",
    "objective",
    "restrict",
    "spectral_density",
    "trace",
]
