"""Pictures of influences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specop.plotting.axes import BLUE, GREY, new_axes
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_influence_check"]


def plot_influence_check(predicted: Floats, actual: Floats, title: str, ax: Axes | None = None) -> Axes:
    """Draw predicted against actual changes, with the line on which both agree.

    Parameters
    ----------
    predicted, actual : ndarray (k,)
        Changes by prediction and by retraining.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes(5.2, 5.0) if ax is None else ax
    both = np.concatenate([predicted, actual])
    margin = 0.05 * float(np.ptp(both)) or 1.0
    ends = (float(both.min()) - margin, float(both.max()) + margin)
    ax.plot(ends, ends, color=GREY, linewidth=0.8, label="predicted = actual")
    ax.plot(actual, predicted, "o", color=BLUE, markersize=4, alpha=0.7, label="removed samples")
    ax.set(xlim=ends, ylim=ends, aspect="equal", xlabel="change after retraining", ylabel="predicted change")
    ax.set_title(title)
    ax.ticklabel_format(style="sci", axis="both", scilimits=(-2, 3))
    ax.legend(frameon=False)
    return ax
