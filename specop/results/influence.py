"""Influences of training samples."""

from __future__ import annotations

import numpy as np

from specop.results.fields import column, record
from specop.results.result import Result
from specop.statistics.numbers import Floats, Integers

__all__ = ["InfluenceResult"]


@record
class InfluenceResult(Result):
    """By how much the removal of each training sample is predicted to change something.

    Attributes
    ----------
    indices : ndarray (m,)
        Numbers of the samples.
    scores : ndarray (m,) or (m, k)
        Predicted changes; of a loss, positive ones belong to helpful samples. A column for each quantity.
    quantity : str
        What changes, in words.
    newton : bool
        Whether the prediction is one Newton step on the remaining data; otherwise it is the derivative.
    damping : float
        Strength of the L2 penalty that stays when a sample goes.
    matrix : str
        "hessian", "ggn", "fisher" or "empirical fisher".
    residuals : ndarray
        Norms of b - A x for the solves, one for each right-hand side; estimates where the inverse has a closed form.
    gradient_norm : float
        Euclidean norm of the gradient of the penalized loss where the influences were computed: large where that is no
        minimum.
    loss_gradient_norm : float
        Euclidean norm of the gradient of the loss without its penalty.
    """

    indices: Integers = column()
    scores: Floats = column()
    quantity: str
    newton: bool
    damping: float
    matrix: str
    residuals: Floats
    gradient_norm: float
    loss_gradient_norm: float

    def most_helpful(self, count: int = 10, column: int | None = None) -> tuple[Integers, Floats]:
        """Return numbers and scores of the samples whose removal increases the quantity most, largest first.

        Parameters
        ----------
        count : int
            Largest number of samples; only positive scores are returned.
        column : int, optional
            Which column of the scores to rank by; default: their mean over columns.
        """
        return self._first(count, column, 1.0)

    def most_harmful(self, count: int = 10, column: int | None = None) -> tuple[Integers, Floats]:
        """Return numbers and scores of the samples whose removal decreases the quantity most, largest decrease first.

        Parameters
        ----------
        count : int
            Largest number of samples; only negative scores are returned.
        column : int, optional
            Which column of the scores to rank by; default: their mean over columns.
        """
        return self._first(count, column, -1.0)

    def _first(self, count: int, column: int | None, sign: float) -> tuple[Integers, Floats]:
        scores = self.scores if self.scores.ndim == 1 else self.scores.mean(axis=1)
        if column is not None:
            scores = self.scores.reshape(len(self.indices), -1)[:, column]
        order = np.argsort(-sign * scores, kind="stable")[:count]
        order = order[sign * scores[order] > 0]
        return self.indices[order], scores[order]

    def _headline(self) -> str:
        return f"influence of {len(self.indices)} training samples on {self.quantity}"

    def _lines(self) -> list[str]:
        lines = super()._lines()
        for name, (indices, scores) in (("helpful", self.most_helpful(5)), ("harmful", self.most_harmful(5))):
            pairs = ", ".join(f"{index} ({score:+.2e})" for index, score in zip(indices, scores, strict=True))
            lines.append(f"most {name}: {pairs or 'none'}")
        kind = "one Newton step" if self.newton else "first order"
        lines.append(
            f"{kind}, {self.matrix} of the mean loss with damping {self.damping:g}; gradient norm at the parameters "
            f"{self.gradient_norm:.1e} with that penalty, {self.loss_gradient_norm:.1e} without"
        )
        return [*lines, *self._remark()]
