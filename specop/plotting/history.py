"""Pictures of curvature over the steps of training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from specop.plotting.axes import BLUE, GREY, ORANGE, Axes, new_axes
from specop.statistics.numbers import Floats, Integers

__all__ = ["plot_history"]

_STYLES = ((ORANGE, "--"), (GREY, ":"))


def plot_history(
    steps: Integers,
    values: Floats,
    errors: Floats,
    level: Floats | None,
    limits: Mapping[str, Floats],
    quantity: str,
    title: str,
    ax: Axes | None = None,
) -> Axes:
    """Draw a quantity over the steps of training with its errors, and the limits that it is held against.

    Parameters
    ----------
    steps : ndarray (records,)
        Steps of training.
    values, errors : ndarray (records,)
        The quantity and its errors; NaN where a record has none.
    level : ndarray (records,) or None
        What the quantity does not exceed, with the probability that was asked for.
    limits : mapping
        Other columns by the text that stands for them.
    quantity : str
        What is drawn, for the axis.
    title : str
        What to write above.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes() if ax is None else ax
    ax.errorbar(
        steps, values, yerr=np.nan_to_num(errors), fmt="o-", color=BLUE, capsize=2, markersize=4, label=quantity
    )
    if level is not None:
        ax.fill_between(steps, values, level, color=BLUE, alpha=0.12, linewidth=0, label="nothing above, to 99 %")
    for (label, limit), (color, style) in zip(limits.items(), _STYLES, strict=False):
        ax.plot(steps, limit, color=color, linestyle=style, label=label)
    shown = np.concatenate([values, *limits.values()])
    shown = shown[np.isfinite(shown)]
    if len(shown) and shown.min() > 0 and shown.max() > 30 * shown.min():
        ax.set_yscale("log")
    elif len(shown) and shown.min() < 0 < shown.max():
        ax.axhline(0.0, color=GREY, linewidth=0.8)
    ax.set(xlabel="steps of training", ylabel=quantity)
    ax.set_title(title, fontsize="medium")
    ax.legend(frameon=False)
    return ax
