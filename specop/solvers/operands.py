"""Right-hand sides and start vectors in the forms that users have them, and what is asked of a solution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specop.arrays.backend import Array, checked_columns, lengths_of
from specop.errors import InvalidInputError, checked_number
from specop.operators.operator import LinearOperator
from specop.results.structure import Structure
from specop.statistics.numbers import Floats

__all__ = ["Operands", "checked_accuracy", "checked_operands", "checked_start"]

# Lengths of right-hand sides, by the bytes of a number, that have squares or products with images.
_RANGES = {8: (1e-150, 1e150), 4: (1e-33, 1e38)}


@dataclass(frozen=True)
class Operands:
    """Right-hand sides as columns, and the form that they came in.

    Attributes
    ----------
    operator : LinearOperator
        Operator that the right-hand sides belong to.
    columns : list of native vectors
    lengths : ndarray (k,)
        Euclidean norms of the columns.
    is_block : bool
        Whether they came as an (n, k) array.
    is_structure : bool
        Whether there is one, which came as a parameter structure.
    """

    operator: LinearOperator
    columns: list[Array]
    lengths: Floats
    is_block: bool
    is_structure: bool

    @property
    def structure(self) -> Structure | None:
        """What turns a solution into the form of b, where that is not an array."""
        return Structure(self.operator.parameter_shapes, self.operator.unflatten) if self.is_structure else None

    def joined(self, columns: list[Array]) -> Array:
        """Return solutions as one vector, or as an (n, k) array if b is one."""
        return self.operator.backend.stack_columns(columns) if self.is_block else columns[0]


def checked_operands(operator: LinearOperator, b: Any) -> Operands:
    """Return right-hand sides as columns, or raise InvalidInputError if they are none."""
    columns, is_block, is_structure = _columns(operator, b, "b")
    lengths = _finite_lengths(operator, columns, "b")
    low, high = _RANGES[operator.dtype.itemsize]
    for column, length in enumerate(lengths):
        if length and not low < length < high:
            raise InvalidInputError(
                f"column {column} of b has the norm {length:.1e}, whose square leaves the range of {operator.dtype}. "
                f"Scale it, and its solution back by the same factor."
            )
    return Operands(operator, columns, lengths, is_block, is_structure)


def checked_start(operands: Operands, x0: Any) -> list[Array]:
    """Return start vectors as columns of their own, or raise InvalidInputError if they do not match b."""
    operator = operands.operator
    columns, _, is_structure = _columns(operator, x0, "x0")
    if len(columns) != len(operands.columns) or is_structure != operands.is_structure:
        raise InvalidInputError(f"x0 must have the form of b: {len(operands.columns)} columns, got {len(columns)}.")
    _finite_lengths(operator, columns, "x0")
    # The solution for a column of zeros is zero, wherever the others start.
    return [
        operator.backend.copy(x) if length else operator.backend.zeros(operator.domain)
        for x, length in zip(columns, operands.lengths, strict=True)
    ]


def checked_accuracy(rtol: float, atol: float) -> None:
    """Raise InvalidInputError unless both are tolerances and one is positive."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        checked_number(name, value)
    if rtol >= 1 or rtol == atol == 0:
        raise InvalidInputError(f"rtol must lie below 1, and one of rtol and atol above 0: got {rtol!r}, {atol!r}.")


def _columns(operator: LinearOperator, given: Any, name: str) -> tuple[list[Array], bool, bool]:
    dimensions = len(operator.backend.shape(given))
    if dimensions == 2:
        return checked_columns(operator.backend, given, operator.domain, name), True, False
    if not dimensions:
        vector = operator.flatten(given)
        if vector is None:
            raise InvalidInputError(
                f"{name} must be a native array of shape ({operator.shape[0]},) or ({operator.shape[0]}, k) for "
                f"{operator!r}, got {type(given).__name__}."
            )
        return [vector], False, True
    operator.backend.check_vector(given, operator.domain, name)
    return [given], False, False


def _finite_lengths(operator: LinearOperator, columns: list[Array], name: str) -> Floats:
    lengths = np.array(lengths_of(operator.backend, *columns))
    if not np.isfinite(lengths).all():
        worst = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise InvalidInputError(f"{name} must be finite; the norm of its column {worst} is {lengths[worst]}.")
    return lengths
