"""Influences of training samples, changes without them, and new minima."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specop.backend import Array, backend_of
from specop.results.base import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["InfluenceCheck", "InfluenceResult", "LeaveOneOutResult", "RetrainResult"]


@dataclass(frozen=True, kw_only=True, eq=False)
class InfluenceResult(Result):
    """By how much the removal of each training sample is predicted to change something.

    Attributes
    ----------
    scores : ndarray (m,) or (m, k)
        Predicted changes; of a loss, positive ones belong to helpful samples. A column for each quantity.
    indices : ndarray (m,)
        Numbers of the samples.
    quantity : str
        What changes, in words.
    newton : bool
        Whether the prediction is one Newton step on the remaining data; otherwise it is the derivative.
    damping : float
        Strength of the L2 penalty that stays when a sample goes.
    matrix : str
        "hessian", "ggn", "fisher" or "empirical fisher".
    residuals : ndarray
        Norms of b - A x of the solves.
    gradient_norm : float
        Of the penalized loss where the influences were computed: large where that is no minimum.
    loss_gradient_norm : float
        The same without the penalty.
    """

    scores: NDArray[np.float64]
    indices: NDArray[np.intp]
    quantity: str
    newton: bool
    damping: float
    matrix: str
    residuals: NDArray[np.float64]
    gradient_norm: float
    loss_gradient_norm: float

    def most_helpful(self, count: int = 10, column: int | None = None) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Return numbers and scores of the samples whose removal increases the quantity most, largest first.

        Parameters
        ----------
        count : int
            At most; only positive scores are returned.
        column : int, optional
            Of the scores; default: their mean over columns.
        """
        return self._first(count, column, 1.0)

    def most_harmful(self, count: int = 10, column: int | None = None) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Return numbers and scores of the samples whose removal decreases the quantity most, as `most_helpful`."""
        return self._first(count, column, -1.0)

    def _first(self, count: int, column: int | None, sign: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        scores = self.scores if self.scores.ndim == 1 else self.scores.mean(axis=1)
        if column is not None:
            scores = self.scores.reshape(len(self.indices), -1)[:, column]
        order = np.argsort(-sign * scores, kind="stable")[:count]
        order = order[sign * scores[order] > 0]
        return self.indices[order], scores[order]

    def __str__(self) -> str:
        lines = [f"influence of {len(self.indices)} training samples on {self.quantity}"]
        for name, (indices, scores) in (("helpful", self.most_helpful(5)), ("harmful", self.most_harmful(5))):
            pairs = ", ".join(f"{index} ({score:+.2e})" for index, score in zip(indices, scores, strict=True))
            lines.append(f"most {name}: {pairs or 'none'}")
        kind = "one Newton step" if self.newton else "first order"
        lines.append(
            f"{kind}, {self.matrix} of the mean loss with damping {self.damping:g}; gradient norm at the parameters "
            f"{self.gradient_norm:.1e} with that penalty, {self.loss_gradient_norm:.1e} without"
        )
        return "\n".join([*lines, self._provenance()]) + _remark(self)

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True, eq=False)
class LeaveOneOutResult(Result):
    """How the parameters change when groups of samples are left out of training.

    Attributes
    ----------
    changes : native array (n, k)
        A column for each group.
    indices : ndarray
        Numbers of the samples of all groups, one group after the other.
    sizes : ndarray (k,)
        Number of samples in each.
    newton : bool
        Whether the matrix is that of the remaining data.
    damping : float
        Strength of the L2 penalty, which stays.
    matrix : str
        "hessian", "ggn", "fisher" or "empirical fisher".
    residuals : ndarray (k,)
        Norms of b - A x of the solves.
    """

    changes: Array
    indices: NDArray[np.intp]
    sizes: NDArray[np.intp]
    newton: bool
    damping: float
    matrix: str
    residuals: NDArray[np.float64]
    unflatten: Callable[[Array], Any] | None = field(default=None, repr=False, compare=False)

    @property
    def groups(self) -> list[NDArray[np.intp]]:
        """Numbers of the samples that were left out together."""
        return np.split(self.indices, np.cumsum(self.sizes)[:-1])

    def change(self, i: int) -> Array:
        """Return the change without group i as a native vector (n,), to be added to the parameters."""
        return backend_of(self.changes).columns(self.changes)[i]

    def change_tree(self, i: int) -> Any:
        """Return the same in the structure of the parameters, where the result was not read from a file."""
        return self.change(i) if self.unflatten is None else self.unflatten(self.change(i))

    def __str__(self) -> str:
        kind = "one Newton step" if self.newton else "first order"
        sizes = f"{self.sizes.min()}" if np.ptp(self.sizes) == 0 else f"{self.sizes.min()} to {self.sizes.max()}"
        return (
            f"change of {self.changes.shape[0]} parameters without {len(self.sizes)} groups of {sizes} sample(s), "
            f"{kind}, {self.matrix} of the mean loss with damping {self.damping:g}, {self._provenance()}"
        ) + _remark(self)

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrainResult(Result):
    """A new minimum after data were removed or added, with its certificate and its cost.

    Attributes
    ----------
    theta : native vector (n,)
        The new parameters.
    loss : float
        Penalized loss there, with the weights that the samples had before.
    gradient_norms : ndarray
        Norm of its gradient at the start and after each step.
    gtol : float
        What it was to reach.
    gradients, losses : int
        Evaluations; `matvecs` are the products with second derivatives.
    removed : ndarray
        Numbers of the samples that were removed.
    added : int
        Number of samples that were added.
    damping : float
        Strength of the L2 penalty.
    matrix : str
        What stood for the second derivatives.
    """

    theta: Array
    loss: float
    gradient_norms: NDArray[np.float64]
    gtol: float
    gradients: int
    losses: int
    removed: NDArray[np.intp]
    added: int
    damping: float
    matrix: str
    unflatten: Callable[[Array], Any] | None = field(default=None, repr=False, compare=False)

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
        """The new parameters in the structure of the old ones; a vector where the result was read from a file."""
        return self.theta if self.unflatten is None else self.unflatten(self.theta)

    def __str__(self) -> str:
        changes = [f"without {len(self.removed)} samples"] * bool(len(self.removed))
        changes += [f"with {self.added} more samples"] * bool(self.added)
        return (
            f"minimum {' and '.join(changes) or 'of all data'}, damping {self.damping:g}: "
            f"gradient norm {self.gradient_norms[0]:.1e} -> {self.gradient_norm:.1e} in {self.steps} Newton steps, "
            f"{self.gradients} gradients, {self.losses} losses, {self._provenance()}"
        )

    __repr__ = __str__


@dataclass(frozen=True, kw_only=True, eq=False)
class InfluenceCheck(Result):
    """Predicted influences beside the changes that retraining gives.

    Attributes
    ----------
    indices : ndarray (k,)
        Numbers of the samples that were removed, one at a time.
    predicted, actual : ndarray (k,)
        Changes of the quantity.
    gradient_norms : ndarray (k + 1,)
        At the minimum of all data and at each of the others.
    correlation : float
        Pearson's, between both changes.
    rank_correlation : float
        Spearman's.
    quantity : str
        What changes, in words.
    damping, gtol : float
        As used.
    """

    indices: NDArray[np.intp]
    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]
    gradient_norms: NDArray[np.float64]
    correlation: float
    rank_correlation: float
    quantity: str
    damping: float
    gtol: float

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw predicted against actual changes; needs matplotlib."""
        from specop.plotting import plot_influence_check

        return plot_influence_check(self, ax)

    def __str__(self) -> str:
        return (
            f"influence of {len(self.indices)} samples on {self.quantity}, predicted against retrained: correlation "
            f"{self.correlation:.4f}, of ranks {self.rank_correlation:.4f}, gradient norms up to "
            f"{self.gradient_norms.max():.1e}, {self._provenance()}"
        )

    __repr__ = __str__


def _remark(result: Result) -> str:
    """Return what the solver said of a matrix that it solved with, beyond that it converged."""
    return f"\n{result.message}" if result.converged and result.message != "converged" else ""
