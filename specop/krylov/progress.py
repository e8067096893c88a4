"""Progress bars on a terminal and in notebooks, nothing elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from specop.errors import InvalidInputError

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(show: bool, description: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
    """Yield ``update(products, note)``, which moves a bar on standard error if that is a terminal or a notebook.

    Parameters
    ----------
    show : bool
        Whether a bar is wanted at all; without it tqdm is not imported.
    description : str
        What stands before the bar.
    total : int, optional
        Number of products at which the bar is full, where that is known.
    """
    if not show:
        yield lambda products, note: None
        return
    try:
        widgets = _in_notebook() and importlib.util.find_spec("ipywidgets") is not None
        bars: Any = importlib.import_module("tqdm.notebook" if widgets else "tqdm")
    except ImportError as error:
        raise InvalidInputError("progress=True needs tqdm: pip install 'specop[cli]'.") from error
    # disable=None leaves the bar out where standard error is not a terminal.
    disable = False if _in_notebook() else None
    with bars.tqdm(total=total, desc=description, unit=" products", leave=False, disable=disable) as bar:

        def update(products: int, note: str) -> None:
            bar.set_postfix_str(note, refresh=False)
            bar.update(products - bar.n)

        yield update


def _in_notebook() -> bool:
    """Whether the code runs in a kernel of Jupyter: its standard error is no terminal, and is shown all the same."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")
