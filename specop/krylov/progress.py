"""Progress bars on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from specop.errors import InvalidInputError

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(show: bool, description: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
    """Yield ``update(products, note)``, which moves a bar on standard error if that is a terminal.

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
        from tqdm import tqdm
    except ImportError as error:
        raise InvalidInputError("progress=True needs tqdm: pip install 'specop[cli]'.") from error
    # disable=None leaves the bar out where standard error is not a terminal.
    with tqdm(total=total, desc=description, unit=" products", leave=False, disable=None) as bar:

        def update(products: int, note: str) -> None:
            bar.set_postfix_str(note, refresh=False)
            bar.update(products - bar.n)

        yield update
