"""What every result holds, and how it reads."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    pass

__all__ = ["Result", "versions"]


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
        from specop.storage import save

        save(self, path)

    def summary(self) -> dict[str, Any]:
        """Return the numbers as plain Python values, ready for JSON; vectors are left out."""
        plain: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("rows", "x", "unflatten", "diagonal", "standard_errors", "solution", "direction"):
                continue
            if isinstance(value, (np.ndarray, np.generic)):
                value = value.tolist()
            plain[item.name] = list(value) if isinstance(value, tuple) else value
        return plain

    def _provenance(self) -> str:
        seen = "" if self.samples is None else f", {self.samples} samples"
        state = "" if self.converged else f"\nnot converged: {self.message}"
        return f"{self.matvecs} products, {self.seconds:.2f} s{seen}{state}"


def versions(framework: str) -> dict[str, str]:
    """Return the versions of specop, NumPy and the framework."""
    found = {}
    for name in dict.fromkeys(("specop", "numpy", framework)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
