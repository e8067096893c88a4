"""Linear systems and inverses. They see a `LinearOperator` and a `Backend`, never a framework."""

from specop.solvers.inverses import inverse
from specop.solvers.low_rank_updates import low_rank_update
from specop.solvers.neumann import lissa
from specop.solvers.preconditioners import eigen_preconditioner, nystrom_preconditioner
from specop.solvers.sherman_morrison import ShermanMorrison
from specop.solvers.shifts import solve_shifted
from specop.solvers.systems import solve

__all__ = [
    "ShermanMorrison",
    "eigen_preconditioner",
    "inverse",
    "lissa",
    "low_rank_update",
    "nystrom_preconditioner",
    "solve",
    "solve_shifted",
]
