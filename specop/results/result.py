"""What every result holds, and how it reads."""

from __future__ import annotations

import functools
import os
import warnings
from dataclasses import dataclass, fields
from importlib import metadata
from typing import Any, TypeVar

import numpy as np

from specop.errors import ConvergenceWarning, NotConvergedError

__all__ = ["Result", "delivered", "versions"]

_AnyResult = TypeVar("_AnyResult", bound="Result")


# Fields that hold vectors as long as the parameters, and functions of those.
_VECTORS = frozenset(
    (
        *("changes", "diagonal", "direction", "group", "loss_without", "mask", "order", "prunable", "rows", "saliency"),
        *("slopes", "solution", "standard_errors", "theta", "unflatten", "x"),
    )
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What every result says of its making.

    Attributes
    ----------
    matvecs : int
        Products with the operator, checks included.
    seconds : float
        Wall time of the call.
    samples : int or None
        Data samples behind the matrix, where it has any.
    seed : int
        Of all random vectors.
    converged : bool
        Whether the requested accuracy was reached.
    message : str
        Why the method stopped.
    versions : dict
        Versions of specop, NumPy and the framework.
    """

    matvecs: int
    seconds: float
    samples: int | None
    seed: int
    converged: bool
    message: str
    versions: dict[str, str]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to an npz file that `specop.load` reads; nothing is pickled."""
        from specop.results.storage import save

        save(self, path)

    def summary(self) -> dict[str, Any]:
        """Return the numbers as plain Python values, ready for JSON; vectors are left out."""
        plain: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in _VECTORS:
                continue
            if isinstance(value, (np.ndarray, np.generic)):
                value = value.tolist()
            plain[item.name] = list(value) if isinstance(value, tuple) else value
        return plain

    def _provenance(self) -> str:
        seen = "" if self.samples is None else f", {self.samples} samples"
        state = "" if self.converged else f"\nnot converged: {self.message}"
        return f"{self.matvecs} products, {self.seconds:.2f} s{seen}{state}"


def delivered(result: _AnyResult, raise_on_failure: bool) -> _AnyResult:
    """Return a result from a public function; without convergence warn that function's caller, or raise."""
    if not result.converged:
        if raise_on_failure:
            raise NotConvergedError(result.message, result)
        warnings.warn(result.message, ConvergenceWarning, stacklevel=3)
    return result


def versions(framework: str) -> dict[str, str]:
    """Return the versions of specop, NumPy and the framework."""
    return {name: _version(name) for name in dict.fromkeys(("specop", "numpy", framework))}


# A look-up reads files: up to 5 ms, as much as many a product.
@functools.cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
