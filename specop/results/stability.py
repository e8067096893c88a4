"""What step sizes the curvature of a loss allows, and where an optimizer's stands."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.plotting.axes import Axes, Place
from specop.results.eigen import EigenResult
from specop.results.fields import column, converted, estimated, record
from specop.results.tables import Column
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Floats

__all__ = ["StabilityResult"]


@record
class StabilityResult(EigenResult):
    """Largest eigenvalues of the Hessian, as an optimizer's steps see it, against the limit of stable steps.

    It is the `EigenResult` of that matrix, so that ``v0=`` of `specop.eigsh` and of a later
    `specop.landscape.stability` take it.

    `plot` draws the eigenvalues, with their error bounds, and the limit; `plot_steps` the losses of the next steps.

    Attributes
    ----------
    sharpness : Estimate
        Largest eigenvalue of the Hessian, or of the preconditioned one where the optimizer is preconditioned; its
        interval is that of the eigenvalue's bound.
    limit : float
        The sharpness up to which steps do not grow on a quadratic; NaN without a learning rate.
    ratio : float
        Sharpness divided by the limit; above 1 steps are unstable.
    condition_number : float
        Largest over smallest eigenvalue of the same matrix: infinite if the smallest is zero up to rounding, NaN if it
        is negative or was not looked for.
    smallest : Estimate
        Smallest eigenvalue, with the interval of its bound; from minus infinity where the search for it ran out of
        products. NaN if it was not looked for.
    stable_rates : dict
        Largest stable learning rates by method, infinite where no curvature is positive. Of gradient descent, heavy
        ball and Nesterov's method, unless the optimizer is preconditioned; then its own.
    fastest_rate : float
        The rate at which one step without momentum lowers the quadratic model most, g'Pg / g'PHPg with P what the
        optimizer multiplies the gradient g by; infinite where the curvature along it is not positive, NaN where the
        gradient is zero.
    optimizer : str
        Name of the optimizer or method.
    rate, momentum : float
        Learning rate of the optimizer, NaN without one and where parameters have their own, and its momentum.
    preconditioned : bool
        Whether the eigenvalues are those of a preconditioned matrix. Eigenvectors are in its coordinates.
    factors : ndarray (k,)
        By how much a step multiplies what there is along each eigenvector, after many steps; NaN without a rate.
    behaviours : tuple of str
        What steps do along each eigenvector, in words.
    gradient_norm : float
        Norm of the gradient of the loss.
    input_conditions : dict
        Condition numbers of the second moments of a layer's inputs "as they are", "centred" and "normalized", on the
        span of these; empty where no inputs were given.
    input_ranks : dict
        Dimensions of the spans.
    predicted, actual : ndarray (steps + 1,)
        Losses now and after each of the next steps: by the quadratic model, and true. Both with second moments as they
        are.
    """

    sharpness: Estimate = estimated()
    limit: float
    ratio: float
    condition_number: float
    smallest: Estimate = estimated()
    stable_rates: dict[str, float]
    fastest_rate: float
    optimizer: str
    rate: float
    momentum: float
    preconditioned: bool
    factors: Floats = column("factor a step", ".4f")
    behaviours: tuple[str, ...] = converted(tuple)
    gradient_norm: float
    input_conditions: dict[str, float]
    input_ranks: dict[str, int]
    predicted: Floats
    actual: Floats

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.stability import plot_limit

        return plot_limit(self.eigenvalues, self.bounds, self.limit, self._what(), self.optimizer, place)

    def plot_steps(self, ax: Axes | None = None, *, label: str | None = None, color: Any = None) -> Axes:
        """Draw the losses of the next steps, predicted and true; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw, beside what is there already; default: a new figure.
        label, color : str, color, optional
            What it is called in the legend and its colour, where several results lie over each other.
        """
        from specop.plotting.stability import plot_next_losses

        title = f"next steps of {self.optimizer}"
        return plot_next_losses(self.predicted, self.actual, title, Place(ax, label, color))

    def _what(self) -> str:
        return "preconditioned sharpness" if self.preconditioned else "sharpness"

    def _headline(self) -> str:
        value = self.sharpness.estimate
        error = f"{self._what()} {value:.6g} (+- {self.bounds[-1]:.1e})"
        if np.isnan(self.limit):
            return error
        side = "below" if self.ratio < 1 else "above"
        return f"{error}, {self.ratio:.4g} of the limit {self.limit:.6g} of {self.optimizer}: {side} it"

    def _lines(self) -> list[str]:
        rates = [f"{name} {rate:.4g}" for name, rate in self.stable_rates.items()]
        lines = [*super()._lines(), f"largest stable rates: {', '.join(rates)}"]
        lines += [f"rate that falls fastest along the gradient: {self.fastest_rate:.4g}"]
        lines += [self._condition()]
        if self.input_conditions:
            parts = [
                f"{value:.4g} {name} (rank {self.input_ranks[name]})" for name, value in self.input_conditions.items()
            ]
            lines += [f"condition number of the layer's inputs: {', '.join(parts)}"]
        if len(self.predicted) > 1:
            lines += [
                f"loss {self.predicted[0]:.6g}, after {len(self.predicted) - 1} steps {self.predicted[-1]:.6g} "
                f"predicted, {self.actual[-1]:.6g} true"
            ]
        return lines

    def _condition(self) -> str:
        smallest = self.smallest.estimate
        if np.isnan(smallest):
            return "condition number: the smallest eigenvalue was not looked for"
        low, high = self.smallest.interval
        if high < 0:
            return f"no condition number: there is negative curvature, {smallest:.4g} or below"
        if np.isinf(self.condition_number):
            return "condition number: infinite, the smallest eigenvalue is zero up to rounding"
        text = f"condition number {self.condition_number:.6g}"
        if np.isneginf(low):
            return f"{text}, or more: the smallest eigenvalue is {smallest:.3g} or less, and was not found"
        return text

    def _columns(self) -> dict[str, Column]:
        known = not np.isnan(self.limit)
        found = super()._columns()
        found["factors"] = Column(self.factors, "factor a step" if known else "", ".4f")
        return found | {"behaviours": Column(self.behaviours, "what is there" if known else "")}
