"""What one pass over the data gives besides products: the mean loss, its gradient and those of single samples."""

from __future__ import annotations

from collections.abc import Iterator

from specop.arrays.backend import Array
from specop.objectives.autodiff import Autodiff
from specop.objectives.data import Batches
from specop.objectives.point import Point
from specop.objectives.products import accumulate
from specop.objectives.splitting import fitting, gradient_blocks

__all__ = ["mean_gradient", "mean_loss", "sample_gradients"]


def mean_loss(autodiff: Autodiff, data: Batches, theta: Array | None) -> Array:
    """Return the mean loss as a native scalar."""

    def in_one_pass() -> Array:
        total: Array | None = None
        with data.reading() as batches:
            for batch, share, _ in batches:
                # A copy, because a loss may be one of the parameters themselves.
                part = autodiff.backend.copy(autodiff.loss(theta, batch))
                total = accumulate(autodiff.backend, total, share, part)
        return total

    return fitting(autodiff, data, theta, in_one_pass)


def mean_gradient(autodiff: Autodiff, data: Batches, theta: Array | None) -> Array:
    """Return the gradient of the mean loss as a native vector."""

    def in_one_pass() -> Array:
        total: Array | None = None
        with data.reading() as batches:
            for batch, share, _ in batches:
                _, part = autodiff.gradient(theta, batch)
                total = accumulate(autodiff.backend, total, share, part)
        return total

    return fitting(autodiff, data, theta, in_one_pass)


def sample_gradients(autodiff: Autodiff, data: Batches, point: Point, block_bytes: int) -> Iterator[Array]:
    """Yield blocks of rows: for each of m samples, m times what it adds to the gradient of the mean loss."""
    for batch, share, _ in data.one_by_one():
        blocks = gradient_blocks(autodiff, point.theta, batch, block_bytes)
        while True:
            # Watched while it computes; in between, control is the user's.
            with point.unchanged():
                block = next(blocks, None)
            if block is None:
                break
            yield autodiff.backend.scale_(block, share * data.samples)
