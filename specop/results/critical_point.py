"""A point of the loss, and its kind."""

from __future__ import annotations

from specop.arrays.backend import Array
from specop.plotting.axes import Axes, Place
from specop.results.fields import error_of, estimated, record, structured, vector
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.results.structure import Structure
from specop.statistics.estimate import Estimate
from specop.statistics.numbers import Floats

__all__ = ["CriticalPointResult"]


@record
class CriticalPointResult(Plotted, Result):
    """Whether a point is critical, of which kind, and the numbers that say so.

    `plot` draws the loss along the direction beside its quadratic model.

    Attributes
    ----------
    kind : {"minimum", "saddle", "plateau", "degenerate", "not critical"}
        What the point is; `specop.landscape.critical_point` defines these words.
    loss : float
        The loss at the point.
    gradient_norm : float
        Norm of its gradient.
    negative, zero, positive : Estimate
        Numbers of eigenvalues below minus `threshold`, between, and above it.
    smallest, largest : Estimate
        The outermost eigenvalues. Their intervals are bounds, of which the outer one holds with the probability
        `confidence`.
    resolution : float
        No eigenvalue lies further below the smallest one found than this, in units of the Hessian.
    threshold : float
        Eigenvalues up to this size count as zero.
    decrement : float
        Sum of (g'v)^2 / abs(h) over the eigenvalues h that do not count as zero, with their eigenvectors v and the
        gradient g; where all are positive the Newton decrement g'H^-1 g, twice what the loss may fall by.
    positive_part, negative_part : float
        Sums of (g'v)^2 / h over positive and over negative eigenvalues; the second is not positive.
    decrement_error : float
        How far either part may be off.
    outside : float
        Norm of the gradient's part along eigenvalues that count as zero.
    allowed : float
        The amount of the loss that counts as zero.
    direction : native vector (n,)
        A vector of length 1: the eigenvector of the smallest eigenvalue, or a direction without curvature along which
        the loss falls.
    drop : float
        By how much the loss falls along the direction, on its lower side, before it rises again; 0 if it does not.
    distance : float
        How far along the direction, with its sign, that lowest place is.
    turns : bool
        Whether the loss rises beyond it; otherwise it still falls where the search ended.
    slope : float
        The gradient along the direction.
    coordinates, losses : ndarray
        Distances along the direction and the losses there.
    method : str
        "exact" if all eigenvalues were found; "quadrature" if their numbers were estimated.
    confidence : float
        Probability with which each bound holds.
    n : int
        Number of parameters.
    """

    kind: str
    loss: float
    gradient_norm: float
    negative: Estimate = estimated()
    zero: Estimate = estimated()
    positive: Estimate = estimated()
    smallest: Estimate = estimated()
    largest: Estimate = estimated()
    resolution: float
    threshold: float
    decrement: float
    positive_part: float
    negative_part: float
    decrement_error: float = error_of("decrement")
    outside: float
    allowed: float
    direction: Array = vector()
    drop: float
    distance: float
    turns: bool
    slope: float
    coordinates: Floats
    losses: Floats
    method: str
    confidence: float
    n: int
    structure: Structure = structured()

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.critical_point import plot_descent

        title = f"{self.kind}: the loss along an eigenvalue of {self.smallest.estimate:.3g}"
        return plot_descent(
            self.coordinates, self.losses, self.slope, self.smallest.estimate, self.drop, self.distance, title, place
        )

    def _headline(self) -> str:
        return f"{self.kind}: loss {self.loss:.6g}, gradient norm {self.gradient_norm:.2g}, {self.n} parameters"

    def _lines(self) -> list[str]:
        first, *rest = super()._lines()
        percent = f"{100 * self.confidence:g} %"
        counts = ", ".join(f"{_number(getattr(self, name))} {name}" for name in ("negative", "zero", "positive"))
        lines = [
            f"to the critical point of its quadratic model the loss falls by {self.positive_part / 2:.2g} (positive "
            f"eigenvalues) and rises by {abs(self.negative_part) / 2:.2g} (negative ones)",
            f"changes up to {self.allowed:.2g} count as none; |g| outside of both {self.outside:.2g}",
            f"eigenvalues {counts} ({self.method}, {percent}), sizes up to {self.threshold:.2g} count as zero",
            f"smallest {_range(self.smallest)}, largest {_range(self.largest)}",
        ]
        if self.drop:
            end = "before it rises" if self.turns else "and still falls there"
            lines.append(
                f"along the direction the loss falls by {self.drop:.3g} at a distance of {self.distance:.3g} {end}"
            )
        elif self.kind in ("degenerate", "plateau", "saddle"):
            lines.append(
                f"none below {self.smallest.interval[0] + 0.0:.2g}; the loss does not fall along the direction"
            )
        return [first, *lines, *rest]


def _number(value: Estimate) -> str:
    low, high = value.interval
    return f"{value.estimate:g}" if low == high else f"{value.estimate:g} ({low:g} to {high:g})"


def _range(value: Estimate) -> str:
    low, high = value.interval
    return f"{value.estimate:.6g} ({low:.6g} to {high:.6g})"
