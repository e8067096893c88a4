"""What the algorithms return: frozen, with the error of every number beside it."""

from specop.results._compare import Comparison, compare
from specop.results.blocks import BlocksResult
from specop.results.comparison import ComparisonResult, Difference
from specop.results.covariance import CovarianceResult
from specop.results.critical_point import CriticalPointResult
from specop.results.diagonal import DiagonalResult
from specop.results.eigen import EigenResult
from specop.results.flatness import FlatnessResult, Measure
from specop.results.function import FunctionResult
from specop.results.hessian_spread import HessianSpreadResult
from specop.results.history import HistoryResult, Moment
from specop.results.inertia import InertiaResult
from specop.results.influence import InfluenceResult
from specop.results.influence_check import InfluenceCheck
from specop.results.learning_coefficient import LearningBracket, LearningEstimate
from specop.results.leave_one_out import LeaveOneOutResult
from specop.results.lissa import LissaResult
from specop.results.noise import NoiseResult
from specop.results.norm import NormResult
from specop.results.number import NumberResult
from specop.results.outliers import OutliersResult
from specop.results.prune import PruneResult
from specop.results.quadrature import QuadratureResult
from specop.results.rank import RankResult
from specop.results.result import Result, versions
from specop.results.retrain import RetrainResult
from specop.results.saliency import Removal, SaliencyResult
from specop.results.shifted import ShiftedResult
from specop.results.slices import SlicesResult
from specop.results.solve import SolveResult
from specop.results.spectral_density import SpectralDensity
from specop.results.stability import StabilityResult
from specop.results.trace import TraceResult
from specop.statistics.estimate import Estimate

__all__ = [
    "BlocksResult",
    "Comparison",
    "ComparisonResult",
    "CovarianceResult",
    "CriticalPointResult",
    "DiagonalResult",
    "Difference",
    "EigenResult",
    "Estimate",
    "FlatnessResult",
    "FunctionResult",
    "HessianSpreadResult",
    "HistoryResult",
    "InertiaResult",
    "InfluenceCheck",
    "InfluenceResult",
    "LearningBracket",
    "LearningEstimate",
    "LeaveOneOutResult",
    "LissaResult",
    "Measure",
    "Moment",
    "NoiseResult",
    "NormResult",
    "NumberResult",
    "OutliersResult",
    "PruneResult",
    "QuadratureResult",
    "RankResult",
    "Removal",
    "Result",
    "RetrainResult",
    "SaliencyResult",
    "ShiftedResult",
    "SlicesResult",
    "SolveResult",
    "SpectralDensity",
    "StabilityResult",
    "TraceResult",
    "compare",
    "versions",
]
