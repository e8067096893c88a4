"""A model without some of its weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.arrays.backend import Array, backend_of
from specop.plotting.axes import Axes, Place
from specop.results.fields import column, record, structured, vector
from specop.results.plotted import Plotted
from specop.results.result import Result
from specop.results.structure import Structure
from specop.results.tables import Column
from specop.statistics.numbers import Booleans, Floats

__all__ = ["PruneResult"]


@record
class PruneResult(Plotted, Result):
    """Parameters with many zeros, and what each step cost.

    `plot` draws the loss over the sparsity, and what each step expected.

    Attributes
    ----------
    theta : native vector (n,)
        The parameters; `parameters` has them in the model's structure.
    mask : ndarray (n,) of bool
        False for weights that are gone. They are exactly zero in `theta`.
    prunable : ndarray (n,) of bool
        Weights that might have gone; sparsities are shares of these.
    sparsities : ndarray (steps,)
        Share of zeros after each step.
    losses : ndarray (steps + 1,)
        Mean loss before the first step and after each.
    expected : ndarray (steps,)
        Change of the loss in each step by its quadratic model; NaN for the magnitude.
    dampings : ndarray (steps,)
        Multiple of the identity added in each step; NaN without one.
    method : str
        How saliencies were computed: "obs", "obd" or "magnitude".
    matrix : str
        The curvature matrix behind the saliencies.
    """

    theta: Array = vector()
    mask: Booleans = vector()
    prunable: Booleans = vector()
    sparsities: Floats = column()
    losses: Floats
    expected: Floats = column()
    dampings: Floats = column()
    method: str
    matrix: str
    structure: Structure = structured()

    @property
    def parameters(self) -> Any:
        """`theta` in the model's structure: for a module, and in a result from a file, a dict of arrays by name."""
        return self.structure(self.theta)

    @property
    def masks(self) -> Any:
        """Ones where a weight is left and zeros where it is gone, in the same structure: factors that keep it so."""
        backend = backend_of(self.theta)
        return self.structure(backend.from_host(self.mask.astype(float), backend.layout(self.theta)))

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that are zero."""
        return 1.0 - float(self.mask[self.prunable].mean())

    @property
    def layers(self) -> dict[str, float]:
        """Share of zeros in each parameter of which something might have gone."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])
        parts = zip(self.shapes, np.split(self.mask, ends[:-1]), np.split(self.prunable, ends[:-1]), strict=True)
        return {name: 1.0 - float(mask[may].mean()) for name, mask, may in parts if may.any()}

    def _draw(self, place: Place) -> Axes:
        from specop.plotting.pictures import plot_pruning

        title = f"{100 * self.sparsity:.1f} % sparsity by {self.method}, {len(self.sparsities)} steps"
        return plot_pruning(self.sparsities, self.losses, self.expected, title, place)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters by name, in the order of the vector."""
        return self.structure.shapes

    def _columns(self) -> dict[str, Column]:
        return super()._columns() | {"losses": Column(self.losses[1:])}

    def _headline(self) -> str:
        matrix = "" if self.method == "magnitude" else f" on the {self.matrix}"
        kept, of = int(self.mask[self.prunable].sum()), int(self.prunable.sum())
        return (
            f"{kept} of {of} weights left ({100 * self.sparsity:.1f} % zero) by {self.method}{matrix}, "
            f"{len(self.sparsities)} steps, loss {self.losses[0]:.6g} -> {self.losses[-1]:.6g}"
        )

    def _shown(self) -> dict[str, Column]:
        zero = [100 * share for share in self.layers.values()]
        return {"names": Column(list(self.layers), "parameter"), "zero": Column(zero, "% zero", ".1f")}
