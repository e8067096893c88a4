"""What a product costs, of operators that are made of arrays only."""

from __future__ import annotations

from specop.operators.explicit import DenseOperator, DiagonalOperator, LowRankOperator
from specop.operators.identity import IdentityOperator
from specop.operators.operator import LinearOperator, ProductOperator, ScaledOperator, SumOperator, TransposedOperator
from specop.operators.scipy import ScipyOperator

__all__ = ["held_entries"]


def held_entries(operator: LinearOperator) -> int | None:
    """Return how many numbers a product reads, None of an operator whose products do more than read a matrix."""
    if isinstance(operator, (ProductOperator, ScaledOperator, SumOperator, TransposedOperator)):
        parts = [held_entries(part) for part in operator.parts]
        return None if None in parts else sum(part for part in parts if part is not None)
    if isinstance(operator, ScipyOperator):
        return operator.entries
    rows, columns = operator.shape
    if isinstance(operator, LowRankOperator):
        return 2 * columns * operator.backend.shape(operator.rows)[0]
    if isinstance(operator, DenseOperator):
        return rows * columns
    return rows if isinstance(operator, (DiagonalOperator, IdentityOperator)) else None
