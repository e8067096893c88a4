"""ParallelObjective: the mean loss over the data of several processes, each of which has the parameters and a part."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from specop.arrays.backend import Array, Backend
from specop.arrays.layout import Layout
from specop.arrays.processes import Processes
from specop.errors import InvalidInputError
from specop.objectives.curvature import CurvatureOperator
from specop.objectives.data_parallel import DataParallel, ParallelCurvature, ParallelJacobian
from specop.objectives.data_parts import DataParts, checked_parts
from specop.objectives.importance import weights_of
from specop.objectives.mean import Objective
from specop.objectives.select import checked_samples
from specop.objectives.team import Team
from specop.objectives.update_rule import UpdateRule
from specop.statistics.numbers import Floats, Integers

__all__ = ["ParallelObjective"]


class ParallelObjective(Objective):
    """The mean loss over the data of several processes; made by ``objective(..., parallel=True)``.

    All processes make each call together. Vectors are held by all of them together, n/R entries each; parameters, and
    what `unflatten` returns, by each. Samples are numbered process after process.

    Parameters
    ----------
    own : Objective
        Objective of this process's data.
    team : Team
    """

    def __init__(self, own: Objective, team: Team) -> None:
        # Not that of the base, so that what this class does not know fails instead of answering for a part.
        self._hold(own, checked_parts(own, team))

    def _hold(self, own: Objective, parts: DataParts) -> None:
        self.own, self.parts, self.team = own, parts, parts.team

    def _of(self, own: Objective | None, told: Sequence[tuple[float, int]]) -> Self:
        """Return the mean over some of the data, of which this process has `own`, or None."""
        made = object.__new__(type(self))
        # One that is idle is asked for all but what its data give.
        own = self.own if own is None else own
        made._hold(own, DataParts(own, self.team, told))
        return made

    @property
    def backend(self) -> Backend:
        """Backend of the vectors that all processes hold together."""
        return self.team.backend

    @property
    def processes(self) -> Processes:
        """Those that make each call together."""
        return self.team.processes

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
    def output_axis(self) -> int:
        """Axis of a parameter of two or more dimensions that the outputs of the framework's own layers lie along."""
        return self.own.output_axis

    @property
    def samples(self) -> int:
        """Number of samples in the data of all processes."""
        return self.parts.samples

    @property
    def terms(self) -> float:
        """Number of loss terms in the data of all processes."""
        return sum(self.parts.terms)

    @property
    def theta(self) -> Array:
        """The current values of the selected parameters, a copy as a vector that all processes hold together."""
        return self.team.own(self.own.theta)

    def flatten(self, tree: Any) -> Array:
        """Return a parameter structure, the same in each process, as a vector that they hold together."""
        return self.team.own(self.own.flatten(tree))

    def unflatten(self, vector: Array) -> Any:
        """Return a vector in the structure of the parameters, whole in each process."""
        self.processes.agree()
        self._check(vector, "the vector")
        return self.own.unflatten(self.team.whole(vector))

    def loss(self, theta: Array | None = None) -> Array:
        """Return the mean loss as a native scalar, the same bits in each process; see `MeanLoss.loss`."""
        at = self._at_all(theta)
        return self.parts.mean(*self.parts.attempt(lambda: self.own.loss(at)))

    def gradient(self, theta: Array | None = None) -> Array:
        """Return the gradient of the mean loss as a vector that all processes hold together."""
        at = self._at_all(theta)
        return self.parts.sum(lambda: self.own.gradient(at), self.parts.share, self._layout)

    def loss_and_gradient(self, theta: Array | None = None) -> tuple[Array, Array]:
        """Return the mean loss and its gradient from one pass over the data."""
        at = self._at_all(theta)
        found, error = self.parts.attempt(lambda: self.own.loss_and_gradient(at))
        loss = self.parts.mean(None if found is None else found[0], error)
        return loss, self.team.sum(None if found is None else found[1], self.parts.share, self._layout, False)[0]

    def restrict(self, select: Any) -> Self:
        """Return the objective as a function of a part of its parameters; the others stay where they are."""
        with self.processes.together():
            own = self.own.restrict(select)
        made = self._of(own, [*zip(self.parts.terms, self.parts.counts, strict=True)])
        made.parts.check_alike()
        return made

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold the model of each process in evaluation mode; see `MeanLoss.evaluating`."""
        with self.own.evaluating():
            yield

    def release(self) -> None:
        """Free the linearizations that are kept for further products; they are made again when needed."""
        if not self.parts.is_idle:
            self.own.release()

    def __repr__(self) -> str:
        return f"{repr(self.own)[:-1]}, data of {self.processes.count} processes>"

    @property
    def _layout(self) -> Layout:
        return self.own._autodiff.layout

    def _check(self, vector: Array, what: str) -> None:
        self.team.backend.check_vector(vector, self.team.layout(self._layout), what)

    def _at_all(self, theta: Array | None) -> Array | None:
        self.parts.check_alike()
        if theta is None:
            return None
        self._check(theta, "theta")
        return self.team.whole(theta)

    # Samples
    def per_sample_gradients(self, theta: Array | None = None, *, block_bytes: int | None = None) -> Iterator[Array]:
        """Yield the gradients of single samples, rows that all processes hold together, one process after the other.

        Those of a process are computed there while the others wait. See `MeanLoss.per_sample_gradients`.
        """
        blocks = self._own_rows(theta, block_bytes)
        nothing = [0] * self.processes.count
        for owner in range(self.processes.count):
            while True:
                block, counts = self._next_rows(blocks if owner == self.processes.index else iter(()))
                if counts == nothing:
                    break
                yield self.team.rows(block, counts, self._layout)

    def numbered_gradients(self, theta: Array | None = None) -> Iterator[tuple[Integers, Array]]:
        """Yield the same with the samples' numbers, in blocks of what all processes compute at the same time."""
        blocks = self._own_rows(theta, None)
        starts = np.cumsum([0, *self.parts.counts])[:-1]
        while True:
            block, counts = self._next_rows(blocks)
            if not any(counts):
                return
            numbers = [start + np.arange(count) for start, count in zip(starts, counts, strict=True)]
            starts = starts + counts
            yield np.concatenate(numbers), self.team.rows(block, counts, self._layout)

    def _own_rows(self, theta: Array | None, block_bytes: int | None) -> Iterator[Array]:
        at = self._at_all(theta)
        with self.processes.together():
            blocks = self.own.per_sample_gradients(at, block_bytes=block_bytes)
        return iter(()) if self.parts.is_idle else blocks

    def _next_rows(self, blocks: Iterator[Array]) -> tuple[Array | None, list[int]]:
        """Return the next block of this process's, as parts of the mean over all samples, and the sizes of all."""
        backend, own = self.own._autodiff.backend, self.parts.counts[self.processes.index]
        with self.processes.together():
            block = next(blocks, None)
            if block is not None:
                block = backend.scale_(block, self.parts.share * self.samples / own)
        return block, self.processes.exchange(0 if block is None else backend.shape(block)[0])

    def importance(self, theta: Array | None = None) -> Floats:
        """Return how much each sample may add to the curvature; see `MeanLoss.importance`."""
        at = self._at_all(theta)

        def own() -> Floats | None:
            point = self.own._at(at)
            with point.staying():
                return weights_of(point)

        return self.parts.importance(own)

    def batches(self) -> list[Self]:
        """Return an objective of each batch, those of one process after the other's.

        In each of them one process computes, and the others wait. See `MeanLoss.batches`.
        """
        with self.processes.together():
            own = [] if self.parts.is_idle else self.own.batches()
            counts = [(one.terms, one.samples) for one in own]
        told = self.processes.exchange(counts)
        nothing = [(0.0, 0)] * self.processes.count
        return [
            self._of(
                own[number] if owner == self.processes.index else None,
                [*nothing[:owner], count, *nothing[owner + 1 :]],
            )
            for owner, counts in enumerate(told)
            for number, count in enumerate(counts)
        ]

    def check_numbered(self) -> None:
        """Raise NondeterministicError in all processes if one has a loader that shuffles or augments."""
        with self.processes.together():
            self.own.check_numbered()

    def subset(self, indices: ArrayLike) -> Self:
        """Return the mean loss over some of the samples, the same in each process; see `MeanLoss.subset`.

        A process that has none of them waits for the others.
        """
        with self.processes.together():
            chosen = np.sort(checked_samples(indices, self.samples))
            mine = self.parts.own_numbers(chosen)
            own = self.own.subset(mine) if len(mine) else None
            counts = (0.0, 0) if own is None else (own.terms, own.samples)
        told = self.processes.exchange((counts, zlib.crc32(chosen.tobytes())))
        other = next((number for number, (_, sum_) in enumerate(told) if sum_ != told[0][1]), None)
        if other is not None:
            raise InvalidInputError(
                f"processes 0 and {other} of {self.processes.count} have chosen different samples: all of them pass "
                f"the same indices, which count the samples of one process after the other's. Seed what draws them."
            )
        return self._of(own, [one for one, _ in told])

    # Matrices
    def hessian(self, theta: Array | None = None) -> Any:
        """Return the Hessian of the mean loss over the data of all processes; see `Matrices.hessian`."""
        return self._curvature(lambda at: self.own.hessian(at), theta)

    def ggn(self, theta: Array | None = None) -> Any:
        """Return the generalized Gauss-Newton matrix over the data of all processes; see `Matrices.ggn`."""
        return self._curvature(lambda at: self.own.ggn(at), theta)

    def fisher(
        self,
        theta: Array | None = None,
        *,
        kind: str = "exact",
        of: str | None = None,
        draws: int = 1,
        seed: int = 0,
    ) -> Any:
        """Return a Fisher matrix over the data of all processes; see `Matrices.fisher`.

        Draws belong to a sample's number, and samples are numbered process after process.
        """
        if isinstance(theta, str):
            raise InvalidInputError(f"theta is a parameter vector, got {theta!r}. Pass fisher(kind={theta!r}).")
        return self._curvature(lambda at: self.own.fisher(at, kind=kind, of=of, draws=draws, seed=seed), theta)

    def finite_difference_hessian(self, theta: Array | None = None) -> Any:
        """Return the Hessian by differences of gradients; each process takes its own step."""
        at = self._at_all(theta)
        with self.processes.together():
            own = self.own.finite_difference_hessian(at)
        return DataParallel(own, self.parts, self.parts.share)

    def jacobian(self, theta: Array | None = None) -> Any:
        """Return the Jacobian of all outputs, those of one process after the other's; see `Matrices.jacobian`."""
        at = self._at_all(theta)
        with self.processes.together():
            own = self.own.jacobian(at)
        return ParallelJacobian(own, self.parts)

    def update_rule(self, optimizer: Any, gradient: Array) -> UpdateRule:
        """Return what an optimizer that is the same in each process does; see `MeanLoss.update_rule`."""
        self.processes.agree()
        whole = self.team.whole(gradient)
        with self.processes.together():
            rule = self.own.update_rule(optimizer, whole)
            vectors = [one for one in (rule.scale, rule.average) if one is not None]
            state = self.own._autodiff.batch_fingerprint(vectors)
        told = self.processes.exchange((rule.name, rule.steps, rule.scale is None, rule.average is None, state))
        other = next((number for number, one in enumerate(told) if one != told[0]), None)
        if other is not None:
            raise InvalidInputError(
                f"the optimizers of processes 0 and {other} of {self.processes.count} differ in their settings or in "
                f"their state: {rule.name} would take other steps in each. Load the state of one in all, "
                f"optimizer.load_state_dict(...)."
            )
        own = [None if one is None else self.team.own(one) for one in (rule.scale, rule.average)]
        return replace(rule, scale=own[0], average=own[1])

    def _curvature(self, make: Callable[[Any], CurvatureOperator], theta: Array | None) -> ParallelCurvature:
        at = self._at_all(theta)
        with self.processes.together():
            own = make(at)
        factor = self.parts.share
        if own.products[0].matrix.kind == "empirical fisher of samples" and not self.parts.is_idle:
            # The mean over samples of g g', where g is the number of samples times what one adds to the mean gradient.
            factor *= factor * self.samples / self.parts.counts[self.processes.index]
        return ParallelCurvature(own, self.parts, factor)
