"""What removing weights or groups of them costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from specop.arrays.backend import Array, backend_of
from specop.errors import InvalidInputError
from specop.results.fields import converted, record, structured, unsaved, vector
from specop.results.result import Result
from specop.results.structure import Structure
from specop.results.tables import Column
from specop.statistics.numbers import Floats, Integers

__all__ = ["Removal", "SaliencyResult"]


@dataclass(frozen=True)
class Removal:
    """A weight, or a group of weights, and what the loss does without it.

    Attributes
    ----------
    name : str
        ``"layer.weight[3, 7]"``, or the name of a group.
    indices : tuple of int
        Its entries in the parameter vector.
    size : float
        Absolute value of the weight; Euclidean norm of a group.
    expected : float
        Change of the mean loss by the quadratic model, the gradient's part included; NaN for the magnitude, which has
        no model.
    measured : float
        Change of the mean loss after the removal; NaN where nobody measured it.
    """

    name: str
    indices: tuple[int, ...]
    size: float
    expected: float
    measured: float

    def __str__(self) -> str:
        return f"{self.name}: size {self.size:.3g}, loss {self.expected:+.3g} expected, {self.measured:+.3g} measured"


@record
class SaliencyResult(Result):
    """Saliencies of weights or groups.

    Attributes
    ----------
    saliency : native vector
        Saliency of each entry of the parameter vector, NaN where it may not go; or of each group. It is the expected
        increase of the mean loss from a minimum; for the magnitude half the square of the weight.
    slopes : ndarray
        What the gradient adds to that, where this is no minimum.
    order : ndarray of int
        Numbers of the entries or groups, the least significant first. Weights that are zero are gone already and
        are left out.
    theta : native vector (n,)
        Parameters at which saliencies were computed.
    group : ndarray (n,) of int
        Number of the group of each entry, -1 for none.
    labels : tuple of str
        Names of the groups; empty for single weights.
    method : str
        How saliencies were computed: "obs", "obd" or "magnitude".
    matrix : str
        The curvature matrix behind the saliencies.
    damping : float
        Multiple of the identity that was added before the inversion; NaN without one.
    loss : float
        Mean loss at the parameters.
    tried : ndarray of int
        Numbers of some entries or groups that were removed, each alone, to see whether the model holds; none for the
        magnitude.
    tried_expected, tried_measured : ndarray
        Changes of the mean loss without them, by the quadratic model and as measured.
    """

    saliency: Array = vector()
    slopes: Floats = vector()
    order: Integers = vector()
    theta: Array = vector()
    group: Integers = vector()
    labels: tuple[str, ...] = converted(tuple)
    structure: Structure = structured()
    method: str
    matrix: str
    damping: float
    loss: float
    tried: Integers
    tried_expected: Floats
    tried_measured: Floats
    loss_without: Callable[[Integers], float] | None = unsaved(default=None)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters by name, in the order of the vector."""
        return self.structure.shapes

    def least(self, m: int = 10) -> list[Removal]:
        """Return the m least significant weights or groups with their expected changes of the loss."""
        return self._removals(self.order[:m])

    def measured(self, which: int | ArrayLike = 10) -> list[Removal]:
        """Return weights or groups with measured changes: each is removed, alone, and the loss of all data evaluated.

        For "obs" the other weights make up for it, as the expectation assumes. It costs one loss for each.

        Parameters
        ----------
        which : int or array_like of int
            How many of the least significant ones, or the numbers of those to measure.
        """
        if self.loss_without is None:
            raise InvalidInputError("this result was loaded from a file and has no model. Call saliency(...) again.")
        numbers = self.order[:which] if isinstance(which, (int, np.integer)) else np.asarray(which)
        return [
            replace(one, measured=self.loss_without(np.array(one.indices)) - self.loss)
            for one in self._removals(numbers)
        ]

    def _removals(self, numbers: Integers) -> list[Removal]:
        saliency, theta = (backend_of(x).to_host(x)[0] for x in (self.saliency, self.theta))
        found = []
        for number in numbers.tolist():
            members = np.flatnonzero(self.group == number) if self.labels else np.array([number])
            size = float(np.linalg.norm(theta[members]))
            expected = float("nan") if self.method == "magnitude" else float(saliency[number] + self.slopes[number])
            name = self.labels[number] if self.labels else self._name(number)
            found.append(Removal(name, tuple(members.tolist()), size, expected, float("nan")))
        return found

    def _name(self, entry: int) -> str:
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            if entry < size:
                return f"{name}[{', '.join(map(str, np.unravel_index(entry, tuple(shape))))}]"
            entry -= size
        raise IndexError(entry)

    def _headline(self) -> str:
        what = "groups" if self.labels else "weights"
        damped = "" if np.isnan(self.damping) else f" with damping {self.damping:.3g}"
        matrix = "" if self.method == "magnitude" else f" on the {self.matrix}{damped}"
        return f"saliencies of {len(self.order)} {what}, {self.method}{matrix}"

    def _lines(self) -> list[str]:
        tried = zip(self._removals(self.tried), self.tried_measured, strict=True)
        texts = [f"{one.name} {one.expected:+.2g} ({measured:+.2g})" for one, measured in tried]
        return [*super()._lines(), *([f"loss changes expected (and measured): {', '.join(texts)}"] if texts else [])]

    def _columns(self) -> dict[str, Column]:
        return _table(self.least(len(self.order)))

    def _shown(self) -> dict[str, Column]:
        return _table(self.least())


def _table(removals: list[Removal]) -> dict[str, Column]:
    return {
        "name": Column([one.name for one in removals], "least significant"),
        "size": Column([one.size for one in removals], "size", ".3g"),
        "expected": Column([one.expected for one in removals], "loss change expected", ".3g"),
    }
