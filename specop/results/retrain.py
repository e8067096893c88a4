"""A new minimum."""

from __future__ import annotations

from typing import Any

from specop.arrays.backend import Array
from specop.results.fields import column, record, structured, vector
from specop.results.result import Result
from specop.results.structure import Structure
from specop.statistics.numbers import Floats, Integers

__all__ = ["RetrainResult"]


@record
class RetrainResult(Result):
    """A new minimum after data were removed or added, with its certificate and its cost.

    Attributes
    ----------
    theta : native vector (n,)
        Parameters after retraining.
    loss : float
        Penalized loss there, with the weights that the samples had before.
    gradient_norms : ndarray
        Norm of the penalized loss's gradient, at the start and after each step.
    gtol : float
        Norm of the gradient that was to be reached.
    gradients, losses : int
        Numbers of gradients and losses evaluated; `matvecs` are the products with second derivatives.
    removed : ndarray
        Numbers of the samples that were removed.
    added : int
        Number of samples that were added.
    damping : float
        Strength of the L2 penalty.
    matrix : str
        What stood for the second derivatives.
    """

    theta: Array = vector()
    loss: float
    gradient_norms: Floats = column()
    gtol: float
    gradients: int
    losses: int
    removed: Integers
    added: int
    damping: float
    matrix: str
    structure: Structure = structured()

    @property
    def gradient_norm(self) -> float:
        """The certificate: norm of the gradient at the new point."""
        return float(self.gradient_norms[-1])

    @property
    def steps(self) -> int:
        """Newton steps taken."""
        return len(self.gradient_norms) - 1

    @property
    def parameters(self) -> Any:
        """The new parameters in the structure of the old ones; in a result from a file, a dict of arrays by name."""
        return self.structure(self.theta)

    def _headline(self) -> str:
        changes = [f"without {len(self.removed)} samples"] * bool(len(self.removed))
        changes += [f"with {self.added} more samples"] * bool(self.added)
        return (
            f"minimum {' and '.join(changes) or 'of all data'}, damping {self.damping:g}: "
            f"gradient norm {self.gradient_norms[0]:.1e} -> {self.gradient_norm:.1e} in {self.steps} Newton steps, "
            f"{self.gradients} gradients, {self.losses} losses"
        )
