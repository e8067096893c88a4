"""plot_curve, plot_plane: the loss on a line, on a path and on a plane, with its quadratic model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specop.errors import InvalidInputError
from specop.plotting.axes import GREY, ORANGE, Axes, Place
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
    curve: str,
    axis: str,
    limits: Floats | None = None,
    barrier: tuple[float, float] | None = None,
    place: Place,
) -> Axes:
    """Draw the loss along a line or a path, its quadratic model, and where that is good to a tenth.

    Parameters
    ----------
    x, losses, quadratic : ndarray (points,)
        Coordinates, the loss there and its model; losses that are not finite are marked at the upper edge.
    curve : str
        What the curve is.
    axis : str
        What the coordinate is.
    limits : ndarray (2,), optional
        How far the model is good to the left and to the right.
    barrier : (float, float), optional
        Height and place of the barrier on a path.
    place : Place
        Where to draw, under which name and in which colour.

    Returns
    -------
    Axes
    """
    pen = place.pen(6.0, 4.0)
    ax, seen = pen.ax, np.isfinite(losses)
    pen.mark(ax.plot(x[seen], losses[seen], color=pen.color, linewidth=1.8, label=pen.name(curve))[0])
    pen.scale(_WIDE)
    shown = pen.values()
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 1.0)
    is_wide = low > 0 and ax.get_yscale() == "log"
    if barrier is None:
        # The model may leave the picture: the loss is what it is about.
        room = 0.06 * (high - low) or max(abs(low), 1.0) * 0.06
        ratio = (high / low) ** 0.05 if is_wide else 1.0
        ax.set_ylim(*((low / ratio, high * ratio) if is_wide else (low - room, high + room)))
        model, good = pen.part("quadratic model"), pen.part("model good to 10 %")
        ax.plot(x, quadratic, color=pen.accent(ORANGE), linewidth=1.2, linestyle="--", label=model)
        if limits is not None and np.isfinite(limits).any():
            inside = max(-limits[0], x[0]), min(limits[1], x[-1])
            ax.axvspan(*inside, color=pen.accent(GREY), alpha=0.1, linewidth=0, label=good)
        ax.axvline(0.0, color=GREY, linewidth=0.6)
    elif np.isfinite(barrier[0]) and barrier[0] > 0:
        height, at = barrier
        foot = float((1.0 - at) * losses[0] + at * losses[-1])
        ax.plot(x[[0, -1]], losses[[0, -1]], "o", color=GREY, markersize=4)
        text = f"barrier {height:.3g}"
        ax.annotate(text, (at, foot + height), xytext=(6, -3), textcoords="offset points", color=pen.accent(GREY))
    if not seen.all():
        edge = ax.get_xaxis_transform()
        color, lost = pen.accent(ORANGE), pen.part("not finite")
        ax.plot(x[~seen], np.full((~seen).sum(), 0.97), "x", color=color, transform=edge, label=lost)
    pen.limit((float(x[0]), float(x[-1])))
    pen.texts(axis, "mean loss")
    pen.legend()
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
    place: Place,
) -> Axes:
    """Draw the loss on a plane, as contours beside those of its quadratic model, or as a surface.

    With a colour or a label, and over another plane, contours are lines of one colour and a surface has one.

    Parameters
    ----------
    axes : ndarray (2, points)
        Coordinates along the two directions.
    losses, quadratic : ndarray (points, points)
        The loss and its model, the first direction along the rows.
    labels : tuple of str
        What the directions are.
    lengths : ndarray (2,)
        Lengths of the two directions.
    surface : bool
        Whether to draw a surface.
    marked : sequence of (float, float)
        Coordinates of further points that the plane was made for.
    place : Place
        Where to draw, under which name and in which colour. A surface needs three-dimensional axes.

    Returns
    -------
    Axes
    """
    pen = place.pen(6.0, 5.0, projection="3d" if surface else None)
    ax = pen.ax
    if surface != (ax.name == "3d"):
        wanted = "axes made with projection='3d'" if surface else "flat axes"
        raise InvalidInputError(f"surface={surface} needs {wanted}, got {type(ax).__name__}.")
    seen = np.ma.masked_invalid(losses)
    if seen.count() == 0:
        raise InvalidInputError("no loss on this plane is finite: there is nothing to draw. Pass a smaller span.")
    low, high = float(seen.min()), float(seen.max())
    is_wide = low > 0 and high > _WIDE * low
    x, y = np.meshgrid(*axes, indexing="ij")
    names = [f"{label} (length {length:.3g})" for label, length in zip(labels, lengths, strict=True)]
    is_filled = pen.is_alone and place.color is None
    # What stands for the plane in the legend, and is counted.
    pen.mark(ax.plot([], [], color=pen.color, linewidth=1.5, label=None if is_filled else pen.name("loss"))[0])
    if surface:
        height = np.where(np.isfinite(losses), losses, np.nan)
        height = np.log10(height) if is_wide else height
        space: Any = ax
        colors = {"cmap": "viridis"} if is_filled else {"color": pen.color, "alpha": 0.7}
        space.plot_surface(x, y, height, **colors, linewidth=0.2, edgecolor="white", antialiased=True)
        space.set_zlabel("log10 of the mean loss" if is_wide else "mean loss")
    else:
        from matplotlib.colors import LogNorm, Normalize

        levels = np.geomspace(low, high, _LEVELS) if is_wide else np.linspace(low, high, _LEVELS)
        if high > low:
            norm = (LogNorm if is_wide else Normalize)(low, high)
            if is_filled:
                drawn = ax.contourf(x, y, seen, levels=levels, cmap="viridis", norm=norm)
                ax.figure.colorbar(drawn, ax=ax, label="mean loss", format="%.3g")
            else:
                lines = ax.contour(x, y, seen, levels=levels, colors=[pen.color], linewidths=1.2)
                ax.clabel(lines, fmt="%.3g", fontsize="small")
            white = "white" if is_filled else pen.color
            ax.contour(x, y, quadratic, levels=levels, colors=[white], linestyles="--", linewidths=0.8)
            ax.plot([], [], color=GREY, linestyle="--", linewidth=0.8, label=pen.part("quadratic model"))
        accent, others = pen.accent(ORANGE), pen.part("the other points")
        ax.plot(0.0, 0.0, "o", color=accent, markersize=5, label=pen.part("the point"))
        for number, at in enumerate(marked):
            ax.plot(*at, "s", color=accent, markersize=5, label=others if number == 0 else None)
        lost = ~np.isfinite(losses)
        if lost.any():
            ax.plot(x[lost], y[lost], "x", color=accent, markersize=3, label=pen.part("not finite"))
    if not surface or not is_filled:
        pen.legend(loc="upper right", frameon=True, framealpha=0.9, edgecolor="none")
    pen.texts(*names)
    return ax
