"""reading: batches of which the first show that what is differentiated is the loss that is trained."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from specop.arrays import probes
from specop.arrays.backend import lengths_of, numbers_of
from specop.errors import InvalidInputError, NondeterministicError, NonFiniteError
from specop.objectives.autodiff import Matrix
from specop.objectives.point import Point
from specop.objectives.refusals import dependent_samples
from specop.objectives.trees import Joined

__all__ = [
    "check_separable",
    "check_uncoupled",
    "fewer_samples",
    "halves",
    "mean_of_parts",
    "reading",
    "some_samples",
    "verified",
]

Batch = tuple[Any, float, int]

# A loss computed in 16 bit is not more exact than the one; models that cast inside are not more exact than the other.
_COARSEST, _FINEST = 0.03, 1e-5
# Length of a step away from the parameters, relative to them.
_BESIDE = 0.1
# Index of a random vector, far from those of other probes.
_PROBE = 1 << 35


@contextmanager
def reading(point: Point) -> Iterator[Iterator[Batch]]:
    """Give the batches of one pass as `Batches.reading` does, or raise if their mean is not the loss that is trained.

    That is looked at once for an objective: on a few samples whether the loss is a function at all, and the gradient
    that of the plain call in the user's framework; whether the first two of several batches are the means of their
    halves; and whether batches weigh beside the first one as they do apart, all of them where it is not known what the
    criterion divides by, because the first ones need have no padding.
    """
    point.data.deal(functools.partial(_loss_beside, point))
    with point.data.reading() as batches:
        yield verified(point, batches)


def verified(point: Point, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Give batches, and look at them unless that was done: at all where nobody knows what the criterion divides by."""
    data = point.data
    seen, first = data.is_verified, None
    for number, item in enumerate(batches):
        if not data.is_verified and (number < 2 or not data.divisor_is_known):
            seen = _looked_at(point, item[0], number, first) and (seen or number == 0)
            first = _First(point, item[0]) if number == 0 else first
        yield item
    data.is_verified = seen


