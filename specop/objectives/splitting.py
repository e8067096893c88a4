"""Passes over data that do not fit into memory: batches in halves, if the loss is the mean over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from specop.arrays.backend import Array, numbers_of
from specop.errors import InvalidInputError
from specop.objectives.point import Point

__all__ = ["block_bytes", "fitting", "gradient_blocks"]

T = TypeVar("T")

# Computing a block of gradients holds several times as much. Larger blocks than this take twice as long on a CPU: their
# memory is new each time.
_BLOCK_SHARE, _BLOCK_BYTES = 8, 2**25
# A loss computed in 16 bit is not more exact than this.
_COARSEST = 0.03


def fitting(point: Point, one_pass: Callable[..., T], *arguments: Any) -> T:
    """Return what one pass over the data gives, with batches halved until memory suffices.

    The size that fits is remembered by the data. Before the first split the loss must prove additive: of a contrastive
    loss, or with batch normalization in training mode, the mean over halves is another function.

    Parameters
    ----------
    point : Point
        Where the loss is compared.
    one_pass : callable
        Called with the arguments; without effects that a failure leaves behind.
    """
    while True:
        try:
            return one_pass(*arguments)
        except Exception as caught:
            if not point.autodiff.is_out_of_memory(caught):
                raise
            if point.data.largest() < 2:
                caught.add_note("A single sample does not fit into memory: select a part of the parameters.")
                raise
            message = str(caught)
        # Not inside the handler: there the traceback still holds the memory of the call that failed.
        if point.data.limit is None:
            _check_additive(point, message)
        point.data.halve()


def _check_additive(point: Point, message: str) -> None:
    autodiff, data = point.autodiff, point.data
    with data.reading() as batches:
        whole = max((batch for batch, _, _ in batches), key=autodiff.count)
        while True:
            halves = [half for half in data.pieces(whole, (autodiff.count(whole) + 1) // 2) if half[1] > 0]
            try:
                total, *losses = numbers_of(
                    point.backend,
                    autodiff.loss(point.theta, whole),
                    *(autodiff.loss(point.theta, half) for half, _ in halves),
                )
                break
            except Exception as caught:
                if not autodiff.is_out_of_memory(caught) or autodiff.count(whole) < 3:
                    raise
            # Not even the loss of the whole fits: what holds for a part is as telling.
            whole = halves[0][0]
    mean = sum(loss * share for loss, (_, share) in zip(losses, halves, strict=True))
    scale = max(map(abs, [total, *losses]))
    if abs(mean - total) > min(autodiff.precision**0.5, _COARSEST) * scale:
        raise InvalidInputError(
            f"a batch of {data.largest()} samples does not fit into memory ({message}), and it cannot be split: its "
            f"loss is {total:.6g}, the mean over its halves {mean:.6g}. Use smaller batches, or a part of the "
            f"parameters; if the criterion averages over something else than samples, pass weight=."
        )


def block_bytes(point: Point) -> int:
    """Return the memory that a block of samples' gradients may take under the memory budget."""
    return min(point.budget.total // _BLOCK_SHARE, _BLOCK_BYTES)


def gradient_blocks(point: Point, batch: Any, size: int) -> Iterator[Array]:
    """Yield what each sample of a batch adds to its gradient, as many rows at a time as bytes and memory allow."""
    autodiff = point.autodiff
    rows = max(1, size // (autodiff.layout.n * autodiff.layout.dtype.itemsize))
    gradients = autodiff.sample_gradients(point.theta, batch)
    start, count = 0, autodiff.count(batch)
    while start < count:
        stop = min(start + rows, count)
        try:
            block = gradients(start, stop)
        except Exception as caught:
            if not autodiff.is_out_of_memory(caught) or stop - start < 2:
                raise
            block = None
        if block is None:
            rows = (stop - start) // 2
            continue
        yield block
        start = stop
