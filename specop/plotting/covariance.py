"""plot_covariance: variances of selected samples against the eigenvalues of the Hessian."""

from __future__ import annotations

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, Axes, new_axes
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
    ax: Axes | None = None,
) -> Axes:
    """Draw variances along eigenvectors, the fit ``1 / (1 + fit x)``, and the inverse ``inverse / x``.

    Parameters
    ----------
    eigenvalues : ndarray (k,)
        Positive.
    variances, errors : ndarray (k,)
        Along their eigenvectors, with standard errors.
    fit, inverse : float
        Constants of both curves.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    x = np.geomspace(0.8 * eigenvalues.min(), 1.25 * eigenvalues.max(), 100)
    ax.errorbar(eigenvalues, variances, yerr=errors, fmt="o", color=BLUE, capsize=3, markersize=5, label="winners")
    ax.plot(x, 1.0 / (1.0 + fit * x), color=ORANGE, label="(I + 2 t sigma^2 H)^-1")
    ax.plot(x, inverse / x, color=GREY, linestyle=(0, (4, 1.5)), label="inverse Hessian, scaled")
    ax.set(xscale="log", yscale="log", xlabel="eigenvalue of the Hessian", ylabel="variance / sigma^2", title=title)
    ax.legend(edgecolor="none")
    return ax