class _First:
    """Half of the samples of the first batch, beside which those of others are put."""

    def __init__(self, point: Point, batch: Any) -> None:
        self._point = point
        self.batch = batch
        self.count = max(1, point.autodiff.count(batch) // 2)
        self._losses: dict[int, float | None] = {}

    def loss(self, count: int, part: Any) -> float | None:
        """Return the loss of as many of these samples, which each of the other batches asks for."""
        if count not in self._losses:
            self._losses[count] = _loss(self._point, part)
        return self._losses[count]


def _looked_at(point: Point, batch: Any, number: int, first: _First | None = None) -> bool:
    """Whether a batch, beside the first one, could be looked at, and is as it should be; raise if it is not."""
    autodiff = point.autodiff
    with autodiff.preserved():
        try:
            if not autodiff.was_checked:
                # Calls that look for samples leave nothing either, such as weights that a first call computes once.
                with autodiff.hidden_state():
                    some = some_samples(point, batch)
                with autodiff.hidden_state() as changed:
                    autodiff.check_trained(point.theta, some, changed)
                autodiff.was_checked = True
            if not point.data.are_one_mean:
                if number < 2:
                    _check_additive(point, batch, number)
                if first is not None:
                    _check_together(point, first, batch, number)
        except Exception as error:
            # What the caller does with the batch itself fails as well, and says more.
            moved = isinstance(error, NondeterministicError) and point.has_moved()
            if not (moved or isinstance(error, NonFiniteError) or autodiff.is_out_of_memory(error)):
                raise
            return False
    return True


def some_samples(point: Point, batch: Any) -> Any:
    """Return a few of the batch's samples, or all of them where the adapter or the model wants that."""
    autodiff = point.autodiff
    few, count = autodiff.witness_samples, autodiff.count(batch)
    if few is None or count <= few:
        return batch
    # The mean over samples none of whose labels counts is no number.
    for start in (0, (count - few) // 2, count - few):
        part = autodiff.take(batch, start, start + few)
        loss = _loss(point, part)
        if loss is None:
            break
        if not np.isnan(loss):
            return part
    return batch


def fewer_samples(point: Point, some: Any, most: float) -> Any:
    """Return at most so many of these samples where their loss is the mean over parts, so that one tells of itself."""
    autodiff = point.autodiff
    while autodiff.count(some) > max(1.0, most) and _can_be_cut(point, some) and len(point.data.competing(some)) == 1:
        found = _halved(point, some)
        if found is None or not found[2]:
            break
        some = halves(point, some)[0][0]
    return some


def mean_of_parts(point: Point, whole: float, losses: Sequence[float], shares: Sequence[float]) -> tuple[float, bool]:
    """Return the mean over the losses of a batch's parts, and whether that is the loss of the whole."""
    mean = float(np.dot(losses, shares))
    precision = point.autodiff.precision
    # Logarithms of probabilities close to one are rounded to the precision of one.
    tolerance = max(_FINEST, min(precision**0.5, _COARSEST)) * max(map(abs, [whole, *losses])) + 10.0 * precision
    return mean, abs(mean - whole) <= tolerance


def halves(point: Point, batch: Any) -> list[tuple[Any, float]]:
    """Return two parts of a batch with their shares of its weight; those of weight zero are left out."""
    pieces = point.data.pieces(batch, (point.autodiff.count(batch) + 1) // 2)
    return [piece for piece in pieces if piece[1] > 0]


def check_uncoupled(point: Point, batch: Any) -> None:
    """Raise InvalidInputError if the outputs of a batch's samples depend on the other samples."""
    autodiff, backend = point.autodiff, point.backend
    count = autodiff.count(batch)
    if not _can_be_cut(point, batch):
        return
    vector = probes.normal(backend, autodiff.layout, 0, _PROBE)
    matrix = Matrix("jacobian")
    slopes = [autodiff.product(point.theta, one, vector, matrix) for one in (batch, _exchanged(point, batch)[0])]
    kept = np.arange(backend.layout(slopes[0]).n // count * (count // 2))
    slope, other = (backend.gather(found, kept) for found in slopes)
    size, apart = numbers_of(backend, backend.norm(slope), backend.norm(backend.axpy_(other, -1.0, slope)))
    if apart > autodiff.precision**0.5 * size:
        raise dependent_samples(0, count // 2)


def _can_be_cut(point: Point, batch: Any) -> bool:
    return point.autodiff.count(batch) > 1 and _has_slices(point, batch)


def _has_slices(point: Point, batch: Any) -> bool:
    try:
        point.autodiff.take(batch, 0, 1)
    except InvalidInputError:
        # Sparse arrays of JAX have none.
        return False
    return point.autodiff.count(batch) > 0


def _exchanged(point: Point, batch: Any) -> list[Any]:
    """Return a batch with its first half in the place of its second one as well, and the other way round."""
    autodiff, count = point.autodiff, point.autodiff.count(batch)
    first, second, last = np.split(np.arange(count), [count // 2, count // 2 * 2])
    return [autodiff.prepare(autodiff.pick(batch, np.concatenate([half, half, last]))) for half in (first, second)]


def check_separable(point: Point, batch: Any) -> None:
    """Raise InvalidInputError if a part of the samples says nothing of the others, because the loss is not their mean.

    Parameters
    ----------
    point : Point
    batch : batch
        One of the data's, on the device.
    """
    data, remedy = point.data, "Leave data= out, so that all samples are multiplied."
    if data.are_as_given:
        raise InvalidInputError(
            f'a part of the samples has no curvature of its own under batches="as given" or fixed_randomness=: what '
            f"counts there are whole batches. {remedy}"
        )
    if len(data.competing(batch)) > 1:
        raise InvalidInputError(
            f"which entries of a batch are one sample is not known: its arrays have the leading dimensions "
            f"{' and '.join(map(str, data.competing(batch)))}. Put samples first in all, or leave data= out."
        )
    _looked_at(point, batch, 0)
    if not _can_be_cut(point, batch):
        return
    found = _halved(point, batch)
    if found is not None and not found[2]:
        raise InvalidInputError(
            f"the loss of {point.autodiff.count(batch)} samples is {found[0]:.6g}, the mean over their halves "
            f"{found[1]:.6g}: samples are coupled, as by contrastive losses and statistics of a batch, or the "
            f"criterion is no mean, so that a part of them does not tell of the whole. {remedy}"
        )


def _check_additive(point: Point, batch: Any, number: int) -> None:
    if len(point.data.competing(batch)) > 1 or not _can_be_cut(point, batch):
        return
    found = _halved(point, batch)
    if found is not None and not found[2]:
        raise _not_additive(f"that of batch {number} is {found[0]:.6g}, the mean over its halves {found[1]:.6g}")


def _check_together(point: Point, first: _First, other: Any, number: int) -> None:
    """Raise unless samples of two batches weigh in one as they do in two: one of them may have more padding."""
    autodiff, data = point.autodiff, point.data
    # Batches with a time first, or of other shapes, are looked at elsewhere.
    if any(len(data.competing(batch)) > 1 or not _has_slices(point, batch) for batch in (first.batch, other)):
        return
    # As many samples as in a batch, since a model may take, or be compiled for, that number only.
    some = min(first.count, autodiff.count(other))
    if number > 1 and some < first.count and autodiff.witness_samples is None:
        # A last batch that is shorter, so not filled up with padding, is not worth compiling for.
        return
    batches = [_of_several(point, batch) for batch in (first.batch, other)]
    if any(batch is None for batch in batches):
        return
    # Padding comes last.
    count = autodiff.count(batches[1])
    places = np.arange(some), np.arange(count - some, count)
    kinds = autodiff.gather(zip(batches, places, strict=True))
    if len(kinds) > 1:
        return
    parts = [
        autodiff.prepare(autodiff.pick(batch, np.concatenate([chosen, chosen])))
        for batch, chosen in zip(batches, places, strict=True)
    ]
    weights = np.array([data.weight_of(part) for part in parts])
    if not weights.any():
        return
    joined = kinds[0][1]
    whole = _loss(point, autodiff.prepare(joined.pick(np.arange(2 * some))))
    losses = [
        first.loss(some, parts[0]) if weights[0] > 0 else 0.0,
        _loss(point, parts[1]) if weights[1] > 0 else 0.0,
    ]
    known = [loss for loss in losses if loss is not None]
    # Of samples none of which counts, the mean over those that count is no number.
    if whole is None or np.isnan(whole) or len(known) < 2:
        return
    mean, agrees = mean_of_parts(point, whole, known, weights / weights.sum())
    if not agrees and not (some == 1 and whole == losses[0] and _takes_the_first(point, joined, losses[1])):
        raise _not_additive(
            f"{some} samples of batch 0 and as many of batch {number} have a loss of {whole:.6g} together, and the "
            f"mean over both, with the weights {weights[0] / 2:g} and {weights[1] / 2:g}, is {mean:.6g}"
        )


def _of_several(point: Point, batch: Any) -> Any:
    """Return a batch of one sample as two that are the same, or None where arrays that belong to no sample look so."""
    autodiff = point.autodiff
    if autodiff.count(batch) > 1:
        return batch
    if any(shape[0] == 2 for shape in autodiff.array_shapes(batch)):
        return None
    return autodiff.pick(batch, np.zeros(2, dtype=np.intp))


def _takes_the_first(point: Point, two: Joined, second: float | None) -> bool:
    """Whether the loss of two samples is that of the second where it comes first: a model of single samples."""
    return _loss(point, point.autodiff.prepare(two.pick(np.array([1, 0])))) == second


def _not_additive(seen: str) -> InvalidInputError:
    return InvalidInputError(
        f"several batches do not add up to the loss on all data: {seen}. Either samples are coupled, as by contrastive "
        f"losses, ratios of sums and statistics of a batch, or the criterion is no mean, or it divides by something "
        f"else than the number of samples: then pass weight=lambda batch: ..., what it divides by. Otherwise give all "
        f'data as one batch, or pass batches="as given" for the mean over the losses of the batches.'
    )


def _halved(point: Point, batch: Any) -> tuple[float, float, bool] | None:
    """Return a batch's loss, the mean over its halves, and whether they agree; None where that cannot be told."""
    parts: Sequence[Any]
    parts, shares = zip(*halves(point, batch), strict=True)
    losses = [_loss(point, part) for part in parts]
    if None in losses:
        # Batches of another size are not taken.
        parts = _exchanged(point, batch)
        losses = [_loss(point, part) for part in parts]
        weights = np.array([point.data.weight_of(part) for part in parts])
        shares = weights / weights.sum()
    whole = _loss(point, batch)
    known = [loss for loss in losses if loss is not None]
    if whole is None or np.isnan(whole) or len(known) < len(losses):
        return None
    return whole, *mean_of_parts(point, whole, known, shares)


def _loss_beside(point: Point, batch: Any) -> float | None:
    """Return a loss near the point: at it all terms may be the same, as with weights of zero, or zero."""
    autodiff, backend = point.autodiff, point.backend
    theta = autodiff.point() if point.theta is None else backend.copy(point.theta)
    along = autodiff.moving(probes.normal(backend, autodiff.layout, 0, _PROBE + 1))
    length, size = lengths_of(backend, theta, along)
    theta = backend.axpy_(theta, _BESIDE * (length or 1.0) / (size or 1.0), along)
    found = _loss(replace(point, theta=theta), batch)
    return None if found is None or np.isnan(found) else found


def _loss(point: Point, batch: Any) -> float | None:
    """Return a loss, NaN if it is not finite, or None where the model does not take these samples."""
    try:
        (found,) = numbers_of(point.backend, point.autodiff.loss(point.theta, batch))
    except NonFiniteError:
        return float("nan")
    except Exception as error:
        # A model that takes batches of one size only may say so in any way; whatever else is wrong with it, the
        # batch as it is shows in a moment.
        if point.autodiff.is_out_of_memory(error):
            raise
        return None
    return found
