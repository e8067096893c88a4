"""figures_of, picture: the figures of a report as files, without a window or any global state."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from specop.plotting.axes import Axes
from specop.results.eigen import EigenResult
from specop.results.result import Result
from specop.results.spectral_density import SpectralDensity

__all__ = ["figures_of", "picture"]

# One eigenvalue without the limit of an optimizer.
_UNSEEN = ("stability",)
# The same report gives the same bytes.
_FIXED = {"png": {"Software": None}, "svg": {"Date": None}}


def figures_of(density: SpectralDensity, largest: EigenResult, sections: dict[str, Result]) -> dict[str, bytes]:
    """Return the figures of a report's page as SVG, by the name of what they show.

    Parameters
    ----------
    density : SpectralDensity
    largest : EigenResult
    sections : dict
        Results by the names of the page's sections; those that cannot be drawn have no figure.
    """
    drawers: dict[str, Callable[[Axes], Any]] = {"density": density.plot, "largest": largest.plot}
    drawers |= {name: one.plot for name, one in sections.items() if hasattr(one, "plot") and name not in _UNSEEN}
    return {name: picture(draw, "svg") for name, draw in drawers.items()}


def picture(draw: Callable[[Axes], Any], kind: str) -> bytes:
    """Return a figure as a file in memory.

    Parameters
    ----------
    draw : callable
        Draws on the axes that it is given.
    kind : {"png", "svg"}
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    draw(figure.subplots())
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "specop"}):
        figure.savefig(file, format=kind, dpi=150, metadata=_FIXED[kind])
    return file.getvalue()
