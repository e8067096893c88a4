"""Passes over data that do not fit into memory: batches in halves, if the loss is the mean over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from specop.arrays.backend import Array, numbers_of
from specop.errors import InvalidInputError
from specop.objectives.point import Point
from specop.objectives.trained import halves, mean_of_parts
from specop.statistics.numbers import Floats

__all__ = ["block_bytes", "fitting", "gradient_blocks", "sample_traces"]

T = TypeVar("T")

# Computing a block of gradients holds several times as much. Larger blocks than this take twice as long on a CPU: their
# memory is new each time.
_BLOCK_SHARE, _BLOCK_BYTES = 8, 2**25


def fitting(point: Point, one_pass: Callable[..., T], *arguments: Any) -> T:
    """Return what one pass over the data gives, with batches halved until memory suffices.

    The size that fits is remembered by the data. Before the first split the loss must prove additive: of a contrastive
    loss, or with batch normalization in training mode, the mean over halves is another function.

    Parameters
    ----------
    point : Point
        Parameters, data and derivatives at which losses are compared.
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
            parts, shares = zip(*halves(point, whole), strict=True)
            try:
                losses = numbers_of(point.backend, *(autodiff.loss(point.theta, part) for part in (whole, *parts)))
                break
            except Exception as caught:
                if not autodiff.is_out_of_memory(caught) or autodiff.count(whole) < 3:
                    raise
            # Not even the loss of the whole fits: what holds for a part is as telling.
            whole = parts[0]
    mean, agrees = mean_of_parts(point, losses[0], losses[1:], shares)
    if not agrees:
        raise InvalidInputError(
            f"a batch of {data.largest()} samples does not fit into memory ({message}), and it cannot be split: its "
            f"loss is {losses[0]:.6g}, the mean over its halves {mean:.6g}. Use smaller batches, or a part of "
            f"the parameters; if the criterion averages over something else than samples, pass weight=."
        )


def block_bytes(point: Point) -> int:
    """Return the memory that a block of samples' gradients may take under the memory budget."""
    return min(point.budget.total // _BLOCK_SHARE, _BLOCK_BYTES)


def gradient_blocks(point: Point, batch: Any, size: int) -> Iterator[Array]:
    """Yield what each sample of a batch adds to its gradient, as many rows at a time as bytes and memory allow."""
    yield from _blocks(point, batch, point.autodiff.sample_gradients(point.theta, batch), size)


def sample_traces(point: Point, batch: Any, signs: Callable[[int], NDArray[np.int8]]) -> Floats:
    """Return what each sample of a batch adds to the trace of its Gauss-Newton matrix; see `Autodiff.sample_traces`."""
    between = point.autodiff.sample_traces(point.theta, batch, signs)
    return np.concatenate([*_blocks(point, batch, between, block_bytes(point))])


def _blocks(point: Point, batch: Any, between: Callable[[int, int], T], size: int) -> Iterator[T]:
    """Yield what a function of a range of samples gives for all of a batch, whose gradients take that many bytes."""
    autodiff = point.autodiff
    rows = max(1, size // (autodiff.layout.n * autodiff.layout.dtype.itemsize))
    start, count = 0, autodiff.count(batch)
    while start < count:
        stop = min(start + rows, count)
        try:
            block = between(start, stop)
        except Exception as caught:
            if not autodiff.is_out_of_memory(caught) or stop - start < 2:
                raise
            block = None
        if block is None:
            rows = (stop - start) // 2
            continue
        yield block
        start = stop
