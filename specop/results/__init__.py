"""What the algorithms return: frozen, with the error of every number beside it."""

from specop.results.base import Result, delivered, versions
from specop.results.densities import SpectralDensity
from specop.results.eigenpairs import EigenResult
from specop.results.functions import FunctionResult, QuadratureResult, RankResult
from specop.results.influences import InfluenceCheck, InfluenceResult, LeaveOneOutResult, RetrainResult
from specop.results.pruning import PruneResult, Removal, SaliencyResult
from specop.results.solutions import LissaResult, ShiftedResult, SolveResult
from specop.results.traces import DiagonalResult, NormResult, TraceResult

__all__ = [
    "DiagonalResult",
    "EigenResult",
    "FunctionResult",
    "InfluenceCheck",
    "InfluenceResult",
    "LeaveOneOutResult",
    "LissaResult",
    "NormResult",
    "PruneResult",
    "QuadratureResult",
    "RankResult",
    "Removal",
    "Result",
    "RetrainResult",
    "SaliencyResult",
    "ShiftedResult",
    "SolveResult",
    "SpectralDensity",
    "TraceResult",
    "delivered",
    "versions",
]
