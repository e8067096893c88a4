"""Importance: how much each sample may add to curvature, by one forward pass over the data."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from specop.errors import MissingOutputsError
from specop.objectives.point import Point
from specop.objectives.splitting import fitting
from specop.objectives.trained import reading
from specop.statistics.numbers import Floats

__all__ = ["importance", "known_weights", "weights_of"]

# Samples of small batches that are looked at together, and bytes: a forward pass of few takes as long as one of many
# while a processor's cache holds what it makes. 1,024 images of 28 x 28 took 1.7 times as long as four times 256.
_TOGETHER, _BYTES = 1024, 2**20


def importance(point: Point) -> Floats:
    """Return how much each sample may add to curvature, up to a common factor; ones where outputs are not known."""
    return known_weights(weights_of(point), point.data.samples)


def weights_of(point: Point) -> Floats | None:
    """Return how much each sample may add to curvature, as its part of the mean loss; None without outputs."""
    try:
        found: Floats = fitting(point, _importance, point)
    except MissingOutputsError:
        fitting(point, _read, point)
        return None
    return found


def known_weights(found: Floats | None, samples: int) -> Floats:
    """Return weights of samples, or ones where there are none that tell them apart."""
    return found if found is not None and found.any() else np.ones(samples)


def _importance(point: Point) -> Floats:
    weights = np.zeros(point.data.samples)
    for batch, share, first in _joined(point):
        rows, count = point.autodiff.importance(point.theta, batch), point.autodiff.count(batch)
        # Rows that belong to no sample in particular say something of all of them only.
        each = rows.reshape(count, -1).sum(axis=1) if len(rows) % count == 0 else rows.sum() / count
        # Numbers count the samples of other processes, too.
        start = first - point.data.first_sample
        weights[start : start + count] = share * each
    return weights


def _read(point: Point) -> None:
    """Read batches that say nothing of their samples, because whether they add up is still to be looked at."""
    if not point.data.is_verified:
        with reading(point) as batches:
            deque(batches, maxlen=0)


def _joined(point: Point) -> Iterator[tuple[Any, float, int]]:
    """Give the batches of one pass as `Batches.reading` does, small ones together.

    Together they have fewer outputs than there are parameters, of which algorithms hold many vectors.
    """
    autodiff, most = point.autodiff, 0
    with reading(point) as batches:
        waiting: list[tuple[Any, float, int]] = []
        held = 0
        for one in batches:
            count = autodiff.count(one[0])
            if not most:
                most = _most_together(point, one[0], count)
            if waiting and held + count > most:
                yield from _together(point, waiting)
                waiting, held = [], 0
            waiting.append(one)
            held += count
        yield from _together(point, waiting)


def _most_together(point: Point, batch: Any, count: int) -> int:
    """Return how many samples may be looked at together, one where batches are to be as they are."""
    autodiff = point.autodiff
    # Where parameters are spread, other processes look at theirs at the same time; a limit is one of memory.
    if autodiff.layout.sharding is not None or point.data.limit is not None or 2 * count > _TOGETHER:
        return 1
    outputs = point.backend.layout(autodiff.outputs(point.theta, batch)).n
    return min(
        _TOGETHER,
        _BYTES * count // max(1, autodiff.batch_bytes(batch)),
        autodiff.layout.n * count // max(1, outputs),
    )


def _together(point: Point, waiting: list[tuple[Any, float, int]]) -> Iterator[tuple[Any, float, int]]:
    """Give batches together that follow each other and are of one kind, others as they are."""
    if len(waiting) < 2:
        yield from waiting
        return
    counts = [point.autodiff.count(batch) for batch, _, _ in waiting]
    chosen = ((batch, np.arange(count)) for (batch, _, _), count in zip(waiting, counts, strict=True))
    for positions, joined in point.autodiff.gather(chosen):
        first, stop = positions[0], positions[-1] + 1
        if stop - first > len(positions) or len(positions) == 1:
            yield from (waiting[i] for i in positions)
            continue
        batch = joined.pick(np.arange(sum(counts[first:stop])))
        yield point.autodiff.prepare(batch), sum(share for _, share, _ in waiting[first:stop]), waiting[first][2]
