"""draw_history, history_json: what `specop track` makes of a saved history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from specop.errors import InvalidInputError
from specop.results.history import HistoryResult
from specop.results.result import load

__all__ = ["draw_history", "history_json"]


def draw_history(path: Path, out: Path | None, quantity: str | None) -> tuple[HistoryResult, Path]:
    """Draw a history into a PNG file; return it and where the picture is.

    Parameters
    ----------
    path : Path
        File that a monitor has saved.
    out : Path or None
        The picture; None for a file beside the history, of the same name.
    quantity : str or None
        Quantity to draw, as `HistoryResult.plot` takes it; None for all.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidInputError("the picture needs matplotlib: pip install 'specop[plot]'.") from error
    history = load(path)
    if not isinstance(history, HistoryResult):
        raise InvalidInputError(
            f"{path.name} holds a {type(history).__name__} and no history. Pass what "
            f"specop.training.Monitor(...).history.save(path) has written."
        )
    picture = path.with_suffix(".png") if out is None else out
    # A figure of its own, not pyplot's: no window and no global state.
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    history.plot(figure.subplots(), quantity=quantity)
    try:
        figure.savefig(picture, dpi=150, format="png")
    except OSError as error:
        raise InvalidInputError(f"cannot write {picture}: {error.strerror}. Choose another file with --out.") from error
    return history, picture


def history_json(history: HistoryResult, picture: Path) -> str:
    """Return a history as JSON, a list for each column; numbers that are not finite become null."""
    columns = {name: _plain(column.values) for name, column in history._columns().items()}
    content: dict[str, Any] = {
        "columns": columns,
        "samples": history.samples,
        "seconds": history.seconds,
        "elapsed": history.elapsed,
        "share": history.share if np.isfinite(history.share) else None,
        "products": history.matvecs,
        "gaps": {str(step): text for step, text in history.gaps.items()},
        "picture": str(picture),
    }
    return json.dumps(content, indent=2, allow_nan=False)


def _plain(values: Any) -> list[Any]:
    return [value if np.isfinite(value) else None for value in np.asarray(values).tolist()]
