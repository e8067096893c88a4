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
from specop.results import DiagonalResult, EigenResult, Estimate, NormResult, SpectralDensity, TraceResult
from specop.spectral import EigshState, diagonal, eigsh, frobenius_norm, power_iteration, spectral_density, trace
from specop.storage import load

__all__ = [
    "DenseOperator",
    "DiagonalOperator",
    "DiagonalResult",
    "EigenResult",
    "EigshState",
    "Estimate",
    "FunctionOperator",
    "LinearOperator",
    "LowRankOperator",
    "NormResult",
    "Objective",
    "SpectralDensity",
    "TraceResult",
    "aslinearoperator",
    "diagonal",
    "eigsh",
    "frobenius_norm",
    "identity_like",
    "load",
    "objective",
    "power_iteration",
    "restrict",
    "spectral_density",
    "trace",
]
