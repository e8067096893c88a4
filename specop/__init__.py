"""Curvature of trained models by matrix-free linear operators.

The documentation's page "How to choose" says what there is; `objective` and `eigsh` are where most people start. What
functions return is in `specop.results`, what they raise in `specop.errors`, what tells which samples and weights matter
in `specop.analysis`, what the shape of the loss means in `specop.landscape`, and what follows a model through its
training in `specop.training`.
"""

from typing import TYPE_CHECKING

from specop import analysis, errors, landscape, results, training
from specop.objectives.mean import Objective
from specop.objectives.objective import objective
from specop.operators.explicit import DenseOperator, DiagonalOperator, FunctionOperator, LowRankOperator
from specop.operators.host import on_host
from specop.operators.identity import identity_like
from specop.operators.operator import LinearOperator
from specop.operators.restrict import restrict
from specop.operators.scipy import aslinearoperator
from specop.results.result import load
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
from specop.spectral.inertia import inertia
from specop.spectral.norms import condition_number, spectral_norm
from specop.spectral.plan import plan
from specop.spectral.power_iteration import power_iteration
from specop.spectral.quadratic_form import quadratic_form
from specop.spectral.rank import rank
from specop.spectral.spectral_density import spectral_density
from specop.spectral.trace import trace
from specop.spectral.trace_function import effective_dimension, logdet, trace_function

__all__ = [  # noqa: RUF022 (in the order in which people look for them)
    # A model and its data as operators
    "objective",
    "Objective",
    # Eigenvalues and what they add up to
    "eigsh",
    "EigshState",
    "trace",
    "diagonal",
    "spectral_density",
    "rank",
    "inertia",
    "logdet",
    "effective_dimension",
    "trace_function",
    "apply_function",
    "spectral_norm",
    "frobenius_norm",
    "condition_number",
    "quadratic_form",
    "power_iteration",
    # Linear systems
    "solve",
    "solve_shifted",
    "inverse",
    "eigen_preconditioner",
    "nystrom_preconditioner",
    "low_rank_update",
    "ShermanMorrison",
    "lissa",
    # Operators
    "LinearOperator",
    "aslinearoperator",
    "FunctionOperator",
    "DenseOperator",
    "DiagonalOperator",
    "LowRankOperator",
    "identity_like",
    "restrict",
    "on_host",
    # Namespaces, and what reads a result from its file
    "analysis",
    "landscape",
    "training",
    "results",
    "errors",
    "load",
    # What would be held
    "plan",
]

if TYPE_CHECKING:
    # Only the type: a __getattr__ that type checkers saw would let every misspelled name pass.
    __version__: str
else:

    def __getattr__(name: str) -> str:
        # Looked up when it is asked for: reading an installation's metadata takes as long as a small import.
        if name == "__version__":
            from importlib import metadata

            return metadata.version("specop")
        raise AttributeError(f"module 'specop' has no attribute {name!r}")
