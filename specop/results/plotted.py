"""Plotted: results that can be drawn, alone or over each other."""

from __future__ import annotations

import abc
from typing import Any

from specop.plotting.axes import Axes, Place

__all__ = ["Plotted"]


class Plotted(abc.ABC):
    """What results have in common that can be drawn. What a picture shows stands in the description of each class."""

    def plot(self, ax: Axes | None = None, *, label: str | None = None, color: Any = None) -> Axes:
        """Draw the result; needs matplotlib.

        Results of one kind lie over each other on the same axes, each with its label and its colour::

            ax = first.plot(label="small batches")
            second.plot(ax, label="large batches")

        Scales and limits are then such that all can be seen, and the title, which is that of a single one, is left out.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw, beside what is there already; default: a new figure.
        label : str, optional
            What the result is called in the legend. All of its parts then have its colour.
        color : color, optional
            Any colour of matplotlib. Default: blue, and another one for each further result on the same axes.

        Returns
        -------
        matplotlib Axes
            Axes that it was drawn on: for ``set_title``, for another result, and ``.figure.savefig`` for a file.

        Raises
        ------
        InvalidInputError
            Without matplotlib, if `ax` is something else than one Axes, or if there is nothing to draw.
        """
        return self._draw(Place(ax, label, color))

    @abc.abstractmethod
    def _draw(self, place: Place) -> Axes:
        """Draw the result there and return the axes."""
