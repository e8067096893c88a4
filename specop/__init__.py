"""Curvature of trained models by matrix-free linear operators.

See the table in the README for what there is; `objective` and `eigsh` are where most people start.
"""

from specop import analysis
from specop.objectives.mean import Objective
from specop.objectives.objective import objective
from specop.operators.explicit import DenseOperator, DiagonalOperator, FunctionOperator, LowRankOperator
from specop.operators.host import on_host
from specop.operators.identity import identity_like
from specop.operators.operator import LinearOperator
from specop.operators.restrict import restrict
from specop.operators.scipy import aslinearoperator
from specop.results.diagonal import DiagonalResult
from specop.results.eigen import EigenResult
from specop.results.function import FunctionResult
from specop.results.influence import InfluenceResult
from specop.results.influence_check import InfluenceCheck
from specop.results.leave_one_out import LeaveOneOutResult
from specop.results.lissa import LissaResult
from specop.results.norm import NormResult
from specop.results.prune import PruneResult
from specop.results.quadrature import QuadratureResult
from specop.results.rank import RankResult
from specop.results.result import load
from specop.results.retrain import RetrainResult
from specop.results.saliency import SaliencyResult
from specop.results.shifted import ShiftedResult
from specop.results.solve import SolveResult
from specop.results.spectral_density import SpectralDensity
from specop.results.trace import TraceResult
from specop.solvers.inverse import inverse
from specop.solvers.neumann import lissa
from specop.solvers.preconditioners import eigen_preconditioner, nystrom_preconditioner
from specop.solvers.shifted import solve_shifted
from specop.solvers.solve import solve
from specop.solvers.woodbury.low_rank_update import low_rank_update
from specop.solvers.woodbury.sherman_morrison import ShermanMorrison
from specop.spectral.apply_function import apply_function
from specop.spectral.diagonal import diagonal
from specop.spectral.eigsh import EigshState, eigsh
from specop.spectral.frobenius_norm import frobenius_norm
from specop.spectral.norms import condition_number, spectral_norm
from specop.spectral.power_iteration import power_iteration
from specop.spectral.rank import rank
from specop.spectral.spectral_density import spectral_density
from specop.spectral.trace import trace
from specop.spectral.trace_function import effective_dimension, logdet, trace_function
from specop.statistics.estimate import Estimate

__all__ = [
    "DenseOperator",
    "DiagonalOperator",
    "DiagonalResult",
    "EigenResult",
    "EigshState",
    "Estimate",
    "FunctionOperator",
    "FunctionResult",
    "InfluenceCheck",
    "InfluenceResult",
    "LeaveOneOutResult",
    "LinearOperator",
    "LissaResult",
    "LowRankOperator",
    "NormResult",
    "Objective",
    "PruneResult",
    "QuadratureResult",
    "RankResult",
    "RetrainResult",
    "SaliencyResult",
    "ShermanMorrison",
    "ShiftedResult",
    "SolveResult",
    "SpectralDensity",
    "TraceResult",
    "analysis",
    "apply_function",
    "aslinearoperator",
    "condition_number",
    "diagonal",
    "effective_dimension",
    "eigen_preconditioner",
    "eigsh",
    "frobenius_norm",
    "identity_like",
    "inverse",
    "lissa",
    "load",
    "logdet",
    "low_rank_update",
    "nystrom_preconditioner",
    "objective",
    "on_host",
    "power_iteration",
    "rank",
    "restrict",
    "solve",
    "solve_shifted",
    "spectral_density",
    "spectral_norm",
    "trace",
    "trace_function",
]
