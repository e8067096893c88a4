"""plot_covariance: variances of selected samples against the eigenvalues of the Hessian."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import GREY, ORANGE, Axes, Place
from specop.statistics.numbers import Floats

__all__ = ["plot_covariance"]


def plot_covariance(
    eigenvalues: Floats,
    variances: Floats,
    errors: Floats,
    *,
    fit: float,
    inverse: float,
    title: str,
    place: Place,
) -> Axes:
    """Draw variances along eigenvectors, the fit ``1 / (1 + fit x)``, and the inverse ``inverse / x``.

    Parameters
    ----------
    eigenvalues : ndarray (k,)
        Positive eigenvalues of the Hessian.
    variances, errors : ndarray (k,)
        Along their eigenvectors, with standard errors.
    fit, inverse : float
        Constants of both curves.
    title : str
        What to write above.
    place : Place
        Where to draw, under which name and in which colour.

    Returns
    -------
    Axes
    """
    pen = place.pen()
    ax = pen.ax
    x = np.geomspace(0.8 * eigenvalues.min(), 1.25 * eigenvalues.max(), 100)
    winners = pen.name("winners")
    points = ax.errorbar(
        eigenvalues, variances, yerr=errors, fmt="o", color=pen.color, capsize=3, markersize=5, label=winners
    )
    pen.mark(points[0])
    ax.plot(x, 1.0 / (1.0 + fit * x), color=pen.accent(ORANGE), label=pen.part("(I + 2 t sigma^2 H)^-1"))
    dashed = (0, (4, 1.5))
    ax.plot(x, inverse / x, color=pen.accent(GREY), linestyle=dashed, label=pen.part("inverse Hessian, scaled"))
    ax.set(xscale="log", yscale="log")
    pen.texts("eigenvalue of the Hessian", "variance / sigma^2", title)
    pen.legend(frameon=True, edgecolor="none")
    return ax
