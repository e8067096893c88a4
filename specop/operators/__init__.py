"""Linear operators: what has products, and how operators make operators."""

from specop.operators.algebra import identity_like, restrict
from specop.operators.base import LinearOperator
from specop.operators.explicit import DenseOperator, DiagonalOperator, FunctionOperator, LowRankOperator
from specop.operators.host import on_host
from specop.operators.interop import aslinearoperator

__all__ = [
    "DenseOperator",
    "DiagonalOperator",
    "FunctionOperator",
    "LinearOperator",
    "LowRankOperator",
    "aslinearoperator",
    "identity_like",
    "on_host",
    "restrict",
]
