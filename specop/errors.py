"""Exceptions and warnings: each text says what was wrong, with the values, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AsymmetryError",
    "ConvergenceWarning",
    "DomainError",
    "InvalidInputError",
    "MissingOutputsError",
    "MissingStateError",
    "MissingTransposeError",
    "NoiseWarning",
    "NonFiniteError",
    "NonFiniteWarning",
    "NondeterministicError",
    "NotConvergedError",
    "NotEnoughMemoryError",
    "ParametersChangedError",
    "ProcessError",
    "QuadraticModelWarning",
    "SpecopError",
]


class SpecopError(Exception):
    """Base class of everything that specop raises on purpose."""


class InvalidInputError(SpecopError, ValueError):
    """An argument, a shape, a dtype, a device or a data set cannot be used as given."""


class MissingOutputsError(InvalidInputError):
    """A loss was asked for what is made of its model's outputs, and only its value is known."""


class MissingStateError(InvalidInputError):
    """An optimizer has taken no step yet and keeps nothing of gradients, which its limit depends on."""


class MissingTransposeError(InvalidInputError):
    """An operator was asked for a transposed product that it does not have."""


class NotEnoughMemoryError(InvalidInputError, MemoryError):
    """What was asked for does not fit into the memory that is free; nothing of it was taken."""


class NonFiniteError(SpecopError, ArithmeticError):
    """A loss, a gradient or a product contains NaN or infinity.

    Attributes
    ----------
    value : float
        The loss, where it is one; otherwise NaN.
    """

    value: float = float("nan")


class AsymmetryError(SpecopError, ArithmeticError):
    """An operator that must be symmetric is not."""


class DomainError(SpecopError, ValueError):
    """A matrix lies outside of what a method or function is defined for, such as the logarithm of an indefinite one."""


class NondeterministicError(SpecopError, RuntimeError):
    """The same product, or the same pass over the data, gave two different answers."""


class ParametersChangedError(SpecopError, RuntimeError):
    """The model moved away from the point at which an operator was made."""


class ProcessError(SpecopError, RuntimeError):
    """Another process of those that made the call together raised an error, which the text names."""


class NotConvergedError(SpecopError, RuntimeError):
    """A method used up its products; the partial answer is in ``result``."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result


class ConvergenceWarning(UserWarning):
    """A method stopped before it reached the requested accuracy."""


class NoiseWarning(UserWarning):
    """Products are less exact than their dtype promises; the bounds were widened accordingly."""


class NonFiniteWarning(UserWarning):
    """While a model is trained its loss or curvature became NaN or infinite: the history has a gap there."""


class QuadraticModelWarning(UserWarning):
    """Curvature says less of the loss than what is made of it: no minimum is near, or the loss is not quadratic."""


# Checks of arguments that many functions make, for specop's own use.
def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise InvalidInputError unless an argument is one of the choices."""
    known = list(choices)
    if value not in known:
        raise InvalidInputError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


def checked_count(name: str, value: Any, n: int | None = None) -> int:
    """Return a positive integer, at most n, or raise InvalidInputError."""
    if not _is_whole(value) or value < 1 or (n is not None and value > n):
        wanted = "a positive integer" if n is None else f"an integer from 1 to n={n}"
        raise InvalidInputError(f"{name} must be {wanted}, got {value!r}.")
    return int(value)


def checked_limit(value: Any, least: int = 1, why: str = "") -> int:
    """Return a limit on products, or raise InvalidInputError unless it is an integer that allows the least there is.

    Parameters
    ----------
    value : object
    least : int
    why : str
        What the least number is for, behind it in the error.
    """
    if not _is_whole(value) or value < least:
        raise InvalidInputError(f"max_matvecs must be an integer of at least {least}{why}, got {value!r}.")
    return int(value)


def checked_number(name: str, value: float, *, positive: bool = False) -> float:
    """Return a number that is finite and positive, or zero where that is allowed, or raise InvalidInputError."""
    if not is_number(value) or not math.isfinite(value) or value < 0 or (value == 0 and positive):
        wanted = "positive number" if positive else "finite number >= 0"
        raise InvalidInputError(f"{name} must be a {wanted}, got {value!r}.")
    return float(value)


def real_values(name: str, returned: Any) -> NDArray[np.float64]:
    """Return what a function of the user's gave as float64, or raise InvalidInputError for complex numbers."""
    if np.iscomplexobj(returned):
        raise InvalidInputError(
            f"{name} returned complex numbers, whose imaginary parts would be dropped: sums and vectors are real here. "
            f"Pass a function that returns the real part, and one that returns the imaginary part."
        )
    return np.asarray(returned, dtype=np.float64)


def check_unmasked(what: str, value: object) -> None:
    """Raise InvalidInputError for a masked array of NumPy: what is masked would count like any other entry."""
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidInputError(
            f"{what} is a masked array of NumPy, whose mask would be ignored. Pass plain numbers, x.filled(0.0) or "
            f"x.compressed(), and for data an array of weights beside it."
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether something can be taken for a number: a scalar of any framework, and no text or truth value."""
    return hasattr(value, "__float__") and not isinstance(value, bool) and getattr(value, "ndim", 0) == 0
