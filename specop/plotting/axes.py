"""What all pictures share: where they are drawn, and their colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specop.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    # It is imported when something is drawn.
    Axes = Any

__all__ = ["BLUE", "GREY", "ORANGE", "Axes", "new_axes"]

BLUE, ORANGE, GREY = "#2563a8", "#d9601a", "#4a4a4a"


def new_axes(width: float = 8.0, height: float = 4.2, projection: str | None = None) -> Axes:
    """Return the axes of a new figure, its size in inches; three-dimensional ones for the projection "3d"."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise InvalidInputError("plots need matplotlib: pip install 'specop[plot]'.") from error
    ax: Axes = pyplot.subplots(figsize=(width, height), layout="constrained", subplot_kw={"projection": projection})[1]
    return ax
