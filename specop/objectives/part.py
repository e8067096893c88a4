"""SampleMean: a curvature matrix by groups of its samples, and what each sample may add to it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specop.arrays import probes
from specop.arrays.backend import Array, numbers_of
from specop.arrays.layout import Layout
from specop.errors import InvalidInputError
from specop.objectives.autodiff import HESSIAN, Linearization, Matrix
from specop.objectives.central_differences import PROBE
from specop.objectives.importance import importance, weights_of
from specop.objectives.point import Point
from specop.objectives.products import Products, accumulate
from specop.objectives.splitting import sample_traces
from specop.objectives.trained import check_separable, some_samples
from specop.objectives.trees import Joined
from specop.objectives.witness import verify
from specop.operators.sample_mean import Split, Traces
from specop.statistics.numbers import Floats, Integers

__all__ = ["Group", "SampleMean"]

_GGN, _OUTPUT_CURVATURE = Matrix("ggn"), Matrix("output curvature")
# Matrices that groups of samples do not add up to as the criterion's own do.
_REFUSED = {
    "sampled fisher": "its labels belong to places in the data: take fisher() or ggn()",
    "empirical fisher of samples": 'take fisher(kind="empirical", of="terms") where the likelihood is known',
}


# Samples whose loss is held against that of their halves: so many together, because halves of more are more alike, and
# so many in all.
_MIXED, _ENOUGH = 31, 256


@dataclass(eq=False)
class Group:
    """Samples that are multiplied together.

    Parameters
    ----------
    point : Point
    matrix : Matrix
    pieces : list of (batch, float)
        Batches on the device, each with its share of the group's terms.
    share : float
        Share of these samples in all terms of the loss.
    samples : int
    """

    point: Point
    matrix: Matrix
    pieces: list[tuple[Any, float]]
    share: float
    samples: int

    def __post_init__(self) -> None:
        self._linear: dict[int, Linearization] = {}
        self._are_too_large = False
        self._is_expected = False
        self.point.budget.reserve(self, self.bytes)

    @property
    def bytes(self) -> int:
        """Memory that the samples take."""
        return sum(self.point.autodiff.batch_bytes(batch) for batch, _ in self.pieces)

    @property
    def held_bytes(self) -> int:
        """Memory that linearizations hold."""
        return sum(made.bytes for made in self._linear.values())

    def release(self) -> None:
        """Forget all linearizations."""
        self._linear.clear()

    def expect(self) -> None:
        """Say that several products follow, so that the first one is worth a linearization."""
        self._is_expected = True

    def multiply(self, vector: Array) -> Array:
        """Return the product of the mean over these samples with a vector, in fresh storage.

        The second product, or the first one where several are expected, linearizes the group for those that follow
        where the memory budget has room for that.
        """
        self.point.budget.use(self)
        total: Array | None = None
        for number, (batch, share) in enumerate(self.pieces):
            total = accumulate(self.point.backend, total, share, self._multiply(number, batch, vector))
        self._is_expected = True
        return self.point.backend.zeros(self.point.autodiff.layout) if total is None else total

    def _multiply(self, number: int, batch: Any, vector: Array) -> Array:
        autodiff, theta = self.point.autodiff, self.point.theta
        if number in self._linear:
            return self._linear[number].apply(vector)
        if not self._is_expected or self._are_too_large:
            return autodiff.product(theta, batch, vector, self.matrix)
        made = autodiff.linearize(theta, batch, vector, self.matrix)
        if made.bytes <= self.point.budget.room():
            self._linear[number] = replace(made, first=None)
        else:
            self._are_too_large = True
        return made.first


class SampleMean:
    """The mean over samples that a curvature matrix is.

    Parameters
    ----------
    products : Products
        With the matrix, at its point.
    """

    def __init__(self, products: Products) -> None:
        self._products = products
        self._point = products.point
        self._seen, self._is_verified = 0, False

    @property
    def samples(self) -> int:
        """How many there are."""
        return self._point.data.samples

    @property
    def largest(self) -> int:
        """Number of samples that are known to fit into memory together."""
        return self._point.data.largest()

    def room(self) -> int:
        """Return the bytes that groups may still hold."""
        return self._point.budget.room()

    @property
    def layout(self) -> Layout:
        """Of vectors."""
        return self._point.autodiff.layout

    def importance(self) -> Floats:
        """Return how much each sample may add to the matrix, up to a common factor, by one forward pass."""
        return importance(self._point)

    def weights(self) -> Floats | None:
        """Return the same as parts of the mean loss; None where outputs are not known."""
        return weights_of(self._point)

    def groups(self, chosen: Sequence[Integers]) -> Iterator[Group]:
        """Give groups of samples, by one pass over the data.

        Parameters
        ----------
        chosen : sequence of ndarray of int
            Distinct numbers of samples for each group; no two groups share one.
        """
        point = self._point
        for numbers, pieces in self._pieces(chosen):
            terms = sum(weight for _, weight in pieces)
            shares = [(batch, weight / terms) for batch, weight in pieces]
            made = Group(point, self._products.matrix, shares, terms / point.data.terms, len(numbers))
            if pieces:
                self._verify(pieces[0][0])
            yield made

    @property
    def split(self) -> Split | None:
        """The matrix as that of the outputs, J' M J, and the rest; None where single samples have no gradients."""
        kind, autodiff = self._products.matrix.kind, self._point.autodiff
        # Where parameters are spread, no process has a sample's gradient whole.
        if kind not in ("hessian", "ggn", "fisher") or autodiff.layout.sharding is not None:
            return None
        ends = itertools.accumulate(autodiff.sizes)
        parts = tuple(slice(end - size, end) for size, end in zip(autodiff.sizes, ends, strict=True))
        return Split(self._traces, Remainder(self, self._point) if kind == "hessian" else None, parts)

    def _traces(self, chosen: Sequence[Integers], seed: int, first: int) -> Iterator[Traces]:
        point = self._point
        for index, (numbers, pieces) in enumerate(self._pieces(chosen), first):
            found: list[Floats] = []
            drawn = _Signs(seed, index)
            for batch, weight in pieces:
                self._verify(batch)
                drawn.samples = point.autodiff.count(batch)
                found.append(weight / point.data.terms * sample_traces(point, batch, drawn))
            # Samples that do not count add nothing.
            values = np.concatenate([*found, np.zeros(len(numbers) - drawn.done)])
            yield Traces(values, drawn.outputs <= 1)

    def _pieces(self, chosen: Sequence[Integers]) -> Iterator[tuple[Integers, list[tuple[Any, float]]]]:
        """Give batches of each group's samples, on the device, with their numbers of loss terms."""
        kind, point = self._products.matrix.kind, self._point
        if kind in _REFUSED:
            raise InvalidInputError(
                f"a part of the samples is not enough for a {kind}: {_REFUSED[kind]}, or leave data= out."
            )
        if not chosen:
            return
        autodiff, data = point.autodiff, point.data
        wanted = np.sort(np.concatenate(chosen))
        numbers: list[Integers] = []

        def read() -> Iterator[tuple[Any, Integers]]:
            for batch, places, found in data.chosen(wanted):
                numbers.append(found)
                yield batch, places

        with data.random_states_preserved():
            kinds = autodiff.gather(read())
        known = [(joined, np.concatenate([numbers[i] for i in positions])) for positions, joined in kinds]
        if known:
            joined, own = known[0]
            self._check_separable(joined, len(own))
        for group in chosen:
            pieces: list[tuple[Any, float]] = []
            for joined, own in known:
                places = _places(own, np.sort(group))
                if len(places):
                    batch = joined.pick(places)
                    weight = data.weight_of(batch)
                    pieces += [(autodiff.prepare(batch), weight)] * (weight > 0)
            yield group, pieces

    def _check_separable(self, joined: Joined, count: int) -> None:
        """Look at whether samples stand for themselves."""
        # A group of one stratum may hold one class only, so samples of all are put together; and the two parts of an
        # odd number cannot have the same share of each class.
        most = min(count, self.largest, _MIXED)
        size, step = most - (most % 2 == 0), count // most
        for first in range(min(step, (_ENOUGH - self._seen) // size)):
            places = np.arange(first, count, step)[:size]
            check_separable(self._point, self._point.autodiff.prepare(joined.pick(places)))
            self._seen += size

    def _verify(self, batch: Any) -> None:
        """Look once at whether products are what differences say."""
        if not self._is_verified and self._products.verdict is None:
            self._products.verdict = verify(self._point, batch, None, self._products.matrix)
        self._is_verified = True


class _Signs:
    """Random signs for the outputs of a group's samples, batch after batch.

    Attributes
    ----------
    samples : int
        How many the next batch has.
    done, outputs : int
        Samples before it, and the largest number of outputs of one.
    """

    samples = done = outputs = 0

    def __init__(self, seed: int, index: int) -> None:
        self._seed, self._index = seed, index

    def __call__(self, count: int) -> NDArray[np.int8]:
        samples = range(self.done, self.done + self.samples)
        self.done, self.outputs = samples.stop, max(self.outputs, count)
        return probes.sample_signs(self._seed, self._index, samples, count)


class Remainder:
    """A Hessian as a mean over samples, without the Gauss-Newton matrix.

    Parameters
    ----------
    mean : SampleMean
        The Hessian.
    point : Point
    """

    split = None

    def __init__(self, mean: SampleMean, point: Point) -> None:
        self._mean, self._point, self._is_checked = mean, point, False

    @property
    def samples(self) -> int:
        """How many there are."""
        return self._mean.samples

    @property
    def largest(self) -> int:
        """Number of samples that are known to fit into memory together."""
        return self._mean.largest

    def room(self) -> int:
        """Return the bytes that groups may still hold."""
        return self._mean.room()

    def importance(self) -> Floats:
        """Return how much each sample may add to the matrix, up to a common factor, by one forward pass."""
        return self._mean.importance()

    def groups(self, chosen: Sequence[Integers]) -> Iterator[Group]:
        """Give groups of samples, by one pass over the data; see `SampleMean.groups`."""
        for group in self._mean.groups(chosen):
            if not self._is_checked and group.pieces:
                self._check(group)
                self._is_checked = True
            yield replace(group, matrix=_OUTPUT_CURVATURE)

    def _check(self, group: Group) -> None:
        """Raise unless the matrix is what the Hessian and the Gauss-Newton matrix differ by, both of them verified."""
        point, (batch, _) = self._point, group.pieces[0]
        verify(point, batch, None, _GGN)
        some = some_samples(point, batch)
        vector = probes.normal(point.backend, point.autodiff.layout, 0, PROBE)
        hessian, ggn, found = (
            point.autodiff.product(point.theta, some, vector, matrix) for matrix in (HESSIAN, _GGN, _OUTPUT_CURVATURE)
        )
        backend = point.backend
        lengths = backend.norm(hessian), backend.norm(ggn)
        off = backend.norm(backend.axpy_(backend.axpy_(found, 1.0, ggn), -1.0, hessian))
        error, *scale = numbers_of(backend, off, *lengths)
        if not error <= point.autodiff.precision**0.5 * sum(scale):
            raise InvalidInputError(
                f"a Hessian is the Gauss-Newton matrix and the curvature of the outputs, but products differ by "
                f"{error:.2g} of {sum(scale):.2g}: an operation of the model has another derivative in one of them. "
                f"Leave data= out."
            )


def _places(known: Integers, wanted: Integers) -> Integers:
    """Return where the numbers that are wanted stand among those that are known, both ascending."""
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return places[known[places] == wanted]
