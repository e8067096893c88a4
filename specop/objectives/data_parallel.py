"""Operators of an objective whose data several processes have in parts: the sum of each one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from specop.arrays.backend import Array
from specop.objectives.curvature import CurvatureOperator
from specop.objectives.data_parts import DataParts
from specop.objectives.parallel_part import ParallelSampleMean
from specop.objectives.products import Plan
from specop.operators.operator import LinearOperator

__all__ = ["DataParallel", "ParallelCurvature", "ParallelJacobian"]

_COUNTS = ("batches", "kept", "linearized", "recomputed", "bytes")


class DataParallel(LinearOperator):
    """The sum over processes of each one's operator times a factor.

    A product takes the vector whole in each process, one product with each operator at the same time, and the sum:
    of n entries of b bytes in R processes each sends and receives ``2 n b (R - 1) / R`` bytes.

    Parameters
    ----------
    own : LinearOperator
        Operator of this process's data, on vectors that it has whole.
    parts : DataParts
        Parts of the data, of which this process has one.
    factor : float
        Number that this process's operator is multiplied by in the sum.
    """

    def __init__(self, own: LinearOperator, parts: DataParts, factor: float) -> None:
        team = parts.team
        super().__init__(
            team.backend,
            team.layout(own.domain),
            None if own.domain == own.codomain else team.layout(own.codomain),
            is_symmetric=own.is_symmetric,
            is_psd=own.is_psd,
        )
        self.own = own
        self.parts = parts
        self.factor = factor
        self._is_watched = False
        processes = team.processes
        self._precision = max(processes.exchange(own.precision))
        self._notes = own.notes

    def _matvec(self, x: Array) -> Array:
        whole = self.parts.team.whole(x)
        return self.parts.sum(lambda: self.own._matvec(whole), self.factor, self.own.codomain)

    def _rmatvec(self, y: Array) -> Array:
        whole = self.parts.team.whole(y)
        return self.parts.sum(lambda: self.own._rmatvec(whole), self.factor, self.own.domain)

    @contextmanager
    def session(self) -> Iterator[None]:
        if self._is_watched:
            yield
            return
        processes = self.parts.processes
        with ExitStack() as stack:
            with processes.together():
                stack.enter_context(self.own.session())
            self.parts.check_alike()
            self._is_watched = True
            try:
                yield
            finally:
                self._is_watched = False
            # Where something was raised inside, all of them have left already, and for the same reason.
            with processes.together():
                stack.close()
            self._notes = tuple(dict.fromkeys(note for notes in processes.exchange(self.own.notes) for note in notes))

    @property
    def precision(self) -> float:
        return max(self._precision, self.own.precision)

    @property
    def working_bytes(self) -> int:
        # The vector whole, as it comes and as it goes.
        whole = self.own.backend.row_bytes(self.own.domain) + self.own.backend.row_bytes(self.own.codomain)
        return super().working_bytes + self.own.working_bytes + whole

    @property
    def samples(self) -> int:
        return self.parts.samples

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    def flatten(self, tree: Any) -> Array | None:
        vector = self.own.flatten(tree)
        return None if vector is None else self.parts.team.own(vector)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return self.own.parameter_shapes

    def unflatten(self, vector: Array) -> Any:
        return self.own.unflatten(self.parts.team.whole(vector))


class ParallelCurvature(DataParallel):
    """A curvature matrix of the data of all processes.

    Parameters
    ----------
    own : CurvatureOperator
        Curvature matrix of this process's data.
    parts : DataParts
        Parts of the data, of which this process has one.
    factor : float
        Number that this process's operator is multiplied by in the sum.
    """

    own: CurvatureOperator

    @property
    def sample_mean(self) -> ParallelSampleMean:
        """The same matrix as a mean over the samples of all processes."""
        return ParallelSampleMean(self.own.sample_mean, self.parts)

    def plan(self) -> Plan:
        """Return how all processes compute products; batches that are not linearized yet are."""
        with self.session():
            plans = self.parts.all_together(lambda: None if self.parts.is_idle else self.own.plan())
        known = [(share, plan) for share, plan in zip(self.parts.shares, plans, strict=True) if plan is not None]
        cost = sum(share * plan.cost for share, plan in known)
        return Plan(**{name: sum(getattr(plan, name) for _, plan in known) for name in _COUNTS}, cost=cost)

    def block_diagonal(self, blocks: Sequence[Any] | None = None) -> LinearOperator:
        """Return the matrix without what couples different blocks; see `CurvatureOperator.block_diagonal`."""
        return self._part(lambda: self.own.block_diagonal(blocks))

    def coupling(self, rows: Any, columns: Any) -> LinearOperator:
        """Return the block that couples two parts of the parameters; see `CurvatureOperator.coupling`."""
        return self._part(lambda: self.own.coupling(rows, columns))

    def _part(self, make: Callable[[], LinearOperator]) -> LinearOperator:
        with self.parts.processes.together():
            own = make()
        return DataParallel(own, self.parts, self.factor)


class ParallelJacobian(DataParallel):
    """The Jacobian of the outputs of all processes, those of one after the other's.

    A product takes the vector whole in each process; one process's outputs are added to zeros of all the others'.

    Parameters
    ----------
    own : LinearOperator
        The Jacobian of this process's outputs.
    parts : DataParts
        Parts of the data, of which this process has one.
    """

    def __init__(self, own: LinearOperator, parts: DataParts) -> None:
        super().__init__(own, parts, 1.0)
        counts = parts.all_together(lambda: 0 if parts.is_idle else own.codomain.n)
        first = sum(counts[: parts.processes.index])
        self._places = np.arange(first, first + own.codomain.n, dtype=np.intp)
        self._outputs = own.codomain.of_length(sum(counts))
        self.codomain = parts.team.layout(self._outputs)

    def _matvec(self, x: Array) -> Array:
        whole, backend = self.parts.team.whole(x), self.own.backend
        return self.parts.sum(
            lambda: backend.scatter(self.own._matvec(whole), self._places, self._outputs), 1.0, self._outputs
        )

    def _rmatvec(self, y: Array) -> Array:
        whole, backend = self.parts.team.whole(y), self.own.backend
        return self.parts.sum(lambda: self.own._rmatvec(backend.gather(whole, self._places)), 1.0, self.own.domain)
