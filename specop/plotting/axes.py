"""Place, Pen: what all pictures share, which is where they are drawn, their colours and their legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specop.errors import InvalidInputError
from specop.statistics.numbers import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.text import Text
else:
    # It is imported when something is drawn.
    Axes = Line2D = Text = Any

__all__ = ["BLUE", "GREY", "ORANGE", "UNNAMED", "Axes", "Pen", "Place"]

BLUE, ORANGE, GREY = "#2563a8", "#d9601a", "#4a4a4a"
# Of results over each other, in this order; orange marks parts of a single one.
_COLORS = (BLUE, "#2f8f5b", "#8a4fb0", "#b8323f", "#8a6d1d", "#2f97a3")
# What matplotlib leaves out of a legend.
UNNAMED = "_nolegend_"
# How ids begin of the lines that stand for a result, with its label, and of those beside them that the axis must show.
_MAIN, _SHOWN = "specop result: ", "specop shown"
# Ratio of the largest to the smallest value from which on an axis is logarithmic.
_WIDE = 30.0


class Place(NamedTuple):
    """What the caller of ``plot`` asked for.

    Attributes
    ----------
    ax : Axes or None
        Axes to draw on; None for a new figure.
    label : str or None
        What the result is called in the legend; None for a legend of its parts.
    color : color or None
        Colour of the result; None for the next of those here.
    """

    ax: Axes | None = None
    label: str | None = None
    color: Any = None

    def pen(self, width: float = 8.0, height: float = 4.2, projection: str | None = None) -> Pen:
        """Return what draws there; a new figure has this size in inches, and "3d" makes it three-dimensional."""
        try:
            from matplotlib import axes
        except ImportError as error:
            raise InvalidInputError("plots need matplotlib: pip install 'specop[plot]'.") from error
        ax: Any = self.ax
        if ax is None:
            # On axes of the caller's, pyplot and its global state are not needed.
            from matplotlib import pyplot

            size, options = (width, height), {"projection": projection}
            ax = pyplot.subplots(figsize=size, layout="constrained", subplot_kw=options)[1]
        if not isinstance(ax, axes.Axes):
            hint = f" A name for the legend is label={ax!r}." if isinstance(ax, str) else ""
            raise InvalidInputError(f"ax must be one matplotlib Axes, got {type(ax).__name__}.{hint}")
        return Pen(ax, self.label, self.color)


class Pen:
    """Draws one result on axes that may hold others.

    Attributes
    ----------
    ax : Axes
    label : str or None
    color : color
        Colour of what is drawn.
    number : int
        How many results were drawn there before.
    """

    def __init__(self, ax: Axes, label: str | None, color: Any) -> None:
        self.ax = ax
        self.label = label
        self.number = len(self.results())
        self.color = _COLORS[self.number % len(_COLORS)] if color is None else color

    @property
    def is_alone(self) -> bool:
        """Whether the picture is of a single result, whose parts have colours of their own."""
        return self.number == 0 and self.label is None

    def accent(self, color: str) -> Any:
        """Return the colour of a part: this one, or that of the result where there are several."""
        return color if self.is_alone else self.color

    def name(self, text: str) -> str:
        """Return what stands in the legend for the result: its label, or what its main part is called."""
        return self.part(text) if self.label is None else self.label

    def part(self, text: str) -> str:
        """Return the legend's text for a part that all results have, or one that no legend shows if it stands there."""
        return UNNAMED if text in self.ax.get_legend_handles_labels()[1] else text

    def own(self, text: str) -> str:
        """Return the legend's text for a part with numbers of this result."""
        return text if self.label is None else f"{self.label}: {text}"

    def mark(self, line: Line2D) -> None:
        """Say which line is the result: one for each, by which later ones are counted."""
        line.set_gid(_MAIN + (self.label or ""))

    def show(self, line: Line2D) -> None:
        """Let the scale of the axes count a line beside the result's own."""
        line.set_gid(_SHOWN)

    def results(self) -> list[Line2D]:
        """Return the lines of all results drawn so far."""
        return [line for line in self.ax.lines if (line.get_gid() or "").startswith(_MAIN)]

    def values(self) -> Floats:
        """Return the finite heights of all results drawn so far."""
        lines = [*self.results(), *(line for line in self.ax.lines if line.get_gid() == _SHOWN)]
        values = np.concatenate([np.empty(0), *(np.asarray(line.get_ydata(), dtype=float) for line in lines)])
        return values[np.isfinite(values)]

    def scale(self, wide: float = _WIDE) -> None:
        """Make the vertical axis logarithmic where all results together spread so far, and linear otherwise."""
        values = self.values()
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
        is_wide = low > 0 and high > wide * low
        if is_wide or self.number:
            self.ax.set_yscale("log" if is_wide else "linear")
        if low < 0 < high:
            self.ax.axhline(0.0, color=GREY, linewidth=0.8)

    def linear_until(self, threshold: float) -> float:
        """Return where a horizontal axis that is linear around zero turns logarithmic, for all results together."""
        transform: Any = self.ax.xaxis.get_transform()
        return min(threshold, transform.linthresh) if self.number else threshold

    def limit(self, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None) -> None:
        """Set the limits of the axes, so that earlier results stay within them."""
        for limits, get, put in ((x, self.ax.get_xlim, self.ax.set_xlim), (y, self.ax.get_ylim, self.ax.set_ylim)):
            if limits is not None:
                ends = np.array([limits, get()] if self.number else [limits])
                put(float(ends[:, 0].min()), float(ends[:, 1].max()))

    def texts(self, x: str, y: str, title: str = "") -> None:
        """Write beside the axes and above them; of several results the axes' names are joined, and titles left out."""
        for text, wanted in ((self.ax.xaxis.label, x), (self.ax.yaxis.label, y)):
            known = text.get_text()
            if self.number == 0:
                _write(text, wanted)
            elif _is_ours(text) and f", {wanted}, " not in f", {known}, ":
                _write(text, f"{known}, {wanted}")
        if self.number == 0 and title:
            _write(self.ax.title, title)
        elif self.number and _is_ours(self.ax.title):
            _write(self.ax.title, "")

    def legend(self, on: Axes | None = None, **options: Any) -> None:
        """Make the legend, results before their parts; `on` are further axes, with theirs, which it then stands on."""
        handles, labels = self.ax.get_legend_handles_labels()
        if on is not None:
            more_handles, more_labels = on.get_legend_handles_labels()
            handles, labels = [*handles, *more_handles], [*labels, *more_labels]
        names = [(line.get_gid() or "").removeprefix(_MAIN) for line in self.results()]
        order = sorted(range(len(labels)), key=lambda i: labels[i] not in names)
        place = self.ax if on is None else on
        place.legend([handles[i] for i in order], [labels[i] for i in order], **{"frameon": False} | options)

    def beside(self, name: str) -> Axes:
        """Return axes of that name with the same horizontal one and a vertical one of their own, made once."""
        for other in self.ax.get_shared_x_axes().get_siblings(self.ax):
            if other.get_gid() == name:
                return other
        made: Axes = self.ax.twinx()
        made.set_gid(name)
        return made


def _write(text: Text, wanted: str) -> None:
    text.set_text(wanted)
    text.set_gid(wanted)


def _is_ours(text: Text) -> bool:
    """Whether a text is as it was written here, and nobody has set another one since."""
    return text.get_gid() == text.get_text()
