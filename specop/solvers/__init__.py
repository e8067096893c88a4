"""Inverses of matrices that are known by their products or by their rows."""

from specop.solvers.low_rank_updates import low_rank_update
from specop.solvers.sherman_morrison import ShermanMorrison

__all__ = ["ShermanMorrison", "low_rank_update"]
