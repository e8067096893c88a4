"""ParallelLoss: the mean loss over the data of several processes, and its gradient.

Each process computes for its own part, as if it were alone, and never waits meanwhile for the others: where one halves
its batches or looks at a first product, they need not. What they have found is added up, each times its share of all
loss terms; an error of one is an error of all.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import numpy as np

from specop.arrays.backend import Array
from specop.arrays.layout import Layout
from specop.arrays.processes import Processes
from specop.errors import InvalidInputError
from specop.krylov.task import level_of_user
from specop.objectives.data import Batches, Fingerprint, no_terms
from specop.objectives.mean import Objective
from specop.objectives.team import Team, attempt

__all__ = ["ParallelLoss"]

T = TypeVar("T")


class ParallelLoss(Objective):
    """What an objective of several processes is before its samples and its matrices.

    All processes make each call together. Vectors are held by all of them together, n/R entries each; parameters, and
    what `unflatten` returns, by each. Samples are numbered process after process.

    Parameters
    ----------
    own : Objective
        Of this process's data.
    team : Team
    """

    def __init__(self, own: Objective, team: Team) -> None:
        # Not that of the base, so that what this class does not know fails instead of answering for a part.
        self.own = own
        self.team = team
        processes = team.processes
        with processes.together():
            team.check_data(own._data.given)
            own._data.is_part = processes.count > 1
            counts = own.terms, own.samples, own._data.first_shapes, own._data.fingerprint()
        told = processes.exchange(counts)
        _check_parts(own._data, told)
        doubt = _repeated([samples for _, samples, *_ in told], [seen for *_, seen in told])
        with processes.together():
            if doubt and processes.index == 0:
                warnings.warn(doubt, UserWarning, stacklevel=level_of_user())
        self._count([(terms, samples) for terms, samples, *_ in told])
        self.check_alike()

    def _count(self, told: Sequence[tuple[float, int]]) -> None:
        """Take down the numbers of terms and samples of each process."""
        self._terms, self._samples = ([*numbers] for numbers in zip(*told, strict=True))
        if not sum(self._terms) > 0:
            raise no_terms()
        if not self.is_idle:
            self.own._data.first_sample = self.first

    def _of(self, own: Objective | None, told: Sequence[tuple[float, int]]) -> Self:
        """Return the mean over some of the data, of which this process has `own`, or None."""
        made = object.__new__(type(self))
        # One that is idle is asked for all but what its data give.
        made.own, made.team = self.own if own is None else own, self.team
        made._count(told)
        return made

    # What is shared by all
    def check_alike(self) -> None:
        """Raise InvalidInputError, naming arrays, unless all processes have the same model."""
        processes, autodiff = self.team.processes, self.own._autodiff
        if processes.count == 1:
            return
        told = processes.exchange((autodiff.names, zlib.crc32(repr(autodiff.fingerprint()).encode())))
        if all(one == told[0] for one in told):
            return
        states = processes.exchange(autodiff.named_checksums())
        other = next(number for number, one in enumerate(told) if one != told[0])
        names = [name for name in states[0] if states[other].get(name) != states[0][name]]
        names += [name for name in states[other] if name not in states[0]]
        if not names:
            raise InvalidInputError(
                f"the models of processes 0 and {other} of {processes.count} differ in the modes of their layers or in "
                f"what is selected: call model.eval() in each process, and select the same parameters."
            )
        raise InvalidInputError(
            f"the models of processes 0 and {other} of {processes.count} differ in {len(names)} parameters or buffers, "
            f"such as {names[0]!r}: their curvature would be that of no model. Send those of one to all, such as by "
            f"torch.distributed.broadcast(tensor, 0) for each; batch normalization keeps other running statistics in "
            f"each process."
        )

    @property
    def processes(self) -> Processes:
        """Those that make each call together."""
        return self.team.processes

    @property
    def shares(self) -> list[float]:
        """Each process's share of all loss terms."""
        total = sum(self._terms)
        return [terms / total for terms in self._terms]

    @property
    def share(self) -> float:
        """The share of this process in all loss terms."""
        return self.shares[self.processes.index]

    @property
    def is_idle(self) -> bool:
        """Whether this process has no part of the data, and only waits for what the others add up."""
        return self._terms[self.processes.index] == 0

    @property
    def first(self) -> int:
        """Number of this process's first sample."""
        return sum(self._samples[: self.processes.index])

    def sum(self, compute: Callable[[], Array], factor: float, whole: Layout) -> Array:
        """Return the sum over processes of what each computes, a vector, times its factor."""
        part, error = (None, None) if self.is_idle else attempt(compute)
        found, failed = self.team.sum(part, factor, whole, error is not None)
        if failed:
            self.team.processes.raise_together(error)
        return found

    def all_together(self, compute: Callable[[], T]) -> list[T]:
        """Return what each process computes."""
        with self.team.processes.together():
            found = compute()
        return self.team.processes.exchange(found)

    # What an objective is
    @property
    def n(self) -> int:
        """Number of selected parameters."""
        return self.own.n

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the selected parameters, in the order of the vector."""
        return self.own.names

    @property
    def slices(self) -> dict[str, slice]:
        """Where the entries of each parameter stand in a vector."""
        return self.own.slices

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter."""
        return self.own.shapes

    @property
    def samples(self) -> int:
        """Number of samples in the data of all processes."""
        return sum(self._samples)

    @property
    def terms(self) -> float:
        """Number of loss terms in the data of all processes."""
        return sum(self._terms)

    @property
    def theta(self) -> Array:
        """The current values of the selected parameters, a copy as a vector that all processes hold together."""
        return self.team.own(self.own.theta)

    def flatten(self, tree: Any) -> Array:
        """Return a parameter structure, the same in each process, as a vector that they hold together."""
        return self.team.own(self.own.flatten(tree))

    def unflatten(self, vector: Array) -> Any:
        """Return a vector in the structure of the parameters, whole in each process."""
        self._check(vector, "the vector")
        return self.own.unflatten(self.team.whole(vector))

    def loss(self, theta: Array | None = None) -> Array:
        """Return the mean loss as a native scalar, the same bits in each process; see `MeanLoss.loss`."""
        at = self._at_all(theta)
        self.check_alike()
        return self._total(*self._attempt(lambda: self.own.loss(at)))

    def gradient(self, theta: Array | None = None) -> Array:
        """Return the gradient of the mean loss as a vector that all processes hold together."""
        at = self._at_all(theta)
        self.check_alike()
        return self.sum(lambda: self.own.gradient(at), self.share, self._layout)

    def loss_and_gradient(self, theta: Array | None = None) -> tuple[Array, Array]:
        """Return the mean loss and its gradient from one pass over the data."""
        at = self._at_all(theta)
        self.check_alike()
        found, error = self._attempt(lambda: self.own.loss_and_gradient(at))
        loss = self._total(None if found is None else found[0], error)
        return loss, self.team.sum(None if found is None else found[1], self.share, self._layout, False)[0]

    def restrict(self, select: Any) -> Self:
        """Return the objective as a function of a part of its parameters; the others stay where they are."""
        with self.processes.together():
            own = self.own.restrict(select)
        made = self._of(own, [*zip(self._terms, self._samples, strict=True)])
        made.check_alike()
        return made

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold the model of each process in evaluation mode; see `MeanLoss.evaluating`."""
        with self.own.evaluating():
            yield

    def release(self) -> None:
        """Free the linearizations that are kept for further products; they are made again when needed."""
        if not self.is_idle:
            self.own.release()

    def __repr__(self) -> str:
        return f"{repr(self.own)[:-1]}, data of {self.processes.count} processes>"

    @property
    def _layout(self) -> Layout:
        return self.own._autodiff.layout

    def _check(self, vector: Array, what: str) -> None:
        self.team.backend.check_vector(vector, self.team.layout(self._layout), what)

    def _at_all(self, theta: Array | None) -> Array | None:
        if theta is None:
            return None
        self._check(theta, "theta")
        return self.team.whole(theta)

    def _attempt(self, compute: Callable[[], T]) -> tuple[T | None, BaseException | None]:
        return (None, None) if self.is_idle else attempt(compute)

    def _total(self, part: Array | None, error: BaseException | None) -> Array:
        if part is not None and not all(self._terms):
            # Processes that have no loss do not know its dtype.
            part = self.own._autodiff.backend.cast(part, np.dtype(np.float64))
        found, failed = self.team.total(part, self.share, error is not None)
        if failed:
            self.processes.raise_together(error)
        return found


def _check_parts(data: Batches, told: Sequence[tuple[float, int, Any, Fingerprint]]) -> None:
    for number, (_, _, shapes, seen) in enumerate(told):
        if number and shapes != told[0][2] and None not in (shapes, told[0][2]):
            raise data.unlike(f"the first batch of process {number}", shapes, told[0][2])
        for earlier in range(number):
            if seen.batches and told[earlier][3].batches == seen.batches:
                raise InvalidInputError(
                    f"processes {earlier} and {number} of {len(told)} have the same data, to the last bit. With "
                    f"parallel=True each is to have a part of all, as by torch.utils.data.DistributedSampler(dataset, "
                    f"shuffle=False); where each has all data pass parallel=False."
                )


def _repeated(samples: Sequence[int], seen: Sequence[Fingerprint]) -> str:
    """Return why samples may come twice, as in lists of batches that were made by a sampler which fills them up."""
    last = len(seen) - 1
    if len(set(samples)) > 1 or seen[last].last is None:
        return ""
    places = [
        (number, one.ahead.index(seen[last].last))
        for number, one in enumerate(seen[:last])
        if seen[last].last in one.ahead
    ]
    if not places:
        return ""
    number, place = places[0]
    return (
        f"the last sample of process {last} is sample {place} of process {number} to the last bit, and all {len(seen)} "
        f"processes have {samples[0]}: so fill samplers up what cannot be divided (DistributedSampler, even_batches of "
        f"accelerate), and what comes twice counts twice in the mean. Then give each process its own part, such as "
        f"torch.utils.data.Subset(dataset, range(rank, len(dataset), {len(seen)})) without a sampler; parts need not "
        f"be of the same size. Where your data hold equal samples, there is nothing to do."
    )
