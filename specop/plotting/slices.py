"""plot_curve, plot_plane: the loss on a line, on a path and on a plane, with its quadratic model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specop.errors import InvalidInputError
from specop.plotting.axes import BLUE, GREY, ORANGE, Axes, new_axes
from specop.statistics.numbers import Floats

__all__ = ["plot_curve", "plot_plane"]

# Ratio of losses from which on an axis is logarithmic.
_WIDE = 100.0
_LEVELS = 12


def plot_curve(
    x: Floats,
    losses: Floats,
    quadratic: Floats,
    *,
    label: str,
    axis: str,
    limits: Floats | None = None,
    barrier: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss along a line or a path, its quadratic model, and where that is good to a tenth.

    Parameters
    ----------
    x, losses, quadratic : ndarray (points,)
        Coordinates, the loss there and its model; losses that are not finite are marked at the upper edge.
    label : str
        What the curve is.
    axis : str
        What the coordinate is.
    limits : ndarray (2,), optional
        How far the model is good to the left and to the right.
    barrier : (float, float), optional
        Height and place of the barrier on a path.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
    """
    ax = new_axes(6.0, 4.0) if ax is None else ax
    seen = np.isfinite(losses)
    low, high = (float(losses[seen].min()), float(losses[seen].max())) if seen.any() else (0.0, 1.0)
    is_wide = seen.any() and low > 0 and high > _WIDE * low
    # A second path joins the first one on its axes.
    ax.plot(x[seen], losses[seen], color=None if barrier else BLUE, linewidth=1.8, label=label)
    if is_wide:
        ax.set_yscale("log")
    if barrier is None:
        # The model may leave the picture: the loss is what it is about.
        room = 0.06 * (high - low) or max(abs(low), 1.0) * 0.06
        ratio = (high / low) ** 0.05 if is_wide else 1.0
        ax.set_ylim(*((low / ratio, high * ratio) if is_wide else (low - room, high + room)))
        ax.plot(x, quadratic, color=ORANGE, linewidth=1.2, linestyle="--", label="quadratic model")
        if limits is not None and np.isfinite(limits).any():
            inside = max(-limits[0], x[0]), min(limits[1], x[-1])
            ax.axvspan(*inside, color=GREY, alpha=0.1, linewidth=0, label="model good to 10 %")
        ax.axvline(0.0, color=GREY, linewidth=0.6)
    elif np.isfinite(barrier[0]) and barrier[0] > 0:
        height, at = barrier
        foot = float((1.0 - at) * losses[0] + at * losses[-1])
        ax.plot(x[[0, -1]], losses[[0, -1]], "o", color=GREY, markersize=4)
        text = f"barrier {height:.3g}"
        ax.annotate(text, (at, foot + height), xytext=(6, -3), textcoords="offset points", color=GREY)
    if not seen.all():
        edge = ax.get_xaxis_transform()
        ax.plot(x[~seen], np.full((~seen).sum(), 0.97), "x", color=ORANGE, transform=edge, label="not finite")
    ax.set(xlabel=axis, ylabel="mean loss", xlim=(x[0], x[-1]))
    ax.legend(frameon=False)
    return ax


def plot_plane(
    axes: Floats,
    losses: Floats,
    quadratic: Floats,
    labels: tuple[str, ...],
    lengths: Floats,
    *,
    surface: bool,
    marked: Sequence[tuple[float, float]] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw the loss on a plane, as contours beside those of its quadratic model, or as a surface.

    Parameters
    ----------
    axes : ndarray (2, points)
        Coordinates along the two directions.
    losses, quadratic : ndarray (points, points)
        The loss and its model, the first direction along the rows.
    labels : tuple of str
        What the directions are.
    lengths : ndarray (2,)
        Their lengths.
    surface : bool
        Whether to draw a surface.
    marked : sequence of (float, float)
        Coordinates of further points that the plane was made for.
    ax : Axes, optional
        Where to draw; default: a new figure. A surface needs three-dimensional ones.

    Returns
    -------
    Axes
    """
    if ax is None:
        ax = new_axes(6.0, 5.0, projection="3d" if surface else None)
    elif surface != (ax.name == "3d"):
        wanted = "axes made with projection='3d'" if surface else "flat axes"
        raise InvalidInputError(f"surface={surface} needs {wanted}, got {type(ax).__name__}.")
    seen = np.ma.masked_invalid(losses)
    if seen.count() == 0:
        raise InvalidInputError("no loss on this plane is finite: there is nothing to draw. Pass a smaller span.")
    low, high = float(seen.min()), float(seen.max())
    is_wide = low > 0 and high > _WIDE * low
    x, y = np.meshgrid(*axes, indexing="ij")
    names = [f"{label} (length {length:.3g})" for label, length in zip(labels, lengths, strict=True)]
    if surface:
        height = np.where(np.isfinite(losses), losses, np.nan)
        height = np.log10(height) if is_wide else height
        space: Any = ax
        space.plot_surface(x, y, height, cmap="viridis", linewidth=0.2, edgecolor="white", antialiased=True)
        space.set_zlabel("log10 of the mean loss" if is_wide else "mean loss")
    else:
        from matplotlib.colors import LogNorm, Normalize

        levels = np.geomspace(low, high, _LEVELS) if is_wide else np.linspace(low, high, _LEVELS)
        if high > low:
            norm = (LogNorm if is_wide else Normalize)(low, high)
            drawn = ax.contourf(x, y, seen, levels=levels, cmap="viridis", norm=norm)
            ax.figure.colorbar(drawn, ax=ax, label="mean loss", format="%.3g")
            ax.contour(x, y, quadratic, levels=levels, colors="white", linestyles="--", linewidths=0.8)
            ax.plot([], [], color=GREY, linestyle="--", linewidth=0.8, label="quadratic model")
        ax.plot(0.0, 0.0, "o", color=ORANGE, markersize=5, label="the point")
        for number, place in enumerate(marked):
            ax.plot(*place, "s", color=ORANGE, markersize=5, label="the other points" if number == 0 else None)
        lost = ~np.isfinite(losses)
        if lost.any():
            ax.plot(x[lost], y[lost], "x", color=ORANGE, markersize=3, label="not finite")
        ax.legend(loc="upper right", framealpha=0.9, edgecolor="none")
    ax.set(xlabel=names[0], ylabel=names[1])
    return ax
