"""The loss along directions and on paths."""

from __future__ import annotations

from typing import Any

import numpy as np

from specop.arrays.backend import Array, add_, backend_of
from specop.plotting.axes import Axes, Place
from specop.results.fields import converted, error_of, record, structured, vector
from specop.results.result import Result
from specop.results.structure import Structure
from specop.results.tables import Column
from specop.statistics.numbers import Floats

__all__ = ["SlicesResult"]


@record
class SlicesResult(Result):
    """The loss on a line, a plane or a path through the parameters, and its quadratic model beside it.

    Attributes
    ----------
    coordinates : ndarray (points,) or (2, points)
        In units of the directions: the parameters at coordinates a and b are theta + a u + b v. Of a path the place on
        it, from 0 to 1.
    losses : ndarray (points,) or (points, points)
        ``losses[i, j]`` is that at ``coordinates[0, i]`` and ``coordinates[1, j]``; NaN or infinite where it is.
    quadratic : ndarray, as losses
        The quadratic model at theta.
    labels : tuple of str
        What the directions are.
    lengths : ndarray (k,)
        Euclidean lengths of the directions.
    slopes, curvatures, thirds : ndarray (k,)
        First, second and third derivative of the loss in the coordinate along each direction, at theta.
    curvature_errors, third_errors : ndarray (k,)
        Their errors: that of rounding, and that of the differences that third derivatives are made of.
    limits : ndarray (k, 2)
        Distance to the left and to the right, in coordinates, at which the model's error first is a tenth of its terms;
        infinite where that is not so as far as `searched`; NaN along a direction without slope and curvature.
    searched : ndarray (k,)
        For each direction, the distance up to which the loss was looked at.
    loss : float
        Loss at the origin of the slice.
    path : str
        "straight" or "bezier"; empty for slices that are not a path.
    barrier : float
        How far the loss on a path rises above the straight line between the losses of its ends; NaN without a path.
    barrier_at : float
        Place of the barrier on the path, from 0 to 1, to 1e-5.
    rows : native array (k, n)
        The directions. Of a Bezier curve those to the other end and to its middle point.
    theta : native vector (n,)
        Parameters at the origin of the slice.
    evaluations : int
        Number of losses and gradients that were evaluated.
    """

    coordinates: Floats
    losses: Floats
    quadratic: Floats
    labels: tuple[str, ...] = converted(tuple)
    lengths: Floats
    slopes: Floats
    curvatures: Floats
    curvature_errors: Floats = error_of("curvatures")
    thirds: Floats
    third_errors: Floats = error_of("thirds")
    limits: Floats
    searched: Floats
    loss: float
    path: str
    barrier: float
    barrier_at: float
    rows: Array = vector()
    theta: Array = vector()
    structure: Structure | None = structured(default=None)
    evaluations: int

    @property
    def remainder(self) -> Floats:
        """What the loss is above its quadratic model: the terms of third and higher order."""
        return self.losses - self.quadratic

    def direction(self, i: int) -> Array:
        """Return a direction as a native vector."""
        return backend_of(self.rows).index(self.rows, i)

    def point(self, *coordinates: float) -> Array:
        """Return the parameters at some coordinates, of a path at a place on it, as a native vector."""
        backend, (place,) = backend_of(self.theta), coordinates if self.path else (0.0,)
        weights = [place**2, 2.0 * place * (1.0 - place)] if self.path == "bezier" else [*coordinates]
        return add_(backend, backend.copy(self.theta), weights, [self.direction(i) for i in range(len(weights))])

    def plot(
        self, ax: Axes | None = None, *, label: str | None = None, color: Any = None, surface: bool = False
    ) -> Axes:
        """Draw a curve for one direction or a path, contours for two; needs matplotlib.

        With a label or a colour, and on axes that hold a plane, contours are lines of one colour.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw, beside what is there already; default: a new figure. A surface needs axes with
            ``projection="3d"``.
        label, color : str, color, optional
            What it is called in the legend and its colour, where several slices lie over each other.
        surface : bool
            Whether to draw two directions as a surface.
        """
        from specop.plotting.slices import plot_curve, plot_plane

        place = Place(ax, label, color)
        if self.losses.ndim == 2:
            are_points = all(label.startswith("to ") for label in self.labels)
            return plot_plane(
                self.coordinates,
                self.losses,
                self.quadratic,
                self.labels,
                self.lengths,
                surface=surface,
                marked=[(1.0, 0.0), (0.0, 1.0)] if are_points else [],
                place=place,
            )
        names = {"straight": "straight path", "bezier": "Bezier curve"}
        return plot_curve(
            self.coordinates,
            self.losses,
            self.quadratic,
            curve=names.get(self.path, "loss"),
            axis="place on the path" if self.path else f"along {self._unit(0)}",
            limits=None if self.path else self.limits[0],
            barrier=(self.barrier, self.barrier_at) if self.path else None,
            place=place,
        )

    def _unit(self, i: int) -> str:
        return self.labels[i] if np.isclose(self.lengths[i], 1.0) else f"{self.labels[i]}, in {self.lengths[i]:.3g}"

    def _headline(self) -> str:
        if self.path:
            height = f"barrier {self.barrier:.6g} at {self.barrier_at:.4g}"
            return f"{self.path} path to the other point, loss {self.losses[0]:.6g} to {self.losses[-1]:.6g}, {height}"
        seen = self.losses[np.isfinite(self.losses)]
        low, high = (seen.min(), seen.max()) if len(seen) else (np.nan, np.nan)
        plane = f"{self.losses.ndim} direction{'s' * (self.losses.ndim - 1)}"
        return f"loss along {plane}, {self.loss:.6g} at its origin, from {low:.6g} to {high:.6g}"

    def _lines(self) -> list[str]:
        return [*super()._lines(), f"{self.evaluations} losses and gradients", *self._remark()]

    def _columns(self) -> dict[str, Column]:
        left, right = self.limits.T
        return {
            "labels": Column(self.labels, "direction"),
            "lengths": Column(self.lengths, "length", ".4g"),
            "slopes": Column(self.slopes, "slope", ".4g"),
            "curvatures": Column(self.curvatures, "curvature", ".6g"),
            "curvature_errors": Column(self.curvature_errors, "error", ".1e"),
            "thirds": Column(self.thirds, "third derivative", ".4g"),
            "third_errors": Column(self.third_errors, "error", ".1e"),
            "limits_left": Column(left, "model good to 10 %: left", ".4g"),
            "limits_right": Column(right, "right", ".4g"),
            "searched": Column(self.searched, "searched to", ".3g"),
        }
