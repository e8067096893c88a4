"""Curvature of trained models by matrix-free linear operators.

See the table in the README for what there is; `objective` and `eigsh` are where most people start.
"""

from specop.estimates import Estimate
from specop.objectives import Objective, objective
from specop.operators import (
    DenseOperator,
    DiagonalOperator,
    FunctionOperator,
    LinearOperator,
    LowRankOperator,
    aslinearoperator,
    identity_like,
    on_host,
    restrict,
)
from specop.results import (
    DiagonalResult,
    EigenResult,
    FunctionResult,
    NormResult,
    QuadratureResult,
    RankResult,
    SpectralDensity,
    TraceResult,
)
from specop.solvers import ShermanMorrison, low_rank_update
from specop.spectral import (
    EigshState,
    apply_function,
    condition_number,
    diagonal,
    effective_dimension,
    eigsh,
    frobenius_norm,
    logdet,
    power_iteration,
    rank,
    spectral_density,
    spectral_norm,
    trace,
    trace_function,
)
from specop.storage import load

__all__ = [
    "DenseOperator",
    "DiagonalOperator",
    "DiagonalResult",
    "EigenResult",
    "EigshState",
    "Estimate",
    "FunctionOperator",
    "FunctionResult",
    "LinearOperator",
    "LowRankOperator",
    "NormResult",
    "Objective",
    "QuadratureResult",
    "RankResult",
    "ShermanMorrison",
    "SpectralDensity",
    "TraceResult",
    "apply_function",
    "aslinearoperator",
    "condition_number",
    "diagonal",
    "effective_dimension",
    "eigsh",
    "frobenius_norm",
    "identity_like",
    "load",
    "logdet",
    "low_rank_update",
    "objective",
    "on_host",
    "power_iteration",
    "rank",
    "restrict",
    "spectral_density",
    "spectral_norm",
    "trace",
    "trace_function",
]
